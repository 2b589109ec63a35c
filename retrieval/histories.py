"""Interactions as the models read them: item rows per user, oldest first; what was shown; everybody's in one order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.data import Interactions, Split

_SHARES = 10_000.0
_VISIT = 1e-3
_ERAS = 32


@dataclass(frozen=True)
class Shown:
    """What one user was shown and did not take: item rows, int64 (n,), and how many interactions came before each
    showing, int64 (n,); a showing at the very time of an interaction belongs to that interaction's moment."""

    rows: np.ndarray
    after: np.ndarray


def histories_of(interactions: Interactions) -> list[np.ndarray]:
    """Item rows per user row, int64, oldest first."""
    rows, offsets = interactions.item_rows.astype(np.int64), interactions.offsets
    return [rows[offsets[user] : offsets[user + 1]] for user in range(interactions.n_users)]


@dataclass(frozen=True)
class Timeline:
    """Everybody's interactions in one order, oldest first: item rows, int64 (n,), and times, float64 (n,).

    newest: float64 (n_users,), when each user with interactions was last here, in the unit of the times.
    apart: per user row, see `first_apart`. eras: per user row, in which era (see `era_starts`) each item was taken,
    int64.
    """

    items: np.ndarray
    times: np.ndarray
    newest: np.ndarray
    apart: list[np.ndarray]
    eras: list[np.ndarray]

    @classmethod
    def of(cls, interactions: Interactions) -> Timeline:
        """The order of a table; at one time by row."""
        order = np.argsort(interactions.times, kind="stable")
        newest = newest_times(interactions)
        times = interactions.times[order].astype(np.float64)
        rows, known = interactions.item_rows[order].astype(np.int64), newest[np.isfinite(newest)]
        eras = np.searchsorted(era_starts(times), interactions.times.astype(np.float64), side="right")
        per_user = [eras[start:end] for start, end in itertools.pairwise(interactions.offsets)]
        return cls(rows, times, known, first_apart(interactions), per_user)


def era_starts(times: np.ndarray) -> np.ndarray:
    """Rising times, float64 (n,), in at most _ERAS equally full parts: the first time of each but the oldest."""
    if not len(times):
        return np.empty(0)
    starts = np.unique(times[len(times) * np.arange(1, _ERAS) // _ERAS])
    return starts[starts > times[0]]


def first_apart(interactions: Interactions) -> list[np.ndarray]:
    """Per user row and place of its history, the first place a visit later, int64; the history's length if none is.

    That is more than _VISIT of the time the table spans (see `span_of`) after it: a day of three years.
    """
    times, offsets = interactions.times.astype(np.float64), interactions.offsets
    gap = _VISIT * span_of(times)
    own = [times[offsets[user] : offsets[user + 1]] for user in range(interactions.n_users)]
    return [np.searchsorted(one, one + gap, side="right") for one in own]


def span_of(times: np.ndarray, end: float | None = None) -> float:
    """The time that a table spans until the end (its newest time, if not given), but for the oldest thousandth of it: a
    single time of 0 among those of a year would make it a century. 0 without times."""
    if not len(times):
        return 0.0
    oldest = len(times) // 1000
    return (float(times.max()) if end is None else end) - float(np.partition(times, oldest)[oldest])


def newest_times(interactions: Interactions) -> np.ndarray:
    """When every user was last here: float64 (n_users,), nan for users without interactions."""
    newest = np.full(interactions.n_users, np.nan)
    present = np.flatnonzero(np.diff(interactions.offsets))
    newest[present] = interactions.times[interactions.offsets[present + 1] - 1]
    return newest


def shown_of(interactions: Interactions) -> list[Shown] | None:
    """Per user row what was shown and not taken, and when; None when the data has no impressions."""
    negatives = interactions.negatives
    if not len(negatives):
        return None
    starts = np.searchsorted(negatives.user_rows, np.arange(interactions.n_users + 1))
    rows, offsets = negatives.item_rows.astype(np.int64), interactions.offsets
    result = []
    for user in range(interactions.n_users):
        own = slice(starts[user], starts[user + 1])
        taken_at = interactions.times[offsets[user] : offsets[user + 1]]
        result.append(Shown(rows[own], np.searchsorted(taken_at, negatives.times[own], side="left")))
    return result


def time_away(interactions: Interactions, *, at: float | None = None) -> np.ndarray:
    """How long every user has been away: log(1 + 10,000 * time since the newest interaction / time the table spans).

    At the most that is the whole span (see `span_of`).

    Who took something a minute ago goes on with that; who comes back after months asks for other things. In hours of
    a year the 10,000 is about 1, and the measure has no unit.

    Args:
        at: the moment, not before the newest interaction; that one, if not given.

    Returns:
        float32 (n_users,), nan for users without interactions.
    """
    if not len(interactions):
        return np.full(interactions.n_users, np.nan, dtype=np.float32)
    end = float(interactions.times.max()) if at is None else at
    span = max(span_of(interactions.times, end), np.finfo(np.float64).tiny)
    share = np.minimum((end - newest_times(interactions)) / span, 1.0)
    return np.log1p(_SHARES * share).astype(np.float32)


def last_visits(interactions: Interactions, *, at: float | None = None) -> np.ndarray:
    """Every user's last visit: float64 (n_users, 2), how long ago it was (`time_away`) and when (`newest_times`)."""
    return np.stack([time_away(interactions, at=at), newest_times(interactions)], axis=1)


@dataclass(frozen=True)
class Followed:
    """A user row, its history before a moment (rows, oldest first), and what it took after it (distinct rows).

    visit: float64 (2,), the last one before the moment, see `last_visits`.
    """

    user: int
    history: np.ndarray
    taken: np.ndarray
    visit: np.ndarray


def taken_after(
    parts: Split, histories: Sequence[np.ndarray], *, keep_seen: bool, only: np.ndarray | None = None
) -> list[Followed]:
    """What every user of a time split took after its moment; users who took nothing that counts are left out.

    Args:
        histories: of `parts.train`. keep_seen: where seen items may not come again, only new ones count.
        only: bool (n_users,), of these users.
    """
    found, visits = [], last_visits(parts.train, at=parts.moment)
    for place, user in enumerate(parts.test_users):
        if only is not None and not only[user]:
            continue
        taken = parts.held_out.distinct(place)
        counts = taken if keep_seen else taken[~np.isin(taken, histories[user])]
        if len(counts):
            found.append(Followed(int(user), histories[user], counts, visits[user]))
    return found
