"""Every family keeps the contract; what only one family promises stands below."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from indexes import FAMILIES, Index, build_exact, build_index, load_index, save_index
from tests.indexes.contract import IndexContract, make_queries, make_vectors


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def index(family: str, vectors: np.ndarray) -> Index:
    return build_index(vectors, family=family, queries=make_queries(vectors, 100, seed=5), recall_target=0.97)


class TestFamily(IndexContract):
    def test_it_says_its_family(self, index: Index, family: str) -> None:
        assert index.family == family

    def test_saved_and_loaded_it_answers_the_same(
        self, index: Index, queries: np.ndarray, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        directory = tmp_path_factory.mktemp("index") / "saved"
        save_index(index, directory)
        loaded = load_index(directory)
        assert (loaded.family, dict(loaded.params)) == (index.family, dict(index.params))
        np.testing.assert_array_equal(loaded.search(queries, 20).rows, index.search(queries, 20).rows)
        assert faiss.read_index(str(directory / "index.faiss")).ntotal == index.n_items

    def test_vectors_that_are_no_numbers_are_refused(self, family: str, vectors: np.ndarray) -> None:
        broken = vectors.copy()
        broken[1234, 5] = np.nan
        with pytest.raises(ValueError, match="NaN or infinity in row 1234"):
            build_index(broken, family=family)

    def test_one_item_is_enough(self, family: str) -> None:
        index = build_index(np.array([[1.0, 0.0]], dtype=np.float32), family=family)
        hits = index.search(np.array([[2.0, 0.0]], dtype=np.float32), 2)
        assert hits.rows.tolist() == [[0, -1]]
        assert hits.scores[0, 0] == pytest.approx(2.0)

    @pytest.mark.parametrize(("n_items", "dim"), [(2, 4), (200, 1), (800, 2)])
    def test_in_few_dimensions_all_rows_are_found_too(self, family: str, n_items: int, dim: int) -> None:
        rng = np.random.default_rng(0)
        index = build_index(rng.normal(size=(n_items, dim)).astype(np.float32), family=family)
        queries = rng.normal(size=(20, dim)).astype(np.float32)
        for allowed in (None, np.arange(n_items) != 1):
            expected = np.arange(n_items) if allowed is None else np.flatnonzero(allowed)
            found = index.search(queries, len(expected), allowed=allowed).rows
            np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(expected, (20, 1)))
            assert (index.search(queries, n_items - 1, allowed=allowed).rows >= 0).all()


def test_exact_search_equals_numpy() -> None:
    vectors = make_vectors(500, 8)
    queries = make_queries(vectors, 30)
    products = queries @ vectors.T
    hits = build_exact(vectors).search(queries, 10)
    np.testing.assert_array_equal(hits.rows, np.argsort(-products, axis=1, kind="stable")[:, :10])


@pytest.mark.parametrize("n_queries", [1, 40])
def test_ties_come_by_lower_row_even_at_the_last_place(n_queries: int) -> None:
    vectors = np.ones((300, 4), dtype=np.float32)
    vectors[200] = 2.0
    hits = build_exact(vectors).search(np.ones((n_queries, 4), dtype=np.float32), 120)
    assert hits.rows[0].tolist() == [200, *range(119)]


def test_ties_under_a_filter_come_by_lower_row() -> None:
    allowed = np.arange(300) % 2 == 1
    index = build_exact(np.ones((300, 4), dtype=np.float32))
    hits = index.search(np.ones((25, 4), dtype=np.float32), 3, allowed=allowed)
    assert hits.rows[-1].tolist() == [1, 3, 5]


@pytest.mark.parametrize("family", ["ivf", "ivf_sq8"])
def test_the_same_seed_builds_the_same_index(family: str) -> None:
    vectors = make_vectors(1_500, 16)
    one, other = (build_index(vectors, family=family, seed=7) for _ in range(2))
    assert dict(one.params) == dict(other.params)
    np.testing.assert_array_equal(one.search(vectors[:50], 20).rows, other.search(vectors[:50], 20).rows)


def test_a_memory_map_is_indexed_like_an_array(tmp_path: Path) -> None:
    vectors = make_vectors(1_000, 16)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    for family in FAMILIES:
        index = build_index(mapped, family=family)
        assert (index.search(vectors[:20], 1).rows[:, 0] == np.arange(20)).mean() > 0.9


def test_importing_and_searching_leave_the_threads_of_faiss_alone() -> None:
    before = faiss.omp_get_max_threads()
    build_index(make_vectors(500, 8), family="ivf").search(make_vectors(5, 8), 3)
    assert faiss.omp_get_max_threads() == before
