"""Inverted lists: the vectors are clustered, and a search reads only the `nprobe` lists nearest to the query.

`ivf_sq8` stores a byte per dimension and is the measured best of the fast families; `ivf` keeps float32.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import faiss
import numpy as np

from indexes.hits import Hits, Param, check_allowed, check_queries, empty_hits, finish
from indexes.kernel import list_ids, mask_selector, search_given_lists, search_lists
from indexes.vectors import Progress, blocks, check_shape, sample_rows

POINTS_PER_LIST = 39
"""Fewer training points per list and FAISS warns that the clusters are not to be trusted."""
TRAINING_POINTS_PER_LIST = 64
"""More make k-means slower and its lists hardly better."""
KMEANS_ROUNDS = 10
QUERY_BLOCK = 256
"""Queries routed through a filter at once: bounds the (queries, lists) tables."""


@dataclass(frozen=True)
class IvfIndex:
    """A faiss.IndexIVF with the number of lists to probe fixed in `params` ("n_lists", "n_probe")."""

    faiss_index: faiss.IndexIVF
    family: str
    params: Mapping[str, Param]

    @property
    def n_items(self) -> int:
        return self.faiss_index.ntotal

    @property
    def dim(self) -> int:
        return self.faiss_index.d

    @property
    def n_lists(self) -> int:
        return self.faiss_index.nlist

    def with_params(self, **changes: Param) -> "IvfIndex":
        """Return the same index searched with other parameters; the vectors are shared, not copied."""
        return replace(self, params={**self.params, **changes})

    def search(self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None) -> Hits:
        """See `Index.search`.

        Under a filter as many *matching* rows are compared as without one: the lists are read in the order
        of their distance until then, skipping those without a match: a selective filter becomes a scan
        of all matching rows.
        """
        queries = check_queries(queries, k, self.dim)
        mask = check_allowed(allowed, self.n_items)
        n_matching = self.n_items if mask is None else int(np.count_nonzero(mask))
        depth = min(k, n_matching)
        if depth == 0 or len(queries) == 0:
            return empty_hits(len(queries), k)
        if mask is not None:
            return self._filtered(queries, k, depth, mask)
        n_probe = min(int(self.params["n_probe"]), self.n_lists)
        scores, rows = search_lists(self.faiss_index, queries, depth, n_probe=n_probe)
        short = np.flatnonzero(rows[:, -1] < 0)
        if short.size and n_probe < self.n_lists:
            # The probed lists held fewer than k rows; read all of them for these queries.
            scores[short], rows[short] = search_lists(self.faiss_index, queries[short], depth, n_probe=self.n_lists)
        return finish(scores, rows, k)

    def _filtered(self, queries: np.ndarray, k: int, depth: int, mask: np.ndarray) -> Hits:
        matches = np.bincount(self.list_of_row[mask], minlength=self.n_lists)
        share = min(int(self.params["n_probe"]), self.n_lists) / self.n_lists
        wanted = max(math.ceil(share * self.n_items), depth)
        selector = mask_selector(mask)
        scores = np.empty((len(queries), depth), dtype=np.float32)
        rows = np.empty((len(queries), depth), dtype=np.int64)
        for start in range(0, len(queries), QUERY_BLOCK):
            block = slice(start, start + QUERY_BLOCK)
            lists, coarse = self._route(queries[block], matches, wanted)
            scores[block], rows[block] = search_given_lists(
                self.faiss_index, queries[block], depth, lists, coarse, selector
            )
        return finish(scores, rows, k)

    def _route(self, queries: np.ndarray, matches: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        """Choose each query's lists, nearest first, until they hold `wanted` matching rows.

        Returns:
            lists int64 (q, width), padded with -1, and their coarse scores float32 (q, width).
        """
        useful = np.flatnonzero(matches)
        coarse = queries @ self.centroids[useful].T
        order = np.argsort(-coarse, axis=1, kind="stable")
        before = np.cumsum(matches[useful][order], axis=1) - matches[useful][order]
        taken = before < wanted
        width = int(taken.sum(axis=1).max())
        lists = np.where(taken, useful[order], -1)[:, :width]
        return lists, np.take_along_axis(coarse, order, axis=1)[:, :width]

    @cached_property
    def centroids(self) -> np.ndarray:
        """float32 (n_lists, dim)."""
        return faiss.downcast_index(self.faiss_index.quantizer).reconstruct_n(0, self.n_lists)

    @cached_property
    def list_of_row(self) -> np.ndarray:
        """int32 (n_items,), the list each row lies in; -1 for a row in none."""
        lists = np.full(self.n_items, -1, dtype=np.int32)
        for number in range(self.n_lists):
            lists[list_ids(self.faiss_index, number)] = number
        return lists


def default_n_lists(n_items: int) -> int:
    """Return four times the root of n, and never so many that a list lacks training points."""
    return max(1, min(int(4 * math.sqrt(n_items)), n_items // POINTS_PER_LIST))


def build_ivf(
    vectors: np.ndarray,
    *,
    family: str = "ivf_sq8",
    n_lists: int | None = None,
    n_probe: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> IvfIndex:
    """Train on a sample and add in blocks; deterministic for a seed and a number of threads.

    Args:
        vectors: float32 (n_items, dim), an array or a memory map; row i of the index is row i of it.
        family: "ivf" or "ivf_sq8".
        n_lists: None takes `default_n_lists`.
        n_probe: None probes a tenth of the lists; `indexes.choose` tunes it.
    """
    n_items, dim = check_shape(vectors)
    n_lists = default_n_lists(n_items) if n_lists is None else n_lists
    if not 1 <= n_lists <= n_items:
        raise ValueError(f"n_lists: expected 1 to {n_items} (the number of items), got {n_lists}")
    quantizer = faiss.IndexFlatIP(dim)
    if family == "ivf":
        index = faiss.IndexIVFFlat(quantizer, dim, n_lists, faiss.METRIC_INNER_PRODUCT)
    elif family == "ivf_sq8":
        kind = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, n_lists, kind, faiss.METRIC_INNER_PRODUCT)
    else:
        raise ValueError(f"family: expected 'ivf' or 'ivf_sq8', got {family!r}")
    train_lists(index, vectors, seed=seed, progress=progress)
    for block in blocks(vectors, progress=progress):
        index.add(block)
    n_probe = max(1, math.ceil(n_lists / 10)) if n_probe is None else n_probe
    return IvfIndex(index, family, {"n_lists": n_lists, "n_probe": n_probe, "seed": seed})


def train_lists(index: faiss.IndexIVF, vectors: np.ndarray, *, seed: int, progress: Progress | None) -> None:
    """Cluster a sample of the vectors and learn the codes on it."""
    sample = sample_rows(vectors, index.nlist * TRAINING_POINTS_PER_LIST, seed=seed)
    if not np.isfinite(sample).all():
        for _ in blocks(vectors):  # names the row
            pass
    index.cp.seed, index.cp.niter = seed + 1, KMEANS_ROUNDS
    index.cp.min_points_per_centroid = 1  # a warning on stderr says less than default_n_lists does
    if progress is not None:
        progress("train", 0, len(sample))
    index.train(sample)
    if progress is not None:
        progress("train", len(sample), len(sample))
