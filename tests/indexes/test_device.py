"""The copies of an index on a GPU keep the contract, and only the CPU's own is stored.

There need be no GPU: torch runs the same code on the CPU, and clones on the CPU stand in for FAISS's copies on a GPU.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from indexes import (
    Index,
    IvfIndex,
    build_exact,
    build_index,
    build_ivf,
    exact_torch,
    gpu,
    ivf_gpu,
    load_index,
    on_device,
    save_index,
)
from indexes.device import DeviceIndex
from indexes.exact_torch import TorchExactIndex
from indexes.ivf_gpu import GpuIvfIndex
from indexes.kernel import CagraGraph
from tests.indexes import test_projection
from tests.indexes.contract import N_ITEMS, IndexContract, make_queries

ON = "cuda" if torch.cuda.is_available() else "cpu"


def address(lists: Any) -> int:
    """Of the quantizer behind FAISS's Python object, which is a new one each time."""
    return int(lists.quantizer.this)


def clone(index: faiss.Index) -> faiss.Index:
    return faiss.clone_index(index)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """A FAISS that sees a GPU, whose copies are clones on the CPU."""
    monkeypatch.setattr(gpu, "n_gpus", lambda: 1)
    for module in (gpu, ivf_gpu):
        monkeypatch.setattr(module, "to_gpu", clone)


