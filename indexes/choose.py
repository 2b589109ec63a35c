"""Which family and which parameters, for n items, a recall target and a memory budget."""

import math
from collections.abc import Callable

import numpy as np

from indexes.exact import build_exact
from indexes.hits import Index, recall
from indexes.hnsw import HnswIndex, build_hnsw
from indexes.ivf import IvfIndex, build_ivf
from indexes.vectors import Progress, check_shape, sample_rows

FAMILIES = ("exact", "ivf", "ivf_sq8", "hnsw", "hnsw_sq8")
EXACT_ITEMS = 50_000
"""Exact search is the choice up to here: 2,573 queries/s on two cores at 384 dimensions, nothing to tune."""
TUNING_QUERIES = 500
TUNING_DEPTH = 100


def choose_family(n_items: int, dim: int, *, memory_budget_bytes: int | None = None) -> str:
    """Return what `build_index` takes on its own: exact while small and fitting, else IVF with codes."""
    exact_bytes = 4 * n_items * dim
    fits = memory_budget_bytes is None or exact_bytes <= memory_budget_bytes
    return "exact" if n_items <= EXACT_ITEMS and fits else "ivf_sq8"


def build_index(
    vectors: np.ndarray,
    *,
    family: str = "auto",
    seed: int = 0,
    recall_target: float = 0.95,
    queries: np.ndarray | None = None,
    memory_budget_bytes: int | None = None,
    progress: Progress | None = None,
) -> Index:
    """Build an index over float32 (n_items, dim) and tune its search against exact search.

    Args:
        family: "auto" or one of FAMILIES.
        recall_target: share of the exact top 100 to find, over 0 and at most 1.
        queries: float32 (n, dim), real queries (users) to tune on; None takes a sample of the vectors.

    Raises:
        ValueError: NaN or infinity in a vector (its row is named), a wrong shape, an unknown family.
    """
    n_items, dim = check_shape(vectors)
    if not 0 < recall_target <= 1:
        raise ValueError(f"recall_target: expected a share over 0 and at most 1, got {recall_target!r}")
    if family == "auto":
        family = choose_family(n_items, dim, memory_budget_bytes=memory_budget_bytes)
    if family == "exact":
        return build_exact(vectors, progress=progress)
    if family in ("ivf", "ivf_sq8"):
        built = build_ivf(vectors, family=family, seed=seed, progress=progress)
        steps = [("n_probe", value) for value in _doubling(1, built.n_lists)]
    elif family in ("hnsw", "hnsw_sq8"):
        built = build_hnsw(vectors, family=family, seed=seed, progress=progress)
        steps = [("ef_search", value) for value in _doubling(16, max(16, n_items))]
    else:
        raise ValueError(f"family: expected 'auto' or one of {', '.join(FAMILIES)}, got {family!r}")
    sample = sample_rows(vectors if queries is None else queries, TUNING_QUERIES, seed=seed)
    return _tune(built, steps, vectors, sample, recall_target)


def _doubling(first: int, last: int) -> list[int]:
    return [min(first * 2**i, last) for i in range(math.ceil(math.log2(max(last / first, 1))) + 1)]


def _tune(
    index: IvfIndex | HnswIndex,
    steps: list[tuple[str, int]],
    vectors: np.ndarray,
    queries: np.ndarray,
    recall_target: float,
) -> IvfIndex | HnswIndex:
    # With fewer rows at hand than hits asked for, a search repairs itself by a scan: no setting to choose.
    floor = 1 if isinstance(index, HnswIndex) else math.ceil(2 * TUNING_DEPTH * index.n_lists / index.n_items)
    truth = build_exact(vectors).search(queries, TUNING_DEPTH)

    def at(value: int) -> IvfIndex | HnswIndex:
        return index.with_params(**{steps[0][0]: value})

    values = [value for _, value in steps if value >= floor] or [steps[-1][1]]
    return at(_smallest(values, lambda value: recall(at(value).search(queries, TUNING_DEPTH), truth) >= recall_target))


def _smallest(values: list[int], good: Callable[[int], bool]) -> int:
    """Return the smallest value that is good, refined between the last bad step and the first good one."""
    low = None
    for value in values:
        if good(value):
            break
        low = value
    else:
        return values[-1]
    if low is None:
        return value
    high = value
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high
