"""Where an index is searched: on the CPU, or by a copy of it on a GPU. Only the CPU's own is ever stored."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from indexes.exact import ExactIndex
from indexes.hits import Hits, Index, Param
from indexes.ivf import IvfIndex

log = logging.getLogger(__name__)
FREE_SHARE = 0.5
"""Of the GPU's free memory, at the most, for one copy: models and scores need room too."""


@dataclass(frozen=True)
class DeviceIndex:
    """An index and a copy of it on a GPU, which answers what it can; the subclasses say how."""

    cpu: Index

    @property
    def family(self) -> str:
        """That of the CPU's index."""
        return self.cpu.family

    @property
    def n_items(self) -> int:
        """How many vectors it holds; its rows are 0 to n_items - 1."""
        return self.cpu.n_items

    @property
    def dim(self) -> int:
        """How many dimensions a query must have."""
        return self.cpu.dim

    @property
    def params(self) -> Mapping[str, Param]:
        """Those of the CPU's index."""
        return self.cpu.params

    def search(self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None) -> Hits:
        """See `Index.search`."""
        raise NotImplementedError


def on_device(index: Index, device: str = "auto") -> Index:
    """Return the index with a copy on the GPU where that helps, else the index itself.

    Exact search goes to torch, "ivf" and "ivf_sq8" to faiss-gpu where it is installed; the other families have no
    search on a GPU.

    Args:
        device: "auto" (CUDA where there is one), "cpu", or a CUDA device of torch.
    """
    import torch  # an index on the CPU needs none of it

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not device.startswith("cuda"):
        return index
    if isinstance(index, ExactIndex):
        from indexes.exact_torch import TorchExactIndex

        free_bytes = torch.cuda.mem_get_info(device)[0]
        if 4 * index.n_items * index.dim <= FREE_SHARE * free_bytes:
            return TorchExactIndex.copy_of(index, device)
        log.info("exact index: its vectors do not fit half of the %d free bytes of %s", free_bytes, device)
    if isinstance(index, IvfIndex):
        from indexes.gpu import use_gpu
        from indexes.ivf_gpu import GPU_FAMILIES, GpuIvfIndex

        if index.family in GPU_FAMILIES and use_gpu(device):
            return GpuIvfIndex.copy_of(index)
    return index


def to_cpu(index: Index) -> Index:
    """Return what is stored of an index: itself, without its copy on a GPU."""
    return index.cpu if isinstance(index, DeviceIndex) else index