class TestTorchExact(IndexContract):
    @pytest.fixture
    def index(self, vectors: np.ndarray) -> Index:
        return TorchExactIndex.copy_of(build_exact(vectors), ON)

    def test_its_hits_are_those_of_faiss(self, index: Index, vectors: np.ndarray, queries: np.ndarray) -> None:
        allowed = np.arange(N_ITEMS) % 3 != 0
        for mask in (None, allowed, ~allowed):
            found, truth = (which.search(queries, 30, allowed=mask) for which in (index, build_exact(vectors)))
            np.testing.assert_allclose(found.scores, truth.scores, atol=1e-5)
            assert (found.rows == truth.rows).mean() > 0.999  # neighbours 1e-7 apart may change places

    def test_the_size_of_the_pieces_changes_no_hit(
        self, index: Index, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        allowed = np.random.default_rng(4).random(N_ITEMS) < 0.4
        masks = (None, allowed)
        expected = [index.search(queries, 40, allowed=mask) for mask in masks]
        monkeypatch.setattr(exact_torch, "QUERY_BLOCK", 10)
        monkeypatch.setattr(exact_torch, "MAX_CELLS", 700)  # pieces of 70 rows for ten queries
        for hits, mask in zip(expected, masks, strict=True):
            np.testing.assert_array_equal(index.search(queries, 40, allowed=mask).rows, hits.rows)

    def test_no_more_scores_are_held_than_the_limit_says(
        self, index: TorchExactIndex, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[int] = []

        def topk(scores: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            seen.append(scores.numel())
            return torch_topk(scores, *arguments, **options)

        torch_topk = torch.topk
        monkeypatch.setattr(torch, "topk", topk)
        monkeypatch.setattr(exact_torch, "MAX_CELLS", 6_400)
        index.search(queries, 10)
        assert max(seen) <= 6_400
        assert len(seen) > N_ITEMS // 100


def test_torch_orders_ties_by_lower_row_as_faiss_does(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.ones((300, 4), dtype=np.float32)
    vectors[200] = 2.0
    exact = build_exact(vectors)
    index = TorchExactIndex.copy_of(exact, ON)
    monkeypatch.setattr(exact_torch, "MAX_ROWS", 64)
    ones, odd = np.ones((2, 4), dtype=np.float32), np.arange(300) % 2 == 1
    assert index.search(ones, 120).rows[0].tolist() == [200, *range(119)]
    assert index.search(ones, 3, allowed=odd).rows[1].tolist() == [1, 3, 5]
    np.testing.assert_array_equal(index.search(ones, 120).scores, exact.search(ones, 120).scores)


@pytest.fixture(scope="module")
def built(vectors: np.ndarray) -> Callable[[str], Index]:
    """An index of each family that a GPU can search, by its name."""
    own = make_queries(vectors, 100, seed=5)
    known = {
        family: build_index(vectors, family=family, queries=own, recall_target=0.97, device="cpu")
        for family in ivf_gpu.GPU_FAMILIES
    }
    return known.__getitem__


@pytest.mark.usefixtures("pretend")
class TestGpuIvf(IndexContract):
    @pytest.fixture(params=ivf_gpu.GPU_FAMILIES)
    def index(self, request: pytest.FixtureRequest, built: Callable[[str], IvfIndex]) -> Index:
        return GpuIvfIndex.copy_of(built(request.param))

    def test_plain_searches_go_to_the_copy_and_filtered_or_deep_ones_to_the_cpu(
        self, index: GpuIvfIndex, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = index.cpu.search(queries, 10)
        monkeypatch.setattr(IvfIndex, "search", lambda *_, **__: pytest.fail("the CPU searched"))
        np.testing.assert_array_equal(index.search(queries, 10).rows, expected.rows)
        for k, allowed in ((ivf_gpu.MAX_GPU_K + 1, None), (3, np.arange(N_ITEMS) < 9)):
            with pytest.raises(pytest.fail.Exception, match="the CPU searched"):
                index.search(queries, k, allowed=allowed)


@pytest.mark.usefixtures("pretend")
@pytest.mark.parametrize("family", ["ivf", "ivf_sq8", "ivf_pq"])
def test_a_build_with_a_gpu_is_the_same_and_leaves_nothing_of_it_behind(family: str, vectors: np.ndarray) -> None:
    with_gpu, without = (build_ivf(vectors, family=family, n_lists=20, device=device) for device in ("auto", "cpu"))
    assert with_gpu.lists.clustering_index is None
    assert isinstance(faiss.downcast_index(with_gpu.lists.quantizer), faiss.IndexFlat)
    np.testing.assert_array_equal(with_gpu.search(vectors[:40], 20).rows, without.search(vectors[:40], 20).rows)


@pytest.mark.usefixtures("pretend")
def test_lists_behind_a_projection_are_built_with_a_gpu_too() -> None:
    vectors = test_projection.make_vectors()
    with_gpu, without = (build_ivf(vectors, family="ivf_pq", n_lists=20, device=device) for device in ("auto", "cpu"))
    assert with_gpu.projected
    assert with_gpu.lists.clustering_index is None
    assert isinstance(faiss.downcast_index(with_gpu.lists.quantizer), faiss.IndexFlat)
    np.testing.assert_array_equal(with_gpu.search(vectors[:40], 20).rows, without.search(vectors[:40], 20).rows)


def test_a_failed_build_gives_the_quantizer_back(pretend: None, vectors: np.ndarray) -> None:
    lists = build_ivf(vectors, n_lists=20).lists
    own = address(lists)

    def fail() -> None:
        with gpu.adding_on_gpu(lists, "auto"):
            assert address(lists) != own
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert address(lists) == own


def test_the_cpu_is_never_left_where_it_was_asked_for(pretend: None, vectors: np.ndarray) -> None:
    assert gpu.use_gpu("auto")
    assert gpu.use_gpu("cuda:0")
    assert not gpu.use_gpu("cpu")
    exact = build_exact(vectors)
    assert on_device(exact, "cpu") is exact


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_an_index_stays_where_it_is(vectors: np.ndarray) -> None:
    exact = build_exact(vectors)
    assert on_device(exact) is exact


def test_with_cuda_each_family_goes_where_it_can(
    pretend: None, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes = 2 * 4 * vectors.size
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free_bytes, free_bytes))
    copy_of = TorchExactIndex.copy_of
    monkeypatch.setattr(TorchExactIndex, "copy_of", lambda index, _device: copy_of(index, "cpu"))
    kinds = {family: type(on_device(build_index(vectors, family=family))) for family in ("exact", "ivf_sq8", "ivf_pq")}
    assert kinds == {"exact": TorchExactIndex, "ivf_sq8": GpuIvfIndex, "ivf_pq": IvfIndex}
    free_bytes -= 1
    exact = build_exact(vectors)
    assert on_device(exact) is exact


def test_what_is_stored_is_the_index_of_the_cpu(pretend: None, vectors: np.ndarray, tmp_path: Path) -> None:
    for place, index in enumerate((build_exact(vectors), build_ivf(vectors))):
        copied = TorchExactIndex.copy_of(index, ON) if place == 0 else GpuIvfIndex.copy_of(index)  # type: ignore[arg-type]
        assert isinstance(copied, DeviceIndex)
        save_index(copied, tmp_path / str(place))
        loaded = load_index(tmp_path / str(place))
        assert type(loaded) is type(index)
        np.testing.assert_array_equal(loaded.search(vectors[:9], 5).rows, index.search(vectors[:9], 5).rows)


def test_without_cuvs_cagra_says_what_to_install(vectors: np.ndarray) -> None:
    with pytest.raises(ImportError, match="pip install faiss-gpu-cuvs; or take hnsw"):
        build_index(vectors, family="cagra")


@pytest.fixture(scope="module")
def cagra(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """The graph that a conversion leaves, here built by the CPU, stored and loaded."""

    def train(checked: np.ndarray, _config: Any) -> Any:
        graph = CagraGraph(checked.shape[1], gpu.CAGRA_DEGREE // 2, faiss.METRIC_INNER_PRODUCT)
        graph.add(checked)
        return graph

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "n_gpus", lambda: 1)
        patch.setattr(gpu, "train_cagra", train)
        for name, stand_in in {"GpuIndexCagra": object, "GpuIndexCagraConfig": SimpleNamespace}.items():
            patch.setattr(faiss, name, stand_in, raising=False)
        patch.setattr(faiss, "index_gpu_to_cpu", lambda graph: graph, raising=False)
        graph = build_index(vectors, family="cagra", queries=make_queries(vectors, 100, seed=5))
    directory = tmp_path_factory.mktemp("cagra") / "saved"
    save_index(graph, directory)
    return load_index(directory)


class TestCagraOnTheCpu(IndexContract):
    @pytest.fixture
    def index(self, cagra: Index) -> Index:
        return cagra

    def test_it_says_its_family(self, index: Index) -> None:
        assert index.family == "cagra"
