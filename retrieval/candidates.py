"""Stage one: the union of what the sources find, with a score from every source for every candidate.

A candidate's features are, per source, how far its score lies above the user's average candidate (in deviations,
except where scores are shares) and its rank among the candidates on a log scale: both mean the same for every user and
every fit of a source. An item that nobody took has features of its own besides, as most sources can say nothing of it.
Then come the details.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.details import Details
from retrieval.sources.base import Queries, Scan, Source
from retrieval.sources.fresh import FreshSource
from retrieval.sources.popular import PopularSource
from retrieval.sources.recent import RecentSource

READING = ("dense", "taste", "second", "neighbours", "transitions", "walk", "content", "lexical")
"""Sources that can say something of an item nobody took: by its text, or by what it borrows (`retrieval.lending`)."""
COUNTING = (PopularSource.name, RecentSource.name, FreshSource.name)
SHARES = (FreshSource.name,)
"""Sources whose scores mean the same for everybody as they are: who missed little, missed little."""


@dataclass(frozen=True)
class Candidates:
    """Candidates of a batch of users, best recall score first.

    rows: int64 (n_users, depth), -1 where a user has fewer.
    features: float32 (n_users, depth, n_features), 0 at padding; the columns are `feature_names(sources, details)`.
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


def feature_names(sources: Sequence[Source], details: Details | None = None) -> list[str]:
    """The names of the feature columns: two per source, what is told of new items, and the details."""
    names = [f"{source.name}_{kind}" for kind in ("score", "rank") for source in sources]
    if any(isinstance(source, PopularSource) for source in sources):
        names += ["new_item", *(f"new_{source.name}" for source in sources if source.name in READING)]
    return names if details is None else [*names, *details.names]


def gather_candidates(
    sources: Sequence[Source],
    queries: Queries,
    *,
    per_source: int,
    details: Details | None = None,
    allowed: np.ndarray | None = None,
    only: np.ndarray | None = None,
    n_best: int | None = None,
    extra: Sequence[np.ndarray] | None = None,
) -> Candidates:
    """The union of the sources' best, in no order yet (recall scores are 0; see `Candidates.ordered`).

    Features are measured among what the sources find of `allowed` items, `per_source` each: an item has the same ones
    however a list is filtered or lengthened, and whatever further items are scored beside it.

    Args:
        per_source: how many items each source gives for each user.
        details: what is told of every candidate beside the sources' scores; its columns stand last.
        allowed: bool (n_items,); only these items.
        only: bool (n_items,), a filter: candidates are each source's best of these.
        n_best: how many items each source gives as candidates, where that is not `per_source`.
        extra: per user further item rows to score (int64), whether or not a source finds or `exclude` forbids them.
    """
    scans = [source.scan(queries) for source in sources]
    among = tops = [scan.top(per_source, allowed=allowed).rows for scan in scans]
    if only is not None or (n_best or per_source) != per_source:
        barred = only if allowed is None else allowed if only is None else allowed & only
        tops = [scan.top(n_best or per_source, allowed=barred).rows for scan in scans]
    if tops is among and extra is None:
        rows = _unions(_by_user(tops, len(queries)))
        features = _features(sources, scans, queries, rows, rows >= 0, details)
    else:
        found = _by_user(among, len(queries))
        wanted = _by_user(tops if extra is None else [*tops, extra], len(queries))
        rows = _unions([np.concatenate(both) for both in zip(found, wanted, strict=True)])
        features = _features(sources, scans, queries, rows, _among(rows, found), details)
        rows = np.where(_among(rows, wanted), rows, -1)
    found_by = np.zeros(rows.shape, dtype=np.uint32)
    for bit, top in enumerate(tops):
        found_by |= _among(rows, top).astype(np.uint32) << np.uint32(bit)
    return Candidates(
        rows=rows,
        features=features * (rows >= 0)[:, :, None],
        scores=np.zeros(rows.shape, np.float32),
        found_by=found_by,
    )


def _by_user(parts: Sequence[Sequence[np.ndarray] | np.ndarray], n_users: int) -> list[np.ndarray]:
    """The rows of all parts, each of which has rows of every user: int64 (n,) per user, with repetitions."""
    empty = np.empty(0, dtype=np.int64)
    return [np.concatenate([empty, *(part[user] for part in parts)]) for user in range(n_users)]


def _unions(found: Sequence[np.ndarray]) -> np.ndarray:
    """Every user's different rows, rising: int64 (n_users, depth), -1 at padding."""
    unions = [np.unique(rows[rows >= 0]) for rows in found]
    rows = np.full((len(unions), max(map(len, unions), default=0)), -1, dtype=np.int64)
    for user, union in enumerate(unions):
        rows[user, : len(union)] = union
    return rows


