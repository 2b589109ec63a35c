"""Inverted lists: the vectors are clustered, and a search reads only the `n_probe` lists nearest to the query.

`ivf` keeps float32 in the lists, `ivf_sq8` a byte per dimension. `ivf_pq` keeps two bits per dimension, scanned in
registers; the best `refine` * k rows are then ordered by codes of six or eight bits. Where the vectors lie mostly in
some of their dimensions, `ivf_pq` projects everything onto those first (`indexes.projection`). `ivf_rabitq` (Gao et
al. 2024, 2025) keeps six or eight bits per dimension of the difference to the list's centre and nothing else: a fifth
smaller than `ivf_pq`, and several times slower.

250,000 x 384 embeddings of texts, recall@100 0.951, one thread, batches of 500: 288 dimensions are left, and with 1,000
lists, 101 of them read and 350 rows ordered again, a query takes 155 us: 28 to project it and choose the lists, 66 to
scan 25,000 codes, 58 to keep and order rows. hnswlib takes 1.8 times as long at recall 0.951 and 2.1 times at 0.962;
the index has 95 MB, its graph 421. Building and tuning take 13 s of processor time, its graph 80. Without the
projection the same recall costs 1.3 times the time with codes of six bits (99 MB), 1.06 times with eight (123 MB).
What did not help: 2,000 lists (choosing them costs what reading fewer codes saves), more rounds or rows for the
clusters, half-precision floats to order by, a scan in 192 dimensions with all of them to order by.

Where noise fills all dimensions there is no projection and codes of six bits serve. Tried then, at recall@100 0.95 over
250,000, as queries per processor second: a projection to 304 or 352 dimensions all the same, 6 or 11 % more (the latter
in 17 % more memory); 2,000 lists chosen by short codes of their centroids, 6 % more; three dimensions to a short code,
20 % fewer; RaBitQ's one bit to a dimension, a third as many. As many lists as a query needs instead of the same number
for all reads 14 % fewer codes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import faiss
import numpy as np

from indexes.exact import scan_rows
from indexes.hits import Hits, Param, check_allowed, check_queries, empty_hits, finish
from indexes.kernel import (
    Arrays,
    list_ids,
    mask_selector,
    search_given_lists,
    search_lists,
    search_refined,
    transform_of,
)

IVF_FAMILIES = ("ivf", "ivf_sq8", "ivf_pq", "ivf_rabitq")
QUERY_BLOCK = 256
"""Queries routed through a filter at once: bounds the (queries, lists) tables."""
PROBE_GROUPS = 4


@dataclass(frozen=True)
class IvfIndex:
    """A faiss.IndexIVF, an IndexRefine over one, or a projection before that, searched as `params` say.

    params: "n_lists", "n_probe"; "breadth": how many times more rows are compared under a filter, since the hits lie
    deeper there; "refine" (ivf_pq): rows ordered again by longer codes, as a multiple of k.
    """

    faiss_index: faiss.IndexIVF | faiss.IndexRefine | faiss.IndexPreTransform
    family: str
    params: Mapping[str, Param]

    @property
    def n_items(self) -> int:
        """How many vectors it holds; its rows are 0 to n_items - 1."""
        return self.faiss_index.ntotal

    @property
    def dim(self) -> int:
        """How many dimensions a query must have. With a projection the lists have fewer."""
        return self.faiss_index.d

    @property
    def n_lists(self) -> int:
        """How many lists there are, empty ones too."""
        return self.lists.nlist

    @property
    def n_probe(self) -> int:
        """How many lists a search without a filter reads, n_lists at most."""
        return min(int(self.params["n_probe"]), self.n_lists)

    @property
    def refine(self) -> float:
        """How many rows longer codes order again, as a multiple of k; 1 where there are no longer codes."""
        return float(self.params.get("refine", 1))

    @property
    def projected(self) -> bool:
        """Whether the lists hold projections of the vectors."""
        return isinstance(self.faiss_index, faiss.IndexPreTransform)

    @cached_property
    def inner(self) -> faiss.IndexIVF | faiss.IndexRefine:
        """What is searched with projected queries; without a projection the index itself."""
        if isinstance(self.faiss_index, faiss.IndexPreTransform):
            return cast("faiss.IndexRefine", faiss.downcast_index(self.faiss_index.index))
        return self.faiss_index

    @cached_property
    def lists(self) -> faiss.IndexIVF:
        """The inverted lists themselves."""
        if isinstance(self.inner, faiss.IndexRefine):
            return cast("faiss.IndexIVF", faiss.downcast_index(self.inner.base_index))
        return self.inner

    def with_params(self, **changes: Param) -> "IvfIndex":
        """Return the same index searched with other parameters; the vectors are shared, not copied."""
        return replace(self, params={**self.params, **changes})

    def search(self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None) -> Hits:
        """See `Index.search`.

        Under a filter as many *matching* rows are compared as all rows without one, times "breadth": the lists are
        read in the order of their distance until then, skipping those without a match. So a selective filter
        becomes a scan of all matching rows, and one that matches far from the query still finds them. Queries for
        which too few rows are found are compared with all of them.
        """
        queries, k = check_queries(queries, k, self.dim), int(k)
        mask = check_allowed(allowed, self.n_items)
        n_matching = self.n_items if mask is None else int(np.count_nonzero(mask))
        depth = min(k, n_matching)
        if depth == 0 or len(queries) == 0:
            return empty_hits(len(queries), k)
        if isinstance(self.faiss_index, faiss.IndexPreTransform):
            queries = transform_of(self.faiss_index).apply(queries)
        scores, rows = self._filtered(queries, depth, mask) if mask is not None else self._probe(queries, depth)
        short = np.flatnonzero(rows[:, -1] < 0)
        if short.size:
            scores[short], rows[short] = self._read_all(queries[short], depth, mask)
        return finish(scores, rows, k)

    def _probe(self, queries: np.ndarray, depth: int) -> Arrays:
        if isinstance(self.inner, faiss.IndexRefine):
            return search_refined(self.inner, queries, depth, n_probe=self.n_probe, refine=self.refine)
        return search_lists(self.inner, queries, depth, n_probe=self.n_probe)

    def _read_all(self, queries: np.ndarray, depth: int, mask: np.ndarray | None) -> Arrays:
        """Compare with every row that may be returned: for queries whose lists gave fewer than `depth` rows.

        Short codes are no help then: their scan drops rows that tie with its worst, all of them for a zero query.
        """
        if isinstance(self.inner, faiss.IndexRefine):
            every = np.arange(self.n_items, dtype=np.int64) if mask is None else np.flatnonzero(mask)
            found = scan_rows(faiss.downcast_index(self.inner.refine_index), queries, depth, every)
            return found.scores, found.rows
        selector = None if mask is None else mask_selector(mask)
        return search_lists(self.inner, queries, depth, n_probe=self.n_lists, selector=selector)

    def _filtered(self, queries: np.ndarray, depth: int, mask: np.ndarray) -> Arrays:
        matches = np.bincount(self.list_of_row[mask], minlength=self.n_lists)
        compared = float(self.params.get("breadth", 1)) * self.n_probe / self.n_lists * self.n_items
        wanted = max(math.ceil(compared), depth)
        if isinstance(self.inner, faiss.IndexRefine) and matches.sum() <= wanted:
            return self._read_all(queries, depth, mask)
        scores = np.empty((len(queries), depth), dtype=np.float32)
        rows = np.empty((len(queries), depth), dtype=np.int64)
        selector = mask_selector(mask)
        for start in range(0, len(queries), QUERY_BLOCK):
            block = slice(start, start + QUERY_BLOCK)
            route = self._route(queries[block], matches, wanted)
            if isinstance(self.inner, faiss.IndexRefine):
                found = self._probe_by_depth(self.inner, queries[block], depth, route[0], selector)
            else:
                found = search_given_lists(self.lists, queries[block], depth, *route, selector)
            scores[block], rows[block] = found
        return scores, rows

    def _route(self, queries: np.ndarray, matches: np.ndarray, wanted: int) -> Arrays:
        """Choose each query's lists, nearest first, until they hold `wanted` matching rows.

        Returns:
            lists int64 (q, width), in order of distance, -1 where there is no need to look, and their coarse scores
            float32 (q, width). Lists without a match are left out, save for an IndexRefine, which counts lists.
        """
        by_number = isinstance(self.inner, faiss.IndexRefine)
        useful = np.arange(self.n_lists) if by_number else np.flatnonzero(matches)
        coarse = queries @ self.centroids[useful].T
        order = np.argsort(-coarse, axis=1, kind="stable")
        held = matches[useful][order]
        taken = (np.cumsum(held, axis=1) - held < wanted) & (held > 0)
        width = int(np.flatnonzero(taken.any(axis=0))[-1]) + 1
        lists = np.where(taken, useful[order], -1)[:, :width]
        return lists, np.take_along_axis(coarse, order, axis=1)[:, :width]

    def _probe_by_depth(
        self,
        refined: faiss.IndexRefine,
        queries: np.ndarray,
        depth: int,
        lists: np.ndarray,
        selector: faiss.IDSelector,
    ) -> Arrays:
        """Search queries together that look equally far, since an IndexRefine takes no lists but a number of them."""
        width = lists.shape[1]
        n_probes = width - np.argmax(lists[:, ::-1] >= 0, axis=1)
        scores = np.empty((len(queries), depth), dtype=np.float32)
        rows = np.empty((len(queries), depth), dtype=np.int64)
        for group in np.array_split(np.argsort(n_probes, kind="stable"), PROBE_GROUPS):
            if group.size:
                scores[group], rows[group] = search_refined(
                    refined,
                    queries[group],
                    depth,
                    n_probe=int(n_probes[group].max()),
                    refine=self.refine,
                    selector=selector,
                )
        return scores, rows

    @cached_property
    def centroids(self) -> np.ndarray:
        """float32 (n_lists, dim), projected as the lists are."""
        return faiss.downcast_index(self.lists.quantizer).reconstruct_n(0, self.n_lists)

    @cached_property
    def list_of_row(self) -> np.ndarray:
        """int32 (n_items,), the list each row lies in."""
        lists = np.full(self.n_items, -1, dtype=np.int32)
        for number in range(self.n_lists):
            lists[list_ids(self.lists, number)] = number
        return lists
