"""What faiss-gpu builds faster: the k-means and list assignment of an IVF index, and CAGRA graphs.

Each ends in an index of the CPU, so that what is stored loads on any machine. Where the tests run there is no GPU: they
check the choices and the seams, with clones on the CPU in place of the copies on a GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from indexes.hits import Param
from indexes.hnsw import HnswIndex
from indexes.vectors import Progress, blocks, check_shape

_faiss: Any = faiss
CAGRA = "cagra"
"""The family: an HNSW graph that a GPU built."""
MIN_CAGRA_ITEMS = 1_000
"""Fewer are not worth a graph, and the conversion of three or four of them never ends (faiss issue 4260)."""
CAGRA_DEGREE = 64
"""Edges per item, as many as the ground level of our HNSW has; twice as many before the graph is pruned."""


def n_gpus() -> int:
    """Return how many GPUs FAISS can use: none without faiss-gpu."""
    return int(_faiss.get_num_gpus()) if hasattr(_faiss, "StandardGpuResources") else 0


def use_gpu(device: str) -> bool:
    """Tell whether FAISS should build on a GPU: "cpu" never, "auto" and "cuda..." where there is one."""
    return device != "cpu" and n_gpus() > 0


def to_gpu(index: faiss.Index) -> Any:
    """Copy an index to the first GPU."""
    return _faiss.index_cpu_to_gpu(_faiss.StandardGpuResources(), 0, index)


@contextmanager
def training_on_gpu(lists: faiss.IndexIVF, device: str) -> Iterator[None]:
    """Let the GPU compare points with centroids while the lists are trained; the index itself stays where it is."""
    if not use_gpu(device):
        yield
        return
    clustering_index = to_gpu(faiss.IndexFlatIP(lists.d))
    lists.clustering_index = clustering_index
    try:
        yield
    finally:
        lists.clustering_index = None  # type: ignore[assignment]


@contextmanager
def adding_on_gpu(lists: faiss.IndexIVF, device: str) -> Iterator[None]:
    """Let the GPU find the list of each vector that is added meanwhile."""
    if not use_gpu(device):
        yield
        return
    own = lists.quantizer
    copy = to_gpu(own)
    lists.quantizer = copy
    try:
        yield
    finally:
        lists.quantizer = own


def train_cagra(vectors: np.ndarray, config: Any) -> Any:
    """Build a CAGRA graph over float32 (n_items, dim) on the first GPU."""
    graph = _faiss.GpuIndexCagra(_faiss.StandardGpuResources(), vectors.shape[1], _faiss.METRIC_INNER_PRODUCT, config)
    graph.train(vectors)
    return graph


def build_cagra(vectors: np.ndarray, *, ef_search: int = 128, progress: Progress | None = None) -> HnswIndex:
    """Build a graph with cuVS and turn it into one that the CPU walks (a faiss.IndexHNSWCagra).

    Args:
        vectors: float32 (n_items, dim); all of them are in memory at once.

    Raises:
        ImportError: FAISS without cuVS, or no GPU. ValueError: fewer than MIN_CAGRA_ITEMS vectors.
    """
    n_items, dim = check_shape(vectors)
    if not hasattr(_faiss, "GpuIndexCagra") or n_gpus() == 0:
        raise ImportError("cagra needs an NVIDIA GPU and FAISS with cuVS: pip install faiss-gpu-cuvs; or take hnsw")
    if n_items < MIN_CAGRA_ITEMS:
        raise ValueError(f"vectors: expected at least {MIN_CAGRA_ITEMS} for cagra, got {n_items}; take exact")
    config = _faiss.GpuIndexCagraConfig()
    config.graph_degree, config.intermediate_graph_degree = CAGRA_DEGREE, 2 * CAGRA_DEGREE
    checked = np.empty((n_items, dim), dtype=np.float32)
    start = 0
    for block in blocks(vectors, progress=progress):
        checked[start : start + len(block)] = block
        start += len(block)
    converted = _faiss.index_gpu_to_cpu(train_cagra(checked, config))
    params: dict[str, Param] = {"n_neighbours": CAGRA_DEGREE // 2, "ef_search": ef_search, "breadth": 1}
    return HnswIndex(converted, CAGRA, params)