def _among(rows: np.ndarray, others: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Which of a user's rows are among others of this user: bool (n_users, depth), False at padding."""
    same = [np.isin(own, given) for own, given in zip(rows, others, strict=True)]
    return np.array(same, dtype=bool).reshape(rows.shape) & (rows >= 0)


def _features(
    sources: Sequence[Source],
    scans: Sequence[Scan],
    queries: Queries,
    rows: np.ndarray,
    among: np.ndarray,
    details: Details | None,
) -> np.ndarray:
    """What is told of every candidate, measured among some of them: float32 (n_users, depth, n_features)."""
    raw = np.stack([scan.at(rows) for scan in scans], axis=2) if scans else np.empty((*rows.shape, 0), dtype=np.float32)
    features = standardise(raw, rows, among)
    for place, source in enumerate(sources):
        if source.name in SHARES:
            features[:, :, place] = _above_mean(raw[:, :, place], among) * (rows >= 0)
    new = _new_items(sources, rows)
    if new is not None:
        counting = [place for place, source in enumerate(sources) if source.name in COUNTING]
        for column in (*counting, *(len(sources) + place for place in counting)):
            features[:, :, column] = _as_average(features[:, :, column], new, among)
        told = [features[:, :, place] for place, source in enumerate(sources) if source.name in READING]
        features = np.concatenate([features, np.stack([np.ones(rows.shape), *told], axis=2) * new[:, :, None]], axis=2)
    if details is not None:
        raw = details.raw(rows, queries.histories)
        features = np.concatenate([features, z_scores(raw, rows, among)], axis=2)
    return features.astype(np.float32)


def _new_items(sources: Sequence[Source], rows: np.ndarray) -> np.ndarray | None:
    """Which candidates nobody took: bool (n_users, depth); None where no source counts interactions."""
    popular = next((source for source in sources if isinstance(source, PopularSource)), None)
    return None if popular is None else popular.untaken[np.maximum(rows, 0)] & (rows >= 0)


def _above_mean(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """How far values lie above the mean of the user's candidates in `among`."""
    return values - (values * among).sum(axis=1, keepdims=True) / np.maximum(among.sum(axis=1, keepdims=True), 1)


def _as_average(values: np.ndarray, new: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The values, and at new items the mean of the user's others (of those in `among`).

    How popular a new item is nobody knows yet; that it is the least popular of all would be a guess, and the wrong one.
    """
    known = among & ~new
    mean = (values * known).sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1)
    return np.where(new, mean, values)


def standardise(raw: np.ndarray, rows: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
    """Features that mean the same for every user: z-scores, then log ranks.

    Args:
        raw: float32 (n_users, depth, n_sources), the sources' scores.
        rows: int64 (n_users, depth), -1 at padding.
        among: bool (n_users, depth), the candidates that all are measured among; all of them, if it is not given.

    Returns:
        float32 (n_users, depth, 2 * n_sources); a source that says the same of all candidates of a user gives 0. Ranks
        are 1 for the best and fall by the logarithm, so that 1 against 2 counts as much as 50 against 100.
    """
    z, differ = _deviations(raw, rows, among)
    real = (rows >= 0)[:, :, None]
    counted = real if among is None else among[:, :, None]
    # Equal scores share their rank: the number of candidates that are strictly better.
    raw = raw.astype(np.float64)
    ascending = np.sort(np.where(counted, -raw, np.inf), axis=1)
    rank = np.empty_like(raw)
    for user in range(len(rows)):
        for source in range(raw.shape[2]):
            rank[user, :, source] = np.searchsorted(ascending[user, :, source], -raw[user, :, source])
    log_rank = 1 - np.log2(1 + rank) / np.log2(2 + np.maximum(counted.sum(axis=1, keepdims=True), 2))
    log_rank = np.where(differ, log_rank, 0)
    return np.concatenate([z, (log_rank * real).astype(np.float32)], axis=2)


def z_scores(raw: np.ndarray, rows: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
    """The first half of `standardise`: float32 (n_users, depth, n_sources)."""
    return _deviations(raw, rows, among)[0]


def _deviations(raw: np.ndarray, rows: np.ndarray, among: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """z-scores between -8 and 8, float32 with the shape of raw, 0 at padding; and where scores differ at all."""
    real = (rows >= 0)[:, :, None]
    counted = real if among is None else among[:, :, None]
    count = np.maximum(counted.sum(axis=1, keepdims=True), 1)
    raw = raw.astype(np.float64)
    mean = (raw * counted).sum(axis=1, keepdims=True) / count
    deviation = np.sqrt((np.square(raw - mean) * counted).sum(axis=1, keepdims=True) / count)
    # What rounding in float32 leaves of equal scores says nothing, and may differ from batch to batch.
    differ = deviation > 1e-9 + 1e-6 * np.abs(mean)
    z = np.where(differ, (raw - mean) / np.where(differ, deviation, 1), 0)
    return (np.clip(z, -8, 8) * real).astype(np.float32), differ
