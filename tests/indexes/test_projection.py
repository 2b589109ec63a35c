"""Lists of short codes behind a projection keep the contract, and are stored and refused as what they are."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from indexes import (
    DamagedArtefact,
    Index,
    IvfIndex,
    LiveIndex,
    build_exact,
    build_index,
    build_ivf,
    build_with_report,
    load_index,
    recall,
    save_index,
)
from indexes.kernel import transform_of
from indexes.projection import learn_projection
from tests.indexes import contract
from tests.indexes.contract import N_ITEMS, IndexContract, make_queries
from tests.indexes.test_storage import N_HOSTILE, forge

DIM, N_OWN = 96, 40


def make_vectors(n_items: int = N_ITEMS, *, seed: int = 0, dim: int = DIM) -> np.ndarray:
    """Unit vectors that lie in N_OWN of their dimensions, save for a little noise."""
    rng = np.random.default_rng(seed)
    own = contract.make_vectors(n_items, N_OWN, seed=seed)
    axes = np.linalg.qr(np.random.default_rng(9).normal(size=(dim, dim)))[0][:N_OWN]
    vectors = own @ axes + 0.02 / np.sqrt(dim) * rng.normal(size=(n_items, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return make_vectors()


@pytest.fixture(scope="module")
def index(vectors: np.ndarray) -> Index:
    return build_index(vectors, family="ivf_pq", queries=make_queries(vectors, 300, seed=5))


class TestProjected(IndexContract):
    dim = DIM

    def test_it_is_projected(self, index: IvfIndex) -> None:
        assert index.projected
        assert index.params["n_dims"] == index.lists.d == 48  # the first multiple of 16 over 40
        assert index.params["code_bits"] == 8

    @pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
    def test_filters_keep_the_recall(self, index: Index, vectors: np.ndarray, share: float) -> None:
        queries = make_queries(vectors, 150, seed=3)
        side = vectors @ vectors[17]
        for allowed in (np.random.default_rng(8).random(N_ITEMS) < share, side >= np.quantile(side, 1 - share)):
            truth = build_exact(vectors).search(queries, 100, allowed=allowed)
            assert recall(index.search(queries, 100, allowed=allowed), truth) >= 0.95

    def test_saved_and_loaded_it_answers_the_same(self, index: IvfIndex, queries: np.ndarray, tmp_path: Path) -> None:
        save_index(index, tmp_path / "saved")
        loaded = load_index(tmp_path / "saved")
        assert isinstance(loaded, IvfIndex)
        assert loaded.projected
        assert dict(loaded.params) == dict(index.params)
        allowed = np.arange(N_ITEMS) % 3 == 0
        for mask in (None, allowed):
            found, expected = (which.search(queries, 20, allowed=mask) for which in (loaded, index))
            np.testing.assert_array_equal(found.rows, expected.rows)

    def test_plain_faiss_opens_it(
        self, index: IvfIndex, vectors: np.ndarray, queries: np.ndarray, tmp_path: Path
    ) -> None:
        save_index(index, tmp_path / "saved")
        plain = faiss.read_index(str(tmp_path / "saved" / "index.faiss"))
        assert (plain.d, plain.ntotal) == (DIM, N_ITEMS)
        scores, rows = plain.search(queries, 1)
        np.testing.assert_allclose(scores[:, 0], (queries * vectors[rows[:, 0]]).sum(axis=1), atol=0.02)

    def test_a_delta_lies_beside_it(self, index: Index, vectors: np.ndarray) -> None:
        live = LiveIndex(index, vectors)
        rows = live.add(make_vectors(5, seed=7))
        live.remove(np.array([3]))
        found = live.search(np.concatenate([make_vectors(5, seed=7), vectors[3:4]]), 3).rows
        assert found[:5, 0].tolist() == rows.tolist()
        assert 3 not in found[5]


def test_the_same_seed_learns_the_same_projection(vectors: np.ndarray) -> None:
    queries = make_queries(vectors, 100)
    one, same, other = (
        learn_projection(vectors, queries, n_items=len(vectors), keep=0.975, seed=seed) for seed in (3, 3, 4)
    )
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(one @ one.T, np.eye(len(one)), atol=1e-5)
    np.testing.assert_allclose(other.T @ other, one.T @ one, atol=1e-4)  # the same directions, turned otherwise


@pytest.mark.parametrize(
    ("given", "keep"),
    [
        (make_vectors(2_000, dim=48), 0.975),  # too few dimensions to save any
        (contract.make_vectors(2_000, DIM), 0.975),  # all dimensions matter
        (make_vectors(DIM - 1), 0.975),  # too few vectors to tell
        (make_vectors(2_000), 1.0),
    ],
)
def test_where_it_does_not_pay_there_is_no_projection(given: np.ndarray, keep: float) -> None:
    assert learn_projection(given, None, n_items=len(given), keep=keep, seed=0) is None
    assert not build_ivf(given, family="ivf_pq", keep=keep, n_lists=10).projected


def test_a_high_target_is_met_without_a_projection(vectors: np.ndarray) -> None:
    built, _ = build_with_report(vectors, family="ivf_pq", recall_target=0.98)
    assert isinstance(built, IvfIndex)
    assert not built.projected


def test_a_target_missed_behind_a_projection_is_tried_without(
    vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexes.choose.KEEP", 0.3)
    built, report = build_with_report(vectors, family="ivf_pq", queries=make_queries(vectors, 200))
    assert isinstance(built, IvfIndex)
    assert not built.projected
    assert report.reached


@pytest.mark.parametrize("keep", [0, 1.5])
def test_a_share_that_makes_no_sense_is_refused(vectors: np.ndarray, keep: float) -> None:
    with pytest.raises(ValueError, match="keep: expected a share over 0 and at most 1, got"):
        build_ivf(vectors, family="ivf_pq", keep=keep)


def test_queries_that_are_no_numbers_are_refused(vectors: np.ndarray) -> None:
    with pytest.raises(ValueError, match="queries: expected finite numbers"):
        build_ivf(vectors, family="ivf_pq", queries=np.full((5, DIM), np.nan, dtype=np.float32))


def test_hostile_files_are_refused_or_harmless(index: Index, tmp_path: Path) -> None:
    save_index(index, tmp_path / "saved")
    command = [sys.executable, "-m", "tests.indexes.hostile_driver", str(tmp_path / "saved"), str(N_HOSTILE)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    assert seen["honest"] == "loaded"
    assert set(seen["ends"]) <= {"refused", "loaded"}
    assert seen["worst_kib"] < 1.5 * seen["honest_kib"]


@pytest.mark.parametrize("kind", ["shift", "two", "rotation", "flat"])
def test_another_structure_is_refused(index: Index, tmp_path: Path, kind: str) -> None:
    save_index(index, tmp_path / "saved")
    stored: Any = faiss.read_index(str(tmp_path / "saved" / "index.faiss"))
    inner = stored.index
    given = transform_of(stored)
    plain = faiss.LinearTransform(DIM, inner.d, kind == "shift")
    faiss.copy_array_to_vector(faiss.vector_to_array(given.A), plain.A)
    faiss.copy_array_to_vector(np.zeros(inner.d if kind == "shift" else 0, dtype=np.float32), plain.b)
    rotation, turn = faiss.RandomRotationMatrix(DIM, inner.d), faiss.RandomRotationMatrix(DIM, DIM)
    rotation.init(0)
    turn.init(0)
    flat = faiss.IndexFlatIP(inner.d)
    flat.add(np.zeros((N_ITEMS, inner.d), dtype=np.float32))  # type: ignore[call-arg]
    plain.is_trained = True
    other = faiss.IndexPreTransform(rotation if kind == "rotation" else plain, flat if kind == "flat" else inner)
    if kind == "two":
        other.prepend_transform(turn)
    forge(tmp_path / "saved", other)
    with pytest.raises(DamagedArtefact, match="its projection does not fit its codes"):
        load_index(tmp_path / "saved")


def test_an_index_of_codes_alone_is_read_still(vectors: np.ndarray, queries: np.ndarray, tmp_path: Path) -> None:
    built = build_ivf(vectors, family="ivf_pq", keep=1, code_bits=6)
    save_index(built, tmp_path / "saved")
    assert (tmp_path / "saved" / "index.faiss").read_bytes()[:4] == b"IxRF"
    np.testing.assert_array_equal(load_index(tmp_path / "saved").search(queries, 9).rows, built.search(queries, 9).rows)
