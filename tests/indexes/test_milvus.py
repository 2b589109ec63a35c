"""The contract of the FAISS families kept by Milvus (milvus-lite, in this process), and what only Milvus promises."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from indexes import (
    DamagedArtefact,
    Index,
    Locked,
    build_exact,
    build_milvus,
    load_index,
    milvus,
    milvus_build,
    recall,
    save_index,
)
from indexes.check import check_apart
from indexes.milvus import MilvusIndex, filter_parts
from indexes.milvus_build import drop_collection, list_collections
from indexes.milvus_client import TOKEN_VARIABLE, connect
from indexes.vectors import vectors_fingerprint
from tests.indexes.contract import DIM, N_ITEMS, IndexContract, make_vectors


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database of milvus-lite, closed at the end: it is a server in a thread of this process."""
    from milvus_lite.server_manager import server_manager_instance

    place = str(tmp_path_factory.mktemp("milvus") / "items.db")
    yield place
    server_manager_instance.release_server(place)


@pytest.fixture(scope="module", params=milvus_build.KINDS)
def index(request: pytest.FixtureRequest, vectors: np.ndarray, uri: str) -> Index:
    return build_milvus(vectors, uri=uri, name="contract", kind=request.param)


class TestMilvus(IndexContract):
    def test_it_is_an_index(self, index: Index) -> None:
        assert isinstance(index, Index)
        assert index.family == "milvus"

    def test_a_filter_on_what_the_vectors_mean_keeps_the_recall(
        self, index: Index, vectors: np.ndarray, queries: np.ndarray
    ) -> None:
        side = vectors @ vectors[17]
        for share in (0.5, 0.05):
            allowed = side >= np.quantile(side, 1 - share)
            truth = build_exact(vectors).search(queries, 50, allowed=allowed)
            assert recall(index.search(queries, 50, allowed=allowed), truth) >= 0.95

    def test_saved_and_loaded_it_answers_the_same(self, index: Index, queries: np.ndarray, tmp_path: Path) -> None:
        save_index(index, tmp_path / "saved")
        loaded = load_index(tmp_path / "saved")
        assert (loaded.family, dict(loaded.params)) == (index.family, dict(index.params))
        np.testing.assert_array_equal(loaded.search(queries, 20).rows, index.search(queries, 20).rows)

    def test_the_vectors_come_back_as_they_were(self, index: Index, vectors: np.ndarray) -> None:
        assert isinstance(index, MilvusIndex)
        np.testing.assert_array_equal(index.vectors(), vectors)
        np.testing.assert_array_equal(index.reconstruct(np.array([7, 3, 7])), vectors[[7, 3, 7]])


@pytest.fixture(scope="module")
def flat(vectors: np.ndarray, uri: str) -> MilvusIndex:
    return build_milvus(vectors, uri=uri, name="contract", kind="flat")


def test_flat_equals_exact_search(flat: MilvusIndex, vectors: np.ndarray, queries: np.ndarray) -> None:
    allowed = np.arange(N_ITEMS) % 3 != 0
    for mask in (None, allowed, ~allowed):
        found, truth = (index.search(queries, 30, allowed=mask) for index in (flat, build_exact(vectors)))
        np.testing.assert_allclose(found.scores, truth.scores, atol=1e-5)
        assert (found.rows == truth.rows).mean() > 0.999  # neighbours 1e-7 apart may change places


def test_ties_come_by_lower_row_even_at_the_last_place(uri: str) -> None:
    vectors = np.ones((300, 4), dtype=np.float32)
    vectors[200] = 2.0
    index = build_milvus(vectors, uri=uri, name="ties")
    ones = np.ones((2, 4), dtype=np.float32)
    assert index.search(ones, 120).rows[0].tolist() == [200, *range(119)]
    assert index.search(ones, 3, allowed=np.arange(300) % 2 == 1).rows[1].tolist() == [1, 3, 5]


