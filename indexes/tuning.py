"""Finds the cheapest search parameters that reach a recall target, against exact search on sampled queries.

The choice follows counts of compared rows, never clocks, so that the same seed gives the same index on any machine.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np

from indexes.hits import Hits, Param, check_allowed, check_queries, empty_hits, finish, merge, recalls
from indexes.hnsw import SCAN_BELOW, HnswIndex
from indexes.ivf import IvfIndex
from indexes.vectors import blocks, sample_rows

TUNING_QUERIES = 500
FILTER_QUERIES = 200
"""Fewer, since each filter needs an exact search of its own."""
TUNING_DEPTH = 100
REFINE_FACTORS = (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8)
START_FACTOR = 4
REFINE_COST = 64
"""Finding one more row to order again, and ordering it, costs as much as comparing this many short codes: 0.167 us and
0.0026 us, the slopes of 20 settings measured on one thread (250,000 x 384 in 288 dimensions, batches of 500)."""
START_SHARE = 1 / 12
"""Of the lists, tried first: most searches for a recall of 0.95 need about as many."""
PRECISION = 32
"""The number of lists is found to a part in this many: finer changes the speed by less than its noise."""
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
            raise ImportError('plots need matplotlib: pip install ".[report]"') from error
        figure = Figure(figsize=(7, 5))
        axes = figure.subplots()
        for name in sorted({trial.filter for trial in self.trials}):
            points = sorted((trial.rows_compared, trial.recall) for trial in self.trials if trial.filter == name)
            axes.plot(*zip(*points, strict=True), marker=".", label=name or "no filter")
        axes.axhline(self.recall_target, linestyle=":", color="grey")
        axes.set(xlabel="rows compared per query", ylabel=f"recall@{self.depth}", title=self.family, xscale="log")
        axes.legend()
        figure.savefig(path)


def expected_recall(
    found: Hits, truth: Hits, *, queries: np.ndarray | None = None, vectors: np.ndarray | None = None
) -> float:
    """Return the mean of `recalls` less its standard error: the target is meant for queries to come, not for these."""
    shares = recalls(found, truth, queries=queries, vectors=vectors)
    return float(shares.mean() - shares.std() / math.sqrt(shares.size)) if shares.size else 1.0


def exact_hits(vectors: np.ndarray, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None) -> Hits:
    """Search exactly, block by block, so that no second copy of the vectors is made; see `Index.search`."""
    queries, k = check_queries(queries, k, vectors.shape[1]), int(k)
    allowed = check_allowed(allowed, len(vectors))
    parts: list[Hits] = []
    start = 0
    for block in blocks(vectors):
        rows = np.arange(start, start + len(block), dtype=np.int64)
        start += len(block)
        if allowed is not None:
            rows, block = rows[allowed[rows]], block[allowed[rows]]
        if rows.size == 0 or len(queries) == 0:
            continue
        scores, local = faiss.knn(queries, block, min(k, rows.size), metric=faiss.METRIC_INNER_PRODUCT)
        found = finish(scores, rows[local], k)
        parts = [merge([*parts, found], k)]
    return parts[0] if parts else empty_hits(len(queries), k)


def check_asked(queries: np.ndarray | None, dim: int) -> np.ndarray | None:
    """Return the queries to tune on as `check_queries` does; None where there are none."""
    checked = None if queries is None else check_queries(queries, 1, dim)
    return None if checked is None or len(checked) == 0 else checked


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
        queries: float32 (n, dim), real ones (users); None or no rows takes a sample of the vectors.
    """
    queries = check_asked(queries, index.dim)
    sample = sample_rows(vectors if queries is None else queries, TUNING_QUERIES, seed=seed)
    truth = exact_hits(vectors, sample, min(TUNING_DEPTH, index.n_items))
    search = _Search(vectors, sample, truth, recall_target, [])
    found = search.cheapest(index)
    chosen = _widen(found.index, vectors, sample[:FILTER_QUERIES], recall_target, seed, search.trials)
    report = TuningReport(
        family=index.family,
        recall_target=recall_target,
        depth=search.depth,
        n_queries=len(sample),
        chosen=dict(chosen.params),
        recall=found.recall,
        reached=found.reached,
        trials=tuple(search.trials),
    )
    return chosen, report


