"""What a search returns, and what every index family promises; queries and masks are checked here, once.

Shapes: n = items of the index, d = dim, q = queries, k = hits asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from indexes.vectors import BLOCK_ROWS

MISSING_ROW = -1
MISSING_SCORE = -np.inf
TIE_TOLERANCE = 1e-6
"""Of the lengths of query and vector: two ways to add up the same float32 products were at most 5e-7 of them apart,
over 32 to 4,096 dimensions."""

Param = int | float | str


@dataclass(frozen=True)
class Hits:
    """The best rows of each query: best first, equal scores by lower row, missing hits (-1, -inf) last."""

    scores: np.ndarray
    """float32 (q, k), inner products."""
    rows: np.ndarray
    """int64 (q, k), rows of the vectors the index was built from."""

    def __len__(self) -> int:
        return len(self.rows)


@runtime_checkable
class Index(Protocol):
    """Vectors to search by inner product. Searching changes nothing, so threads may share an index."""

    @property
    def family(self) -> str:
        """Name of the family, as `build_index` takes it."""
        ...

    @property
    def n_items(self) -> int:
        """How many vectors it holds; its rows are 0 to n_items - 1."""
        ...

    @property
    def dim(self) -> int:
        """How many dimensions a query must have."""
        ...

    @property
    def params(self) -> Mapping[str, Param]:
        """What the index was built with and is searched with; enough to build it again."""
        ...

    def search(self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None) -> Hits:
        """Find the k rows of largest inner product with each query.

        Args:
            queries: float32 (q, d); q may be 0.
            k: at least 1; above n_items the rest is padded.
            allowed: bool (n,), True where a row may be returned; None allows all.

        Raises:
            ValueError: k below 1, a wrong shape, or NaN or infinity in a query.
        """
        ...


def check_queries(queries: np.ndarray, k: int, dim: int) -> np.ndarray:
    """Return `queries` as contiguous float32 (q, dim), or say what is wrong with them or with k."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k: expected an integer of at least 1, got {k!r}")
    array = np.asarray(queries)
    if array.ndim != 2 or array.shape[1] != dim:
        raise ValueError(f"queries: expected shape (n_queries, {dim}), got {array.shape}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"queries: expected float32, got {array.dtype}")
    array = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise ValueError(f"queries: expected finite numbers, got NaN or infinity in row {int(np.argmin(finite))}")
    return array


def check_allowed(allowed: np.ndarray | None, n_items: int) -> np.ndarray | None:
    """Return the mask as bool (n_items,), or None when it lets everything pass."""
    if allowed is None:
        return None
    mask = np.asarray(allowed)
    if mask.dtype != np.bool_ or mask.shape != (n_items,):
        raise ValueError(f"allowed: expected bool ({n_items},), got {mask.dtype} {mask.shape}")
    return None if mask.all() else mask


def finish(scores: np.ndarray, rows: np.ndarray, k: int) -> Hits:
    """Turn what FAISS or a merge returned into Hits: padding said our way, ties by lower row, k columns."""
    missing = rows < 0
    scores = np.where(missing, np.float32(MISSING_SCORE), scores).astype(np.float32, copy=False)
    rows = rows.astype(np.int64, copy=True)
    rows[missing] = MISSING_ROW
    _order_ties(scores, rows)
    lacking = k - rows.shape[1]
    if lacking > 0:
        scores = np.pad(scores, ((0, 0), (0, lacking)), constant_values=MISSING_SCORE)
        rows = np.pad(rows, ((0, 0), (0, lacking)), constant_values=MISSING_ROW)
    return Hits(scores=scores[:, :k], rows=rows[:, :k])


def _order_ties(scores: np.ndarray, rows: np.ndarray) -> None:
    """Sort in place the lines that are not strictly falling; most are, and sorting all of them costs more."""
    if scores.shape[1] < 2:
        return
    lines = np.flatnonzero((scores[:, 1:] >= scores[:, :-1]).any(axis=1))
    if lines.size == 0:
        return
    # Missing hits have row -1, yet come last: their score -inf sorts them there.
    order = np.lexsort((rows[lines], -scores[lines]), axis=1)
    scores[lines] = np.take_along_axis(scores[lines], order, axis=1)
    rows[lines] = np.take_along_axis(rows[lines], order, axis=1)


def empty_hits(n_queries: int, k: int) -> Hits:
    """Hits without a hit."""
    return Hits(
        scores=np.full((n_queries, k), MISSING_SCORE, dtype=np.float32),
        rows=np.full((n_queries, k), MISSING_ROW, dtype=np.int64),
    )


def merge(parts: list[Hits], k: int) -> Hits:
    """Join hits of disjoint sets of rows into the best k."""
    scores = np.concatenate([part.scores for part in parts], axis=1)
    rows = np.concatenate([part.rows for part in parts], axis=1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return finish(np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1), k)


def recalls(
    found: Hits, truth: Hits, *, queries: np.ndarray | None = None, vectors: np.ndarray | None = None
) -> np.ndarray:
    """Return the share of the true rows that each query found, float64; queries without a true row are left out.

    Args:
        queries, vectors: float32 (q, d) and (n, d), what was searched. With both, a row found in place of a true one
            counts too if its inner product ties with the last true one: which of them is kept is no matter of quality.
    """
    true = truth.rows >= 0
    n_true = true.sum(axis=1)
    # A number for each (query, row), so that one call compares all queries; -1, a missing hit, is no other's row.
    width = max((int(rows.max()) for rows in (found.rows, truth.rows) if rows.size), default=0) + 2
    first = width * np.arange(len(truth.rows), dtype=np.int64)[:, None] + 1
    n_hit = (np.isin(truth.rows + first, found.rows + first) & true).sum(axis=1)
    if queries is not None and vectors is not None:
        other = (found.rows >= 0) & ~np.isin(found.rows + first, truth.rows + first)
        last = np.where(true, truth.scores, np.inf).min(axis=1, initial=np.inf)
        n_hit = np.minimum(n_hit + _reaching(last, other, found.rows, queries, vectors), n_true)
    return (n_hit / np.maximum(n_true, 1))[n_true > 0]


def _reaching(
    last: np.ndarray, other: np.ndarray, rows: np.ndarray, queries: np.ndarray, vectors: np.ndarray
) -> np.ndarray:
    """Return int64 (q,), how many of the `other` (q, k) rows have an inner product that reaches the query's `last`."""
    lines, places = np.nonzero(other)
    numbers = rows[lines, places]
    reached = np.zeros(len(lines), dtype=bool)
    for start in range(0, len(lines), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        asked, compared = queries[lines[block]], np.asarray(vectors[numbers[block]], dtype=np.float32)
        slack = TIE_TOLERANCE * np.linalg.norm(asked, axis=1) * np.linalg.norm(compared, axis=1)
        reached[block] = np.einsum("nd,nd->n", asked, compared) >= last[lines[block]] - slack
    return np.bincount(lines[reached], minlength=len(rows))


def recall(found: Hits, truth: Hits, *, queries: np.ndarray | None = None, vectors: np.ndarray | None = None) -> float:
    """Mean of `recalls`; 1 where there is nothing to find."""
    shares = recalls(found, truth, queries=queries, vectors=vectors)
    return float(shares.mean()) if shares.size else 1.0
