"""Finds the cheapest search parameters that reach a recall target, against exact search on sampled queries.

The choice follows counts of compared rows, never clocks, so that the same seed gives the same index on any machine.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import faiss
import numpy as np

from indexes.hits import Hits, Param, finish, merge, recalls
from indexes.hnsw import SCAN_BELOW, HnswIndex
from indexes.ivf import IvfIndex
from indexes.vectors import blocks, sample_rows

TUNING_QUERIES = 500
FILTER_QUERIES = 200
"""Fewer, since each filter needs an exact search of its own."""
TUNING_DEPTH = 100
REFINE_FACTORS = (2, 3, 4, 8)
REFINE_COST = 14
"""Ordering one row again costs as much as comparing this many short codes: 0.2 us and 0.014 us, measured."""
BREADTHS = (1, 1.5, 2, 3, 4, 6, 8)
RANDOM_SHARES = (0.5, 0.1, 0.02)
SIDE_SHARE = 0.35
"""Rows on one side of a plane: a filter that goes with the meaning of the texts, as categories do."""


@dataclass(frozen=True)
class Trial:
    """One setting and what it found."""

    params: Mapping[str, Param]
    filter: str
    """"" without a filter, else which one."""
    recall: float
    """As `expected_recall` counts it."""
    rows_compared: int
    """Per query, on average: the cost that does not depend on the machine."""


@dataclass(frozen=True)
class TuningReport:
    """The settings tried, and the one taken."""

    family: str
    recall_target: float
    depth: int
    n_queries: int
    chosen: Mapping[str, Param]
    recall: float
    reached: bool
    """False: no setting reaches the target, and the most thorough one was taken."""
    trials: tuple[Trial, ...]

    def to_json(self) -> dict[str, object]:
        """Return plain dicts and lists, as json.dumps takes them."""
        return asdict(self)

    def plot(self, path: Path | str) -> None:
        """Draw recall against rows compared into an image file; needs the extra [report]."""
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError('plots need matplotlib: pip install "tandem-recommender[report]"') from error
        figure = Figure(figsize=(7, 5))
        axes = figure.subplots()
        for name in sorted({trial.filter for trial in self.trials}):
            points = sorted((trial.rows_compared, trial.recall) for trial in self.trials if trial.filter == name)
            axes.plot(*zip(*points, strict=True), marker=".", label=name or "no filter")
        axes.axhline(self.recall_target, linestyle=":", color="grey")
        axes.set(xlabel="rows compared per query", ylabel=f"recall@{self.depth}", title=self.family, xscale="log")
        axes.legend()
        figure.savefig(path)


def expected_recall(found: Hits, truth: Hits) -> float:
    """Return the mean recall less its standard error: the target is meant for queries to come, not for the sample."""
    shares = recalls(found, truth)
    return float(shares.mean() - shares.std() / math.sqrt(shares.size)) if shares.size else 1.0


def exact_hits(vectors: np.ndarray, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None) -> Hits:
    """Search exactly, block by block, so that no second copy of the vectors is made."""
    parts: list[Hits] = []
    start = 0
    for block in blocks(vectors):
        rows = np.arange(start, start + len(block), dtype=np.int64)
        start += len(block)
        if allowed is not None:
            rows, block = rows[allowed[rows]], block[allowed[rows]]
        if rows.size == 0:
            continue
        scores, local = faiss.knn(queries, block, min(k, rows.size), metric=faiss.METRIC_INNER_PRODUCT)
        found = finish(scores, rows[local], k)
        parts = [merge([*parts, found], k)]
    return parts[0]


def tune(
    index: IvfIndex | HnswIndex,
    vectors: np.ndarray,
    *,
    queries: np.ndarray | None = None,
    recall_target: float = 0.95,
    seed: int = 0,
) -> tuple[IvfIndex | HnswIndex, TuningReport]:
    """Return the index with the parameters found, and how they were found.

    Args:
        vectors: what the index was built from.
        queries: float32 (n, dim), real ones (users); None takes a sample of the vectors.
    """
    sample = sample_rows(vectors if queries is None else queries, TUNING_QUERIES, seed=seed)
    depth = min(TUNING_DEPTH, index.n_items)
    truth = exact_hits(vectors, sample, depth)
    trials: list[Trial] = []
    best: tuple[float, IvfIndex | HnswIndex, float] | None = None
    for start in _starts(index):
        if best is not None and best[0] <= REFINE_COST * depth * float(start.params.get("refine", 0)):
            break  # ordering that many rows again costs more than all of the best so far
        tuned, found = _search_smallest(start, sample, truth, recall_target, trials)
        cost = _cost(tuned, depth)
        if found >= recall_target and (best is None or cost < best[0]):
            best = (cost, tuned, found)
        elif best is None:
            last = (cost, tuned, found)
    reached = best is not None
    _, chosen, found = best if best is not None else last
    chosen = _widen(chosen, vectors, sample[:FILTER_QUERIES], recall_target, seed, trials)
    report = TuningReport(
        family=index.family,
        recall_target=recall_target,
        depth=depth,
        n_queries=len(sample),
        chosen=dict(chosen.params),
        recall=found,
        reached=reached,
        trials=tuple(trials),
    )
    return chosen, report


def _starts(index: IvfIndex | HnswIndex) -> Iterator[IvfIndex | HnswIndex]:
    """Yield the index once for each setting of its second parameter."""
    if index.family == "ivf_pq":
        for refine in REFINE_FACTORS:
            yield index.with_params(refine=refine)
    else:
        yield index


def _search_smallest(
    index: IvfIndex | HnswIndex, queries: np.ndarray, truth: Hits, target: float, trials: list[Trial]
) -> tuple[IvfIndex | HnswIndex, float]:
    """Return the index at the smallest n_probe or ef_search that reaches the target, or at the largest."""
    depth = truth.rows.shape[1]
    seen: dict[int, float] = {}

    def at(value: int) -> IvfIndex | HnswIndex:
        return index.with_params(**{"n_probe" if isinstance(index, IvfIndex) else "ef_search": value})

    def good(value: int) -> bool:
        seen[value] = expected_recall(at(value).search(queries, depth), truth)
        trials.append(Trial(dict(at(value).params), "", round(seen[value], 4), _rows_compared(at(value))))
        return seen[value] >= target

    first, last = _range(index, depth)
    low, value = None, first
    while not good(value) and value < last:
        low, value = value, min(2 * value, last)
    if seen[value] >= target and low is not None:
        while value - low > max(1, value // 16):
            middle = (low + value) // 2
            low, value = (low, middle) if good(middle) else (middle, value)
    return at(value), seen[value]


def _range(index: IvfIndex | HnswIndex, depth: int) -> tuple[int, int]:
    if isinstance(index, HnswIndex):
        return depth, max(depth, index.n_items)
    # Lists holding fewer than the rows asked for would be repaired by a full scan: recall 1 at no small price.
    first = math.ceil(2 * depth * index.n_lists / index.n_items)
    return min(first, index.n_lists), index.n_lists


def _rows_compared(index: IvfIndex | HnswIndex) -> int:
    if isinstance(index, HnswIndex):
        return int(index.params["ef_search"])  # each kept row has its neighbours compared: proportional
    return round(index.n_probe / index.n_lists * index.n_items)


def _cost(index: IvfIndex | HnswIndex, depth: int) -> float:
    refined = depth * float(index.params.get("refine", 0))
    return _rows_compared(index) + REFINE_COST * refined


def _widen(
    index: IvfIndex | HnswIndex,
    vectors: np.ndarray,
    queries: np.ndarray,
    target: float,
    seed: int,
    trials: list[Trial],
) -> IvfIndex | HnswIndex:
    """Raise "breadth" until filtered searches reach the target too, for random filters and for one with a meaning."""
    breadth = 0
    for name, allowed in _filters(index, vectors, seed):
        depth = min(TUNING_DEPTH, int(np.count_nonzero(allowed)))
        truth = exact_hits(vectors, queries, depth, allowed=allowed)
        while True:
            tried = index.with_params(breadth=BREADTHS[breadth])
            found = expected_recall(tried.search(queries, depth, allowed=allowed), truth)
            trials.append(Trial(dict(tried.params), name, round(found, 4), _rows_compared(tried)))
            if found >= target or breadth + 1 == len(BREADTHS):
                break
            breadth += 1
    return index.with_params(breadth=BREADTHS[breadth])


def _filters(index: IvfIndex | HnswIndex, vectors: np.ndarray, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for share in RANDOM_SHARES:
        allowed = rng.random(index.n_items) < share
        if (isinstance(index, IvfIndex) or share >= SCAN_BELOW) and allowed.any():
            yield f"random {share:g}", allowed
    normal = rng.normal(size=index.dim).astype(np.float32)
    side = np.concatenate([block @ normal for block in blocks(vectors)])
    allowed = side >= np.quantile(side, 1 - SIDE_SHARE)
    if not allowed.all():
        yield f"side {SIDE_SHARE:g}", allowed