class _Found(NamedTuple):
    """A setting, its recall, and whether that is the target or just the most there is."""

    index: IvfIndex | HnswIndex
    recall: float
    reached: bool


@dataclass(frozen=True)
class _Search:
    """Looks for the cheapest setting that reaches the target without a filter, and notes every trial."""

    vectors: np.ndarray
    queries: np.ndarray
    truth: Hits
    target: float
    trials: list[Trial]

    @property
    def depth(self) -> int:
        return self.truth.rows.shape[1]

    def cheapest(self, index: IvfIndex | HnswIndex) -> _Found:
        """Return the cheapest setting that reaches the target, else the most thorough one.

        Of two numbers of rows ordered again the better one needs one trial to be known: at the number of lists where
        both cost the same.
        """
        if index.family != "ivf_pq":
            return self.smallest(index)
        start = REFINE_FACTORS.index(START_FACTOR)
        fewer, more = REFINE_FACTORS[:start][::-1], REFINE_FACTORS[start + 1 :]
        found = self.smallest(index.with_params(refine=START_FACTOR))
        cheaper = self._improve(found, fewer) if found.reached else found
        return self._improve(found, more) if cheaper is found else cheaper

    def _improve(self, best: _Found, factors: Sequence[float]) -> _Found:
        """Order other numbers of rows again, one after the other, as long as each is better than the one before."""
        for factor in factors:
            other = best.index.with_params(refine=factor)
            first, last = _range(other, self.depth)
            if best.reached:
                last = min(last, _value_at(other, _cost(best.index, self.depth), self.depth))
            if last < first:
                return best
            found = self.smallest(other, last=last)
            if best.reached and not found.reached:
                return best
            best = found
        return best

    def smallest(self, index: IvfIndex | HnswIndex, *, last: int | None = None) -> _Found:
        """Return the smallest n_probe or ef_search that reaches the target; none over `last`, tried first if given."""
        first, end = _range(index, self.depth)
        guess = first if isinstance(index, HnswIndex) else round(START_SHARE * index.n_lists)
        low, value = first - 1, min(max(guess, first), end) if last is None else last
        last = end if last is None else last
        seen: dict[int, float] = {}

        def good(value: int) -> bool:
            if value not in seen:
                seen[value] = self.try_out(_at(index, value))
            return seen[value] >= self.target

        # `value` reaches the target, or is `last`; `low` does not, or is below `first`.
        while not good(value) and value < last:
            low, value = value, min(2 * value, last)
        while good(value) and low < first < value:
            half = max(first, value // 2)
            low, value = (low, half) if good(half) else (half, value)
        while good(value) and value - low > max(1, value // PRECISION):
            middle = (low + value) // 2
            low, value = (low, middle) if good(middle) else (middle, value)
        return _Found(_at(index, value), seen[value], good(value))

    def try_out(self, index: IvfIndex | HnswIndex) -> float:
        """Note one setting, and return the recall it has."""
        hits = index.search(self.queries, self.depth)
        found = expected_recall(hits, self.truth, queries=self.queries, vectors=self.vectors)
        self.trials.append(Trial(dict(index.params), "", round(found, 4), _rows_compared(index)))
        return found


def _at(index: IvfIndex | HnswIndex, value: int) -> IvfIndex | HnswIndex:
    return index.with_params(**{"n_probe" if isinstance(index, IvfIndex) else "ef_search": value})


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


def _value_at(index: IvfIndex | HnswIndex, cost: float, depth: int) -> int:
    """Return the largest n_probe that costs less, with the rows that this index orders again."""
    rows = cost - REFINE_COST * depth * float(index.params.get("refine", 0))
    return math.ceil(rows * index.n_lists / index.n_items) - 1 if isinstance(index, IvfIndex) else 0


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
            hits = tried.search(queries, depth, allowed=allowed)
            found = expected_recall(hits, truth, queries=queries, vectors=vectors)
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
