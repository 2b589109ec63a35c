"""Inverted lists with a copy on a GPU, where faiss-gpu searches them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from indexes.device import DeviceIndex
from indexes.gpu import to_gpu
from indexes.hits import Hits, check_allowed, check_queries, finish
from indexes.ivf import IvfIndex
from indexes.kernel import search_lists

GPU_FAMILIES = ("ivf", "ivf_sq8")
"""Families whose lists faiss-gpu can search."""
MAX_GPU_K = 2_048
"""Hits, and lists, per query at the most: a limit of faiss-gpu."""


@dataclass(frozen=True)
class GpuIvfIndex(DeviceIndex):
    """Plain searches go to the copy; the CPU answers filtered ones, deep ones, and queries that found too few rows."""

    cpu: IvfIndex
    copy: Any = field(repr=False, compare=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @classmethod
    def copy_of(cls, index: IvfIndex) -> GpuIvfIndex:
        """Copy the lists to the first GPU."""
        return cls(index, to_gpu(index.faiss_index))

    def search(self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None) -> Hits:
        """See `Index.search`."""
        queries, k = check_queries(queries, k, self.dim), int(k)
        depth = min(k, self.n_items)
        filtered = check_allowed(allowed, self.n_items) is not None
        if filtered or len(queries) == 0 or max(depth, self.cpu.n_probe) > MAX_GPU_K:
            return self.cpu.search(queries, k, allowed=allowed)
        with self._turn:  # the searches of a GPU index share its scratch memory
            scores, rows = search_lists(self.copy, queries, depth, n_probe=self.cpu.n_probe)
        found = finish(scores, rows, k)
        short = np.flatnonzero(found.rows[:, depth - 1] < 0)
        if short.size:
            again = self.cpu.search(queries[short], k)
            found.rows[short], found.scores[short] = again.rows, again.scores
        return found
