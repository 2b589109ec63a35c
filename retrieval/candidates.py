"""Stage one: the union of what the sources find, with a score from every source for every candidate.

A candidate's features are, per source, how far its score lies above the user's average candidate (in deviations) and
its rank among the candidates on a log scale: both mean the same for every user and every fit of a source. An item that
nobody took has features of its own besides, as most sources can say nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.sources.base import Queries, Source
from retrieval.sources.popular import PopularSource
from retrieval.sources.recent import RecentSource

READING = ("dense", "neighbours", "transitions", "content", "lexical")
"""Sources that can say something of an item nobody took: by its text, or by what it borrows (`retrieval.lending`)."""
COUNTING = (PopularSource.name, RecentSource.name)


@dataclass(frozen=True)
class Candidates:
    """Candidates of a batch of users, best recall score first.

    rows: int64 (n_users, depth), -1 where a user has fewer.
    features: float32 (n_users, depth, n_features), 0 at padding; the columns are `feature_names(sources)`.
    scores: float32 (n_users, depth), the recall score, -inf at padding.
    found_by: uint32 (n_users, depth), bit s is set where source s had the item among its best.
    """

    rows: np.ndarray
    features: np.ndarray
    scores: np.ndarray
    found_by: np.ndarray

    def ordered(self, scores: np.ndarray, *, depth: int | None = None) -> Candidates:
        """The same candidates by other scores (n_users, depth): best first, equal scores in the present order."""
        scores = np.where(self.rows >= 0, scores, -np.inf).astype(np.float32)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        return Candidates(
            rows=np.take_along_axis(self.rows, order, axis=1),
            features=np.take_along_axis(self.features, order[:, :, None], axis=1),
            scores=np.take_along_axis(scores, order, axis=1),
            found_by=np.take_along_axis(self.found_by, order, axis=1),
        )


def feature_names(sources: Sequence[Source]) -> list[str]:
    """The names of the feature columns: two per source, and what is told of new items."""
    names = [f"{source.name}_{kind}" for kind in ("score", "rank") for source in sources]
    if not any(isinstance(source, PopularSource) for source in sources):
        return names
    return [*names, "new_item", *(f"new_{source.name}" for source in sources if source.name in READING)]


def gather_candidates(
    sources: Sequence[Source],
    queries: Queries,
    *,
    per_source: int,
    allowed: np.ndarray | None = None,
    extra: Sequence[np.ndarray] | None = None,
) -> Candidates:
    """The union of the sources' best, in no order yet (recall scores are 0; see `Candidates.ordered`).

    Args:
        per_source: how many items each source gives for each user.
        allowed: bool (n_items,); only these items.
        extra: per user further item rows to score (int64), whether or not a source finds or `exclude` forbids them.
    """
    scans = [source.scan(queries) for source in sources]
    tops = [scan.top(per_source, allowed=allowed).rows for scan in scans]
    unions = []
    for user in range(len(queries)):
        found = [top[user][top[user] >= 0] for top in tops]
        if extra is not None:
            found.append(extra[user])
        unions.append(np.unique(np.concatenate(found)))
    depth = max((len(union) for union in unions), default=0)
    rows = np.full((len(queries), depth), -1, dtype=np.int64)
    for user, union in enumerate(unions):
        rows[user, : len(union)] = union
    found_by = np.zeros(rows.shape, dtype=np.uint32)
    for bit, top in enumerate(tops):
        for user in range(len(queries)):
            found_by[user] |= (np.isin(rows[user], top[user]) & (rows[user] >= 0)).astype(np.uint32) << np.uint32(bit)
    raw = np.stack([scan.at(rows) for scan in scans], axis=2) if scans else np.empty((*rows.shape, 0), dtype=np.float32)
    features = standardise(raw, rows)
    new = _new_items(sources, rows)
    if new is not None:
        counting = [place for place, source in enumerate(sources) if source.name in COUNTING]
        for column in (*counting, *(len(sources) + place for place in counting)):
            features[:, :, column] = _as_average(features[:, :, column], new, rows >= 0)
        told = [features[:, :, place] for place, source in enumerate(sources) if source.name in READING]
        features = np.concatenate([features, np.stack([np.ones(rows.shape), *told], axis=2) * new[:, :, None]], axis=2)
    return Candidates(
        rows=rows,
        features=features.astype(np.float32),
        scores=np.zeros(rows.shape, np.float32),
        found_by=found_by,
    )


def _new_items(sources: Sequence[Source], rows: np.ndarray) -> np.ndarray | None:
    """Which candidates nobody took: bool (n_users, depth); None where no source counts interactions."""
    popular = next((source for source in sources if isinstance(source, PopularSource)), None)
    return None if popular is None else popular.untaken[np.maximum(rows, 0)] & (rows >= 0)


def _as_average(values: np.ndarray, new: np.ndarray, real: np.ndarray) -> np.ndarray:
    """The values, and at new items the mean of the user's others.

    How popular a new item is nobody knows yet; that it is the least popular of all would be a guess, and the wrong one.
    """
    known = real & ~new
    mean = (values * known).sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
    return np.where(new, mean, values)


def standardise(raw: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Features that mean the same for every user: z-scores, then log ranks.

    Args:
        raw: float32 (n_users, depth, n_sources), the sources' scores.
        rows: int64 (n_users, depth), -1 at padding.

    Returns:
        float32 (n_users, depth, 2 * n_sources); a source that says the same of all candidates of a user gives 0. Ranks
        are 1 for the best and fall by the logarithm, so that 1 against 2 counts as much as 50 against 100.
    """
    z, differ = _deviations(raw, rows)
    real = (rows >= 0)[:, :, None]
    # Equal scores share their rank: the number of candidates that are strictly better.
    keyed = np.where(real, raw.astype(np.float64), -np.inf)
    descending = -np.sort(-keyed, axis=1)
    rank = np.empty_like(keyed)
    for user in range(len(rows)):
        for source in range(raw.shape[2]):
            rank[user, :, source] = np.searchsorted(-descending[user, :, source], -keyed[user, :, source])
    log_rank = 1 - np.log2(1 + rank) / np.log2(2 + np.maximum(real.sum(axis=1, keepdims=True), 2))
    log_rank = np.where(differ, log_rank, 0)
    return np.concatenate([z, (log_rank * real).astype(np.float32)], axis=2)


def z_scores(raw: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The first half of `standardise`: float32 (n_users, depth, n_sources)."""
    return _deviations(raw, rows)[0]


def _deviations(raw: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z-scores between -8 and 8, float32 with the shape of raw, 0 at padding; and where scores differ at all."""
    real = (rows >= 0)[:, :, None]
    count = np.maximum(real.sum(axis=1, keepdims=True), 1)
    raw = np.where(real, raw, 0).astype(np.float64)
    mean = raw.sum(axis=1, keepdims=True) / count
    deviation = np.sqrt((np.square(raw - mean) * real).sum(axis=1, keepdims=True) / count)
    # What rounding in float32 leaves of equal scores says nothing, and may differ from batch to batch.
    differ = deviation > 1e-9 + 1e-6 * np.abs(mean)
    z = np.where(differ, (raw - mean) / np.where(differ, deviation, 1), 0)
    return (np.clip(z, -8, 8) * real).astype(np.float32), differ
