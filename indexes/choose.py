"""Which family and which parameters, for n items, a recall target and a memory budget."""

import logging

import numpy as np

from indexes.exact import build_exact
from indexes.gpu import CAGRA, build_cagra
from indexes.hits import Index
from indexes.hnsw import build_hnsw
from indexes.ivf import IVF_FAMILIES
from indexes.ivf_build import KEEP, build_ivf, default_n_lists
from indexes.tuning import TuningReport, check_asked, tune
from indexes.vectors import Progress, check_shape

log = logging.getLogger(__name__)
FAMILIES = ("exact", *IVF_FAMILIES, "hnsw", "hnsw_sq8")
EXACT_ITEMS = 50_000
"""Exact search is the choice up to here: some 2,000 queries/s on two cores at 384 dimensions, nothing to tune."""
SIX_BIT_RECALL = 0.95
ID_BYTES = 8
RABITQ_BYTES = 20
"""What each vector needs beside its bits: its length, its distance to the centre, bounds of the error."""
EDGE_BYTES = 4
EDGES = 2 * 32 + 8
"""Of a graph of 32 neighbours: twice as many on the ground level, and the levels above."""


def code_bits_for(recall_target: float) -> int:
    """Return the bits per dimension that "ivf_pq" and "ivf_rabitq" need to order hits: 6 up to 0.95, else 8."""
    return 6 if recall_target <= SIX_BIT_RECALL else 8


def estimate_bytes(family: str, n_items: int, dim: int, *, recall_target: float = 0.95) -> int:
    """Return about how much memory an index of this family takes; "ivf_pq" less where a projection serves it."""
    per_item = {
        "exact": 4 * dim,
        "ivf": 4 * dim + ID_BYTES,
        "ivf_sq8": dim + ID_BYTES,
        "ivf_pq": (2 + code_bits_for(recall_target)) * dim // 8 + ID_BYTES,
        "ivf_rabitq": code_bits_for(recall_target) * dim // 8 + RABITQ_BYTES + ID_BYTES,
        "hnsw": 4 * dim + EDGES * EDGE_BYTES,
        "hnsw_sq8": dim + EDGES * EDGE_BYTES,
    }
    if family not in per_item:
        raise ValueError(f"family: expected one of {', '.join(FAMILIES)}, got {family!r}")
    centroids = default_n_lists(n_items, family=family) * dim * 4 if family.startswith("ivf") else 0
    return n_items * per_item[family] + centroids


def choose_family(
    n_items: int, dim: int, *, memory_budget_bytes: int | None = None, recall_target: float = 0.95
) -> str:
    """Return what "auto" means: the first that fits of exact (while small), the fastest family, `ivf_pq`, and
    `ivf_rabitq`, the smallest from some 100 dimensions on.

    Raises:
        ValueError: none of them fits the budget.
    """
    families = ("exact", "ivf_pq", "ivf_rabitq") if n_items <= EXACT_ITEMS else ("ivf_pq", "ivf_rabitq")
    sizes = {family: estimate_bytes(family, n_items, dim, recall_target=recall_target) for family in families}
    for family, size in sizes.items():
        if memory_budget_bytes is None or size <= memory_budget_bytes:
            return family
    raise ValueError(
        f"memory_budget_bytes: expected at least {min(sizes.values())} for {n_items} items of {dim} dimensions, "
        f"got {memory_budget_bytes!r}; fewer dimensions or a larger budget"
    )


def build_index(
    vectors: np.ndarray,
    *,
    family: str = "auto",
    seed: int = 0,
    recall_target: float = 0.95,
    queries: np.ndarray | None = None,
    memory_budget_bytes: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Index:
    """Build an index over float32 (n_items, dim) and tune its search against exact search; a target missed is logged.

    Args:
        vectors: an array or a memory map, read in blocks; row i of the index is row i of it.
        family: "auto" or one of FAMILIES, or "cagra" on a GPU with cuVS.
        recall_target: share of the exact top 100 to find, over 0 and at most 1.
        queries: float32 (n, dim), real queries (users) to tune on; None or no rows takes a sample of the vectors.
        memory_budget_bytes: for "auto"; what the index may take once built.
        device: where it is built: "cpu", or "auto" for a GPU where FAISS can use one. What comes is the CPU's.
        progress: called as progress(stage, rows done, rows in all).

    Raises:
        ValueError: NaN or infinity in a vector or a query (its row is named), a wrong shape, an unknown family.
    """
    index, report = build_with_report(
        vectors,
        family=family,
        seed=seed,
        recall_target=recall_target,
        queries=queries,
        memory_budget_bytes=memory_budget_bytes,
        device=device,
        progress=progress,
    )
    if not report.reached:
        log.warning(
            "%s index: expected a recall of %g, the most thorough setting has %.3f; take another family or a lower one",
            report.family,
            recall_target,
            report.recall,
        )
    return index


def build_with_report(
    vectors: np.ndarray,
    *,
    family: str = "auto",
    seed: int = 0,
    recall_target: float = 0.95,
    queries: np.ndarray | None = None,
    memory_budget_bytes: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> tuple[Index, TuningReport]:
    """Do as `build_index` does and return the tuning curve as well; the curve of exact search is empty."""
    n_items, dim = check_shape(vectors)
    if not 0 < recall_target <= 1:
        raise ValueError(f"recall_target: expected a share over 0 and at most 1, got {recall_target!r}")
    queries = check_asked(queries, dim)
    if family == "auto":
        family = choose_family(n_items, dim, memory_budget_bytes=memory_budget_bytes, recall_target=recall_target)
    if family == "exact":
        nothing = TuningReport("exact", recall_target, 0, 0, {}, 1.0, reached=True, trials=())
        return build_exact(vectors, progress=progress), nothing
    if family in IVF_FAMILIES:
        code_bits = code_bits_for(recall_target)
        # What misses the target behind a projection is built again without one.
        for keep in (KEEP, 1) if code_bits == 6 else (1,):
            built = build_ivf(
                vectors,
                family=family,
                code_bits=code_bits,
                keep=keep,
                queries=queries,
                seed=seed,
                device=device,
                progress=progress,
            )
            tuned, report = tune(built, vectors, queries=queries, recall_target=recall_target, seed=seed)
            if report.reached or not built.projected:
                break
        return tuned, report
    if family == CAGRA:
        built = build_cagra(vectors, progress=progress)
    elif family in FAMILIES:
        built = build_hnsw(vectors, family=family, seed=seed, progress=progress)
    else:
        raise ValueError(f"family: expected 'auto' or one of {', '.join(FAMILIES)}, got {family!r}")
    return tune(built, vectors, queries=queries, recall_target=recall_target, seed=seed)
