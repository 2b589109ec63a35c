"""A graph of neighbours: the fewest comparisons per query, at more memory, a slow build and no deletion.

Filters are its weak side (a walk through rows that may not be returned finds few that may), so a selective
filter is answered by scanning the matching rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import faiss
import numpy as np

from indexes.exact import scan_rows
from indexes.hits import Hits, Param, check_allowed, check_queries, empty_hits, finish
from indexes.kernel import mask_selector, new_graph, search_graph
from indexes.vectors import Progress, blocks, check_shape, sample_rows

SCAN_BELOW = 0.3
"""Share of matching rows under which they are scanned instead of walking the graph."""
TRAINING_ROWS = 100_000
"""The range of each dimension, all that 8-bit codes learn, is known from this many rows."""


@dataclass(frozen=True)
class HnswIndex:
    """A faiss.IndexHNSW searched as `params` say: "ef_search", and "breadth" times wider under a filter."""

    faiss_index: faiss.IndexHNSW
    family: str
    params: Mapping[str, Param]

    @property
    def n_items(self) -> int:
        """How many vectors it holds; its rows are 0 to n_items - 1."""
        return self.faiss_index.ntotal

    @property
    def dim(self) -> int:
        """How many dimensions a query must have."""
        return self.faiss_index.d

    @cached_property
    def storage(self) -> faiss.Index:
        """The flat index of the vectors or codes below the graph."""
        return faiss.downcast_index(self.faiss_index.storage)

    def with_params(self, **changes: Param) -> "HnswIndex":
        """Return the same index searched with other parameters; the vectors are shared, not copied."""
        return replace(self, params={**self.params, **changes})

    def search(self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None) -> Hits:
        """See `Index.search`. Queries for which the walk finds too few rows are answered by a scan."""
        queries, k = check_queries(queries, k, self.dim), int(k)
        mask = check_allowed(allowed, self.n_items)
        matching = None if mask is None else np.flatnonzero(mask)
        n_matching = self.n_items if matching is None else matching.size
        depth = min(k, n_matching)
        if depth == 0 or len(queries) == 0:
            return empty_hits(len(queries), k)
        share = n_matching / self.n_items
        if matching is not None and share < SCAN_BELOW:
            found = scan_rows(self.storage, queries, depth, matching)
            return finish(found.scores, found.rows, k)
        scores, rows = self._walk(queries, depth, mask, share)
        short = np.flatnonzero(rows[:, -1] < 0)
        if short.size:
            every = np.arange(self.n_items, dtype=np.int64) if matching is None else matching
            found = scan_rows(self.storage, queries[short], depth, every)
            scores[short], rows[short] = found.scores, found.rows
        return finish(scores, rows, k)

    def _walk(
        self, queries: np.ndarray, depth: int, mask: np.ndarray | None, share: float
    ) -> tuple[np.ndarray, np.ndarray]:
        # The walk keeps its ef_search best rows, matching or not, so fewer matches need a wider walk.
        breadth = 1 if mask is None else float(self.params.get("breadth", 1))
        ef_search = round(breadth * max(int(self.params["ef_search"]), depth) / share)
        selector = None if mask is None else mask_selector(mask)
        ef_search = min(ef_search, self.n_items)
        return search_graph(self.faiss_index, queries, depth, ef_search=ef_search, selector=selector)


def build_hnsw(
    vectors: np.ndarray,
    *,
    family: str = "hnsw",
    n_neighbours: int = 32,
    ef_construction: int = 80,
    ef_search: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> HnswIndex:
    """Build the graph; the same for the same seed only on one thread, since threads race for its edges.

    Args:
        vectors: float32 (n_items, dim), an array or a memory map; row i of the index is row i of it.
        family: "hnsw" (float32) or "hnsw_sq8" (a byte per dimension).
        n_neighbours: edges per item; the ground level has twice as many.
        ef_search: rows kept during a walk, at least k of them; `indexes.choose` tunes it.
    """
    _, dim = check_shape(vectors)
    if family not in ("hnsw", "hnsw_sq8"):
        raise ValueError(f"family: expected 'hnsw' or 'hnsw_sq8', got {family!r}")
    codes = family == "hnsw_sq8"
    index = new_graph(dim, n_neighbours, codes=codes, ef_construction=ef_construction, seed=seed)
    if codes:
        sample = sample_rows(vectors, TRAINING_ROWS, seed=seed)
        if np.isfinite(sample).all():  # otherwise the first pass over the blocks names the row
            index.train(sample)
    for block in blocks(vectors, progress=progress):
        index.add(block)
    params: dict[str, Param] = {"n_neighbours": n_neighbours, "ef_construction": ef_construction}
    return HnswIndex(index, family, {**params, "ef_search": ef_search, "breadth": 1, "seed": seed})