def test_the_limits_of_the_server_change_no_hit(
    flat: MilvusIndex, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = [None] + [np.random.default_rng(3).random(N_ITEMS) < share for share in (0.9, 0.3, 0.01)]
    expected = [flat.search(queries[:9], 40, allowed=mask) for mask in masks]
    monkeypatch.setattr(milvus, "FILTER_ROWS", 700)  # filters are first tried by searching deeper
    monkeypatch.setattr(milvus, "MAX_CELLS", 100)  # three queries a call
    for hits, mask in zip(expected, masks, strict=True):
        np.testing.assert_array_equal(flat.search(queries[:9], 40, allowed=mask).rows, hits.rows)
    monkeypatch.setattr(milvus, "MAX_TOP", 25)  # less than k: range by range
    for hits, mask in zip(expected[:1] + expected[-1:], masks[:1] + masks[-1:], strict=True):
        np.testing.assert_array_equal(flat.search(queries[:2], 40, allowed=mask).rows, hits.rows[:2])


def test_ties_are_settled_where_a_filter_is_tried_by_searching_deeper(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus, "FILTER_ROWS", 50)
    index = build_milvus(np.ones((300, 4), dtype=np.float32), uri=uri, name="even")
    found = index.search(np.ones((1, 4), dtype=np.float32), 5, allowed=np.arange(300) >= 40)
    assert found.rows[0].tolist() == [40, 41, 42, 43, 44]


def test_a_filter_names_the_fewer_rows() -> None:
    few, most = np.zeros(6, dtype=bool), np.ones(6, dtype=bool)
    few[[1, 4]], most[2] = True, False
    assert list(filter_parts(None, 6, 3)) == [""]
    assert list(filter_parts(few, 6, 3)) == ["row in [1, 4]"]
    assert list(filter_parts(most, 6, 3)) == ["row >= 0 and row < 6 and row not in [2]"]


def test_vectors_that_are_no_numbers_are_refused(vectors: np.ndarray, uri: str) -> None:
    broken = vectors.copy()
    broken[1234, 5] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in row 1234"):
        build_milvus(broken, uri=uri, name="broken")


def test_one_item_is_enough(uri: str) -> None:
    index = build_milvus(np.array([[1.0, 0.0]], dtype=np.float32), uri=uri, name="one")
    hits = index.search(np.array([[2.0, 0.0]], dtype=np.float32), 2)
    assert (hits.rows.tolist(), hits.scores[0, 0]) == ([[0, -1]], 2.0)


def test_the_same_vectors_are_the_same_collection(flat: MilvusIndex, vectors: np.ndarray, uri: str) -> None:
    written: list[int] = []
    again = build_milvus(
        vectors, uri=uri, name="contract", kind="flat", progress=lambda _, done, __: written.append(done)
    )
    other = build_milvus(vectors[:50], uri=uri, name="contract", kind="flat")
    assert (again.collection, written) == (flat.collection, [])
    assert other.collection != flat.collection
    assert flat.fingerprint == vectors_fingerprint(vectors)


def test_a_build_goes_on_where_it_was_interrupted(
    vectors: np.ndarray, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus_build, "BATCH_BYTES", 4 * DIM * 500)

    def stop_after(n_rows: int) -> Callable[[str, int, int], None]:
        def progress(_stage: str, done: int, _all: int) -> None:
            written.append(done)
            if done == n_rows:
                raise KeyboardInterrupt

        return progress

    written: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        build_milvus(vectors, uri=uri, name="resumed", progress=stop_after(1_000))
    written.clear()
    index = build_milvus(vectors, uri=uri, name="resumed", progress=stop_after(-1))
    assert written == [1_500, 2_000, 2_500, 3_000]
    np.testing.assert_array_equal(index.vectors(), vectors)


def test_an_interrupted_build_is_not_served(vectors: np.ndarray, uri: str) -> None:
    def stop(_stage: str, _done: int, _all: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_milvus(vectors[:70], uri=uri, name="halfway", kind="flat", progress=stop)
    name = f"halfway_flat_{vectors_fingerprint(vectors[:70])[:16]}"
    params = {"uri": uri, "collection": name, "kind": "flat", "fingerprint": vectors_fingerprint(vectors[:70])}
    with pytest.raises(ValueError, match="expected the metric IP, got None"):
        milvus_build.attach_milvus(params, n_items=70, dim=DIM)


def test_rows_that_lack_although_they_were_counted_are_written(vectors: np.ndarray, uri: str) -> None:
    index = build_milvus(vectors[:90], uri=uri, name="lacking")
    index.client.delete(index.collection, ids=[5, 80])
    again = build_milvus(vectors[:90], uri=uri, name="lacking")
    np.testing.assert_array_equal(again.vectors(), vectors[:90])


@pytest.fixture
def saved(uri: str, tmp_path: Path) -> tuple[Path, MilvusIndex]:
    """A directory and the index it names, which a test may spoil."""
    name = f"spoilt_{tmp_path.name}"
    index = build_milvus(make_vectors(80, 8), uri=uri, name=name)
    save_index(index, tmp_path / "saved")
    return tmp_path / "saved", index


def test_a_collection_that_is_gone_is_not_served(saved: tuple[Path, MilvusIndex]) -> None:
    directory, index = saved
    drop_collection(index.uri, index.collection)
    with pytest.raises(DamagedArtefact, match="expected 80 vectors of dimension 8, there is no such collection"):
        load_index(directory)


def test_a_collection_with_other_vectors_is_not_served(saved: tuple[Path, MilvusIndex]) -> None:
    directory, index = saved
    index.client.upsert(index.collection, [{"row": row, "vector": np.zeros(8, np.float32)} for row in range(80)])
    with pytest.raises(DamagedArtefact, match=r"expected the vectors of fingerprint [0-9a-f]{12}\.\.\., got others"):
        load_index(directory)


def test_a_collection_with_fewer_vectors_is_not_served(saved: tuple[Path, MilvusIndex]) -> None:
    directory, index = saved
    index.client.delete(index.collection, ids=[5])
    with pytest.raises(DamagedArtefact, match="expected 80 vectors, got 79"):
        load_index(directory, verify=False)


def test_a_collection_of_another_dimension_is_not_served(saved: tuple[Path, MilvusIndex]) -> None:
    directory, index = saved
    drop_collection(index.uri, index.collection)
    milvus_build._create(index.client, index.collection, 12)
    with pytest.raises(DamagedArtefact, match="expected vectors of dimension 8, got 12"):
        load_index(directory)


def test_a_database_that_was_moved_is_named(tmp_path: Path) -> None:
    params = {"uri": str(tmp_path / "away.db"), "collection": "x", "kind": "flat", "fingerprint": "0"}
    with pytest.raises(FileNotFoundError, match=r"away.db: expected a milvus-lite database there"):
        milvus_build.attach_milvus(params, n_items=3, dim=2)


@pytest.mark.parametrize("ask", [list_collections, lambda uri: drop_collection(uri, "x")])
def test_asking_for_a_database_that_is_not_there_makes_none(ask: Callable[[str], object], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"typo.db: expected a milvus-lite database there"):
        ask(str(tmp_path / "sub" / "typo.db"))
    assert list(tmp_path.iterdir()) == []


def test_a_plain_file_is_not_taken_for_a_locked_database(tmp_path: Path) -> None:
    (tmp_path / "plain.db").write_text("hello")
    with pytest.raises(ValueError, match=r"plain.db: expected a milvus-lite database .* got a file; name another"):
        build_milvus(make_vectors(5, 4), uri=str(tmp_path / "plain.db"))


def test_a_healthy_index_that_is_open_here_is_not_called_damaged(flat: MilvusIndex, tmp_path: Path) -> None:
    save_index(flat, tmp_path / "saved")
    with pytest.raises(OSError, match="milvus-lite cannot open it; does another process have it open"):
        check_apart(tmp_path / "saved")


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(ConnectionError, match=rf"Milvus at http://127.0.0.1:9: expected an answer.*{TOKEN_VARIABLE}"):
        build_milvus(make_vectors(5, 4), uri="http://127.0.0.1:9")


def test_a_database_that_another_process_has_open_is_locked(flat: MilvusIndex) -> None:
    source = f"from indexes.milvus_client import connect\nconnect({flat.uri!r})"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith(f"{Locked.__module__}.Locked: {flat.uri}: milvus-lite cannot open")


def test_without_pymilvus_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[milvus\]"'):
        connect("http://127.0.0.1:19530")


def test_importing_our_packages_does_not_import_pymilvus() -> None:
    source = "import sys, indexes; sys.exit('pymilvus' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


def test_the_token_stays_in_the_environment(flat: MilvusIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "root:s3cret")
    save_index(flat, tmp_path / "saved")
    load_index(tmp_path / "saved")
    assert "s3cret" not in json.dumps(dict(flat.params)) + (tmp_path / "saved" / "manifest.json").read_text()
