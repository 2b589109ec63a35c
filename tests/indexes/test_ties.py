"""Exact search keeps, of rows that tie, the lower ones, however many tie; checked against a brute force."""

from collections.abc import Callable

import numpy as np
import pytest

from indexes import Hits, Index, build_exact, exact
from indexes.exact import with_ties
from indexes.exact_torch import TorchExactIndex

N_ITEMS = 500
DEPTHS = (1, 3, 40, N_ITEMS - 1, N_ITEMS + 2)


def whole_numbers(n_rows: int, *, seed: int) -> np.ndarray:
    """float32 (n_rows, 4), of few different values, so that inner products are exact and most of them tie."""
    return np.random.default_rng(seed).integers(-1, 2, size=(n_rows, 4)).astype(np.float32)


def brute_force(vectors: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray) -> Hits:
    """Sort all allowed rows by score, then by row."""
    scores = np.where(allowed, queries @ vectors.T, -np.inf)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    scores = np.take_along_axis(scores, rows, axis=1)
    rows = np.where(np.isneginf(scores), -1, rows)
    lacking = ((0, 0), (0, k - rows.shape[1]))
    return Hits(np.pad(scores, lacking, constant_values=-np.inf), np.pad(rows, lacking, constant_values=-1))


def on_torch(vectors: np.ndarray) -> Index:
    return TorchExactIndex.copy_of(build_exact(vectors), "cpu")


@pytest.mark.parametrize("build", [build_exact, on_torch])
@pytest.mark.parametrize("n_queries", [1, 2, 30])
@pytest.mark.parametrize(("block_rows", "tie_cells"), [(1 << 16, 1 << 20), (70, 300), (20, 1)])
def test_many_ties_come_as_a_brute_force_orders_them(
    build: Callable[[np.ndarray], Index],
    n_queries: int,
    block_rows: int,
    tie_cells: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exact, "BLOCK_ROWS", block_rows)
    monkeypatch.setattr(exact, "TIE_CELLS", tie_cells)
    vectors, queries = whole_numbers(N_ITEMS, seed=0), whole_numbers(n_queries, seed=1)
    queries[-1] = 0
    index = build(vectors)
    for share in (1.1, 0.5, 0.02):
        allowed = np.random.default_rng(2).random(N_ITEMS) < share
        for k in DEPTHS:
            found, expected = index.search(queries, k, allowed=allowed), brute_force(vectors, queries, k, allowed)
            np.testing.assert_array_equal(found.rows, expected.rows)
            np.testing.assert_array_equal(found.scores, expected.scores)


def test_equal_vectors_tie_for_a_query_alone_too() -> None:
    rng = np.random.default_rng(0)
    vector = rng.normal(size=(1, 384)).astype(np.float32)
    index = build_exact(np.repeat(vector, 1_003, axis=0))
    for _ in range(10):
        query = vector + rng.normal(size=(1, 384)).astype(np.float32)
        assert index.search(query, 100).rows[0].tolist() == list(range(100))


def test_no_tie_is_searched_much_deeper_than_was_asked_for() -> None:
    index = build_exact(np.ones((N_ITEMS, 4), dtype=np.float32))
    asked: list[tuple[int, int]] = []

    def best(queries: np.ndarray, depth: int) -> Hits:
        asked.append((len(queries), depth))
        return Hits(*index.faiss_index.search(queries, depth))

    queries = np.eye(4, dtype=np.float32)
    found = with_ties(best, index.reconstruct, queries, 10, n_items=N_ITEMS, rows=None)
    assert found.rows.tolist() == [list(range(10))] * 4
    assert asked == [(4, 11), (4, 44)]
