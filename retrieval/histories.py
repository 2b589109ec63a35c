"""Interactions as the models read them: item rows per user, oldest first; what was shown; everybody's in one order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retrieval.data import Interactions, Split

_SHARES = 10_000.0


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


def items_by_time(interactions: Interactions) -> np.ndarray:
    """The item row of every interaction of anybody, oldest first: int64 (n_interactions,)."""
    return interactions.item_rows[np.argsort(interactions.times, kind="stable")].astype(np.int64)


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

    Who took something a minute ago goes on with that; who comes back after months asks for other things. In hours of
    a year the 10,000 is about 1, and the measure has no unit.

    Args:
        at: the moment, not before the newest interaction; that one, if not given.

    Returns:
        float32 (n_users,), nan for users without interactions.
    """
    away = np.full(interactions.n_users, np.nan, dtype=np.float32)
    if not len(interactions):
        return away
    present = np.flatnonzero(np.diff(interactions.offsets))
    newest = interactions.times[interactions.offsets[present + 1] - 1]
    end = float(interactions.times.max()) if at is None else at
    span = max(end - float(interactions.times.min()), np.finfo(np.float64).tiny)
    away[present] = np.log1p(_SHARES * (end - newest) / span)
    return away


@dataclass(frozen=True)
class Followed:
    """A user row, its history before a moment (rows, oldest first), and what it took after it (distinct rows).

    away: see `time_away`, at the moment.
    """

    user: int
    history: np.ndarray
    taken: np.ndarray
    away: float


def taken_after(parts: Split, histories: list[np.ndarray], *, keep_seen: bool) -> list[Followed]:
    """What every user of a time split took after its moment; users who took nothing that counts are left out.

    Args:
        histories: of `parts.train`. keep_seen: where seen items may not come again, only new ones count.
    """
    found, away = [], time_away(parts.train, at=parts.moment)
    for user, taken in zip(parts.test_users, parts.targets, strict=True):
        counts = taken if keep_seen else taken[~np.isin(taken, histories[user])]
        if len(counts):
            found.append(Followed(int(user), histories[user], counts, float(away[user])))
    return found
