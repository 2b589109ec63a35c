"""Exact search: every row is compared. The reference for the other families; fast to some 50,000 items."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import faiss
import numpy as np

from indexes.hits import Hits, Param, check_allowed, check_queries, empty_hits, finish, merge
from indexes.kernel import mask_selector, rows_selector, search_flat
from indexes.vectors import BLOCK_ROWS, Progress, blocks, check_shape

BLAS_QUERIES = 20
"""From this many queries on FAISS multiplies matrices (its distance_compute_blas_threshold); copying the
allowed rows into a matrix of their own then pays for itself."""
TIE_CELLS = 1 << 20
"""Scores looked at together where a tie does not end, queries times rows: some 20 MB."""


@dataclass(frozen=True)
class ExactIndex:
    """All vectors as they are, in a faiss.IndexFlatIP."""

    faiss_index: faiss.IndexFlat
    params: Mapping[str, Param] = field(default_factory=dict)
    family: str = "exact"

    @property
    def n_items(self) -> int:
        """How many vectors it holds; its rows are 0 to n_items - 1."""
        return self.faiss_index.ntotal

    @property
    def dim(self) -> int:
        """How many dimensions a query must have."""
        return self.faiss_index.d

    def search(self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None) -> Hits:
        """See `Index.search`. Rows that tie for the last place are kept by lower row as well."""
        queries, k = check_queries(queries, k, self.dim), int(k)
        mask = check_allowed(allowed, self.n_items)
        rows = None if mask is None else np.flatnonzero(mask)
        n_matching = self.n_items if rows is None else rows.size
        depth = min(k, n_matching)
        if depth == 0 or len(queries) == 0:
            return empty_hits(len(queries), k)
        found = with_ties(
            lambda some, reach: self._best(some, reach, rows),
            self.reconstruct,
            queries,
            depth,
            n_items=self.n_items,
            rows=rows,
        )
        return finish(found.scores, found.rows, k)

    def _best(self, queries: np.ndarray, depth: int, rows: np.ndarray | None) -> Hits:
        if rows is None:
            scores, found = self.faiss_index.search(queries, depth)
            return finish(scores, found, depth)
        return scan_rows(self.faiss_index, queries, depth, rows)

    def reconstruct(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors of these rows, float32 (len(rows), dim), exactly as they were added."""
        return self.faiss_index.reconstruct_batch(np.asarray(rows, dtype=np.int64))


def with_ties(
    best: Callable[[np.ndarray, int], Hits],
    reconstruct: Callable[[np.ndarray], np.ndarray],
    queries: np.ndarray,
    depth: int,
    *,
    n_items: int,
    rows: np.ndarray | None,
) -> Hits:
    """The `depth` best hits of an exact search that, of rows tied for its last place, keeps any.

    Args:
        best: searches some queries to some depth, no deeper than there are rows. A query whose last place is tied is
            searched once more and deeper; where the tie does not end there, all its scores are looked at.
        reconstruct: gives the vectors of some rows, float32 (n, dim).
        rows: int64, rising, those that may be returned; None for all n_items.
    """
    n_matching = n_items if rows is None else rows.size
    # One hit more than asked for shows whether the last place is tied.
    found = best(queries, min(depth + 1, n_matching))
    if found.rows.shape[1] <= depth:
        return found
    scores, lines = found.scores[:, :depth].copy(), found.rows[:, :depth].copy()
    tied = np.flatnonzero(found.scores[:, depth - 1] == found.scores[:, depth])
    if tied.size:
        reach = min(4 * (depth + 1), n_matching)
        deeper = best(queries[tied], reach)
        scores[tied], lines[tied] = deeper.scores[:, :depth], deeper.rows[:, :depth]
        tied = tied[deeper.scores[:, depth - 1] == deeper.scores[:, -1]]
        if tied.size and reach < n_matching:
            every = np.arange(n_items, dtype=np.int64) if rows is None else rows
            settled = _lowest_of_best(reconstruct, queries[tied], depth, every)
            scores[tied], lines[tied] = settled.scores, settled.rows
    return Hits(scores=scores, rows=lines)


def _lowest_of_best(
    reconstruct: Callable[[np.ndarray], np.ndarray], queries: np.ndarray, depth: int, rows: np.ndarray
) -> Hits:
    """The `depth` best of these rows, ties by lower row, however many tie; memory stays bounded."""
    found = empty_hits(len(queries), depth)
    for start in range(0, rows.size, BLOCK_ROWS):
        some = rows[start : start + BLOCK_ROWS]
        vectors = reconstruct(some)
        width = max(1, TIE_CELLS // some.size)
        for first in range(0, len(queries), width):
            block = slice(first, first + width)
            # A query alone would go another way through BLAS, where equal vectors may get unequal scores.
            asked = queries[block] if len(queries[block]) > 1 else np.repeat(queries[block], 2, axis=0)
            scores = (asked @ vectors.T)[: len(queries[block])]
            places = _best_places(scores, min(depth, some.size))
            piece = Hits(scores=np.take_along_axis(scores, places, axis=1), rows=some[places])
            merged = merge([Hits(scores=found.scores[block], rows=found.rows[block]), piece], depth)
            found.scores[block], found.rows[block] = merged.scores, merged.rows
    return found


def _best_places(scores: np.ndarray, depth: int) -> np.ndarray:
    """Return int64 (q, depth), rising: where the best of (q, n) scores stand, the first of those that tie for last."""
    last = np.partition(scores, -depth, axis=1)[:, -depth, None]
    above, equal = scores > last, scores == last
    wanted = depth - above.sum(axis=1, keepdims=True)
    kept = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= wanted))
    return np.nonzero(kept)[1].reshape(len(scores), depth)


def scan_rows(storage: faiss.Index, queries: np.ndarray, depth: int, rows: np.ndarray) -> Hits:
    """Compare the queries with just these rows of a flat (or scalar-quantised flat) FAISS index.

    Args:
        rows: int64, rising, at least one.
    """
    if len(queries) < BLAS_QUERIES:
        if isinstance(storage, faiss.IndexFlat):
            selector = rows_selector(rows)
        else:
            mask = np.zeros(storage.ntotal, dtype=bool)
            mask[rows] = True
            selector = mask_selector(mask)
        scores, found = search_flat(storage, queries, depth, selector)
        return finish(scores, found, depth)
    parts = []
    for start in range(0, rows.size, BLOCK_ROWS):
        part_rows = rows[start : start + BLOCK_ROWS]
        part = faiss.IndexFlatIP(storage.d)
        part.add(storage.reconstruct_batch(part_rows))
        scores, local = part.search(queries, min(depth, part_rows.size))
        parts.append(finish(scores, np.where(local >= 0, part_rows[local], -1), depth))
    return parts[0] if len(parts) == 1 else merge(parts, depth)


def build_exact(vectors: np.ndarray, *, progress: Progress | None = None) -> ExactIndex:
    """Build the exact index over float32 (n_items, dim); row i of the result is row i of `vectors`."""
    _, dim = check_shape(vectors)
    index = faiss.IndexFlatIP(dim)
    for block in blocks(vectors, progress=progress):
        index.add(block)
    return ExactIndex(index)
