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


@dataclass(frozen=True)
class ExactIndex:
    """All vectors as they are, in a faiss.IndexFlatIP."""

    faiss_index: faiss.IndexFlat
    params: Mapping[str, Param] = field(default_factory=dict)
    family: str = "exact"

    @property
    def n_items(self) -> int:
        return self.faiss_index.ntotal

    @property
    def dim(self) -> int:
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
        found = with_ties(lambda some, reach: self._best(some, reach, rows), queries, depth, n_matching)
        return finish(found.scores, found.rows, k)

    def _best(self, queries: np.ndarray, depth: int, rows: np.ndarray | None) -> Hits:
        if rows is None:
            scores, found = self.faiss_index.search(queries, depth)
            return finish(scores, found, depth)
        return scan_rows(self.faiss_index, queries, depth, rows)

    def reconstruct(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors of these rows, float32 (len(rows), dim), exactly as they were added."""
        return self.faiss_index.reconstruct_batch(np.asarray(rows, dtype=np.int64))


def with_ties(best: Callable[[np.ndarray, int], Hits], queries: np.ndarray, depth: int, n_matching: int) -> Hits:
    """The `depth` best hits of an exact search that, of rows tied for its last place, keeps any.

    Args:
        best: searches some queries to some depth, n_matching at most. A query whose last place is tied is searched
            deeper until the tie ends, so that its lower rows are known.
    """
    # One hit more than asked for shows whether the last place is tied.
    found = best(queries, min(depth + 1, n_matching))
    if found.rows.shape[1] <= depth:
        return found
    scores, rows = found.scores[:, :depth].copy(), found.rows[:, :depth].copy()
    tied = np.flatnonzero(found.scores[:, depth - 1] == found.scores[:, depth])
    reach = depth + 1
    while tied.size:
        reach = min(4 * reach, n_matching)
        deeper = best(queries[tied], reach)
        scores[tied], rows[tied] = deeper.scores[:, :depth], deeper.rows[:, :depth]
        if reach == n_matching:
            break
        tied = tied[deeper.scores[:, depth - 1] == deeper.scores[:, -1]]
    return Hits(scores=scores, rows=rows)


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
