"""What every index family promises, checked against plain NumPy and against exact search."""

import threading

import numpy as np
import pytest

from indexes import Hits, Index, build_exact, recall

DIM = 32
N_ITEMS = 3_000


def make_vectors(n_items: int = N_ITEMS, dim: int = DIM, *, seed: int = 0) -> np.ndarray:
    """Unit vectors, float32, of overlapping clusters as embeddings of texts have them."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, dim))
    vectors = centres[rng.integers(20, size=n_items)] + 1.2 * rng.normal(size=(n_items, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_queries(vectors: np.ndarray, n_queries: int, *, seed: int = 1) -> np.ndarray:
    """Users: means of a few items, float32 (n_queries, dim)."""
    rng = np.random.default_rng(seed)
    return vectors[rng.integers(len(vectors), size=(n_queries, 3))].mean(axis=1)


class IndexContract:
    """A subclass's module gives the fixtures `vectors`, `index` (built from them) and 64 `queries`."""

    dim = DIM

    def test_shapes_and_dtypes_are_as_declared(self, index: Index, queries: np.ndarray) -> None:
        hits = index.search(queries, 7)
        assert (hits.scores.shape, hits.rows.shape) == ((64, 7), (64, 7))
        assert (hits.scores.dtype, hits.rows.dtype) == (np.float32, np.int64)
        assert (index.n_items, index.dim) == (N_ITEMS, self.dim)

    def test_search_returns_best_first(self, index: Index, queries: np.ndarray) -> None:
        scores = index.search(queries, 50).scores
        assert (np.diff(scores, axis=1) <= 0).all()

    def test_scores_are_inner_products_with_the_rows(
        self, index: Index, vectors: np.ndarray, queries: np.ndarray
    ) -> None:
        hits = index.search(queries, 10)
        products = np.einsum("qd,qkd->qk", queries, vectors[hits.rows])
        np.testing.assert_allclose(hits.scores, products, atol=0.02)  # a byte per dimension rounds this much

    def test_no_row_comes_twice(self, index: Index, queries: np.ndarray) -> None:
        for rows in index.search(queries, 100).rows:
            assert len(set(rows.tolist())) == 100

    def test_recall_of_the_top_100_reaches_the_target(
        self, index: Index, vectors: np.ndarray, queries: np.ndarray
    ) -> None:
        assert recall(index.search(queries, 100), build_exact(vectors).search(queries, 100)) >= 0.94

    def test_batch_equals_one_by_one(self, index: Index, queries: np.ndarray) -> None:
        together = index.search(queries, 10)
        alone = [index.search(query[None], 10) for query in queries]
        np.testing.assert_allclose(together.scores, np.concatenate([hits.scores for hits in alone]), atol=1e-5)
        rows = np.concatenate([hits.rows for hits in alone])
        assert (together.rows == rows).mean() > 0.99  # neighbours 1e-7 apart may change places

    def test_more_hits_than_items_are_padded(self, index: Index, queries: np.ndarray) -> None:
        hits = index.search(queries[:2], N_ITEMS + 5)
        assert (np.sort(hits.rows[:, :N_ITEMS], axis=1) == np.arange(N_ITEMS)).all()
        assert (hits.rows[:, N_ITEMS:] == -1).all()
        assert np.isneginf(hits.scores[:, N_ITEMS:]).all()

    def test_a_query_of_zeros_finds_as_many_rows_as_any(self, index: Index) -> None:
        for allowed in (None, np.arange(N_ITEMS) % 2 == 1, np.arange(N_ITEMS) % 100 == 1):
            hits = index.search(np.zeros((2, self.dim), dtype=np.float32), 10, allowed=allowed)
            assert (hits.rows >= 0).all()
            assert allowed is None or allowed[hits.rows].all()
            assert [len(set(rows.tolist())) for rows in hits.rows] == [10, 10]
            np.testing.assert_allclose(hits.scores, 0, atol=0.02)

    def test_a_number_of_hits_may_be_an_integer_of_any_type(self, index: Index, queries: np.ndarray) -> None:
        _assert_equal(index.search(queries[:3], np.uint8(255)), index.search(queries[:3], 255))  # type: ignore[arg-type]

    def test_no_queries_give_no_lines(self, index: Index) -> None:
        assert index.search(np.empty((0, self.dim), dtype=np.float32), 3).rows.shape == (0, 3)

    def test_only_allowed_rows_are_returned(self, index: Index, queries: np.ndarray) -> None:
        for share in (0.5, 0.05):
            allowed = np.random.default_rng(2).random(N_ITEMS) < share
            rows = index.search(queries, 20, allowed=allowed).rows
            assert allowed[rows].all()
            assert (rows >= 0).all()

    def test_fewer_allowed_rows_than_hits_are_all_found(self, index: Index, queries: np.ndarray) -> None:
        allowed = np.zeros(N_ITEMS, dtype=bool)
        allowed[[3, 1500, 2999]] = True
        hits = index.search(queries, 5, allowed=allowed)
        assert (np.sort(hits.rows[:, :3], axis=1) == [3, 1500, 2999]).all()
        assert (hits.rows[:, 3:] == -1).all()

    def test_a_filter_that_allows_nothing_finds_nothing(self, index: Index, queries: np.ndarray) -> None:
        hits = index.search(queries, 5, allowed=np.zeros(N_ITEMS, dtype=bool))
        assert (hits.rows == -1).all()
        assert np.isneginf(hits.scores).all()

    def test_a_filter_that_allows_all_changes_nothing(self, index: Index, queries: np.ndarray) -> None:
        _assert_equal(index.search(queries, 9, allowed=np.ones(N_ITEMS, dtype=bool)), index.search(queries, 9))

    def test_searching_changes_nothing(self, index: Index, queries: np.ndarray) -> None:
        before = index.search(queries, 10)
        index.search(queries, 500)
        index.search(queries, 3, allowed=np.arange(N_ITEMS) % 7 == 0)
        _assert_equal(index.search(queries, 10), before)

    def test_threads_may_search_at_once(self, index: Index, queries: np.ndarray) -> None:
        allowed = np.arange(N_ITEMS) % 3 == 0
        expected = index.search(queries, 10), index.search(queries, 10, allowed=allowed)
        wrong: list[str] = []

        def work() -> None:
            for _ in range(5):
                found = index.search(queries, 10), index.search(queries, 10, allowed=allowed)
                for one, other in zip(found, expected, strict=True):
                    if not np.array_equal(one.rows, other.rows):
                        wrong.append("rows differ")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_queries_without_a_direction_are_refused(self, index: Index, bad: float) -> None:
        queries = np.zeros((3, self.dim), dtype=np.float32)
        queries[1, 4] = bad
        with pytest.raises(ValueError, match="NaN or infinity in row 1"):
            index.search(queries, 3)

    def test_wrong_shapes_and_counts_are_refused(self, index: Index) -> None:
        good = np.zeros((1, self.dim), dtype=np.float32)
        with pytest.raises(ValueError, match=rf"expected shape \(n_queries, {self.dim}\), got \(1, 5\)"):
            index.search(np.zeros((1, 5), dtype=np.float32), 3)
        with pytest.raises(ValueError, match="k: expected an integer of at least 1, got 0"):
            index.search(good, 0)
        with pytest.raises(ValueError, match=rf"allowed: expected bool \({N_ITEMS},\), got bool \(4,\)"):
            index.search(good, 3, allowed=np.ones(4, dtype=bool))
        with pytest.raises(ValueError, match="allowed: expected bool"):
            index.search(good, 3, allowed=np.arange(N_ITEMS))


def _assert_equal(found: Hits, expected: Hits) -> None:
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.scores, expected.scores)
