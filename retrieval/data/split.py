"""Interactions become a training table and held-out targets, by a user's last ones or by a moment in time.

Nothing later than a target reaches its training history: not the user's own interactions, nor impressions.
"""

import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

import numpy as np

from retrieval.data.tables import Interactions

SPLITS = ("leave-last-out", "time")
"""By the names that an evaluation calls them."""


def require_split(name: str, *, option: str = "split") -> str:
    """The name, if it is one of `SPLITS`; raises ValueError otherwise, with what the caller calls it."""
    if name not in SPLITS:
        raise ValueError(f"{option}: expected one of {', '.join(SPLITS)}, got {name!r}")
    return name


@dataclass(frozen=True, eq=False)
class Targets:
    """Held-out items per user: user n has items[offsets[n]:offsets[n + 1]], in time order."""

    users: np.ndarray
    """int32 (n_users,): user rows, rising."""
    offsets: np.ndarray
    """int64 (n_users + 1,)."""
    items: np.ndarray
    """int32 (n,): item rows; an item a user took twice is there twice."""
    times: np.ndarray
    """float64 (n,)."""

    @classmethod
    def of(cls, interactions: Interactions, places: np.ndarray) -> "Targets":
        """Groups the rows at rising positions by user."""
        users, counts = np.unique(interactions.user_rows[places], return_counts=True)
        offsets = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        return cls(users.astype(np.int32), offsets, interactions.item_rows[places], interactions.times[places])

    def __len__(self) -> int:
        return len(self.users)

    def distinct(self, place: int) -> np.ndarray:
        """Distinct item rows of the user at this place, int64, rising."""
        return np.unique(self.items[self.offsets[place] : self.offsets[place + 1]]).astype(np.int64)

    def as_list(self) -> list[np.ndarray]:
        """`distinct` per user: what the metrics take."""
        return [self.distinct(place) for place in range(len(self))]


@dataclass(frozen=True, eq=False)
class Split:
    """A training table and what is held out from it. Users and items have the same rows as in the whole table."""

    train: Interactions
    held_out: Targets
    """Of users with at least one interaction in `train`."""
    no_history: Targets
    """Of users without one: cold users, to be measured apart."""
    moment: float | None = None
    """The time that parts train from targets, where there is one for all."""

    @property
    def test_users(self) -> np.ndarray:
        """int32 (n_test_users,): user rows, rising."""
        return self.held_out.users

    @cached_property
    def targets(self) -> list[np.ndarray]:
        """Distinct target item rows of every test user, int64."""
        return self.held_out.as_list()


def leave_last_out(interactions: Interactions, *, n_last: int = 1) -> Split:
    """Holds out every user's last `n_last` interactions; users who would have no history left keep all of theirs.

    "Last" is by time, then input order. Impressions at or after a user's first held-out moment leave `train` too.

    Raises:
        ValueError: n_last below 1, or no user with more than n_last interactions.
    """
    if n_last < 1:
        raise ValueError(f"expected n_last of 1 or more, got {n_last}")
    counts = np.diff(interactions.offsets)
    tested = counts > n_last
    if not tested.any():
        raise ValueError(f"expected users with more than {n_last} interactions to hold some out, got none")
    from_end = np.repeat(interactions.offsets[1:], counts) - np.arange(len(interactions))  # 1 for the last one
    held_out = (from_end <= n_last) & tested[interactions.user_rows]
    first_held_out = np.full(interactions.n_users, np.inf)
    np.minimum.at(first_held_out, interactions.user_rows[held_out], interactions.times[held_out])
    return _split(interactions, held_out, first_held_out, None)


def time_split(interactions: Interactions, *, quantile: float = 0.9, at: float | None = None) -> Split:
    """Trains on everything before one moment and holds out everything from it on.

    Args:
        quantile: share of the interactions before the moment, where `at` is not given.
        at: the moment, in the unit of `interactions.times`.

    Raises:
        ValueError: nothing before or nothing after the moment; or the times are places in each user's own history,
            which share no clock.
    """
    at = moment_at(interactions, quantile) if at is None else at
    held_out = interactions.times >= at
    if held_out.all() or not held_out.any():
        oldest, newest = (_written(interactions, time) for time in (interactions.times.min(), interactions.times.max()))
        found = f"all at {oldest}" if oldest == newest else f"from {oldest} to {newest}"
        raise ValueError(
            f"expected times before and after the moment {_written(interactions, at)}, got times {found}; where they "
            "tell no more, hold out everybody's newest item (--split leave-last-out, lists.validation=last)"
        )
    return _split(interactions, held_out, np.full(interactions.n_users, at), at)


def _written(interactions: Interactions, time: float) -> str:
    """A time as a person writes it."""
    if interactions.time_kind == "seconds":
        with contextlib.suppress(ValueError, OverflowError, OSError):  # no date of a calendar
            return datetime.fromtimestamp(float(time), UTC).isoformat(sep=" ").removesuffix("+00:00")
    return f"{time:g}"


def moment_at(interactions: Interactions, quantile: float) -> float:
    """The time before which so large a share of the interactions lies.

    Raises:
        ValueError: quantile not between 0 and 1, or times that share no clock (see `time_split`).
    """
    if not 0 < quantile < 1:
        raise ValueError(f"expected a quantile between 0 and 1, got {quantile!r}")
    _refuse_own_positions(interactions)
    return float(np.quantile(interactions.times, quantile, method="higher"))


def _split(interactions: Interactions, held_out: np.ndarray, ends: np.ndarray, moment: float | None) -> Split:
    """`held_out` bool (n,); `ends` float64 (n_users,): the time from which a user's impressions leave training."""
    shown = interactions.negatives
    earlier = shown.take(shown.times < ends[shown.user_rows])
    train = interactions.take(~held_out, negatives=earlier)
    has_history = np.diff(train.offsets)[interactions.user_rows] > 0
    warm, cold = np.flatnonzero(held_out & has_history), np.flatnonzero(held_out & ~has_history)
    return Split(train, Targets.of(interactions, warm), Targets.of(interactions, cold), moment)


def _refuse_own_positions(interactions: Interactions) -> None:
    """Positions that start anew for most users say nothing about who came before whom."""
    if interactions.time_kind != "positions":
        return
    present = np.flatnonzero(np.diff(interactions.offsets))
    starts = interactions.times[interactions.offsets[present]]
    if len(starts) > 1 and (starts == starts.min()).mean() > 0.5:
        raise ValueError(
            "expected times that all users share, got positions that start anew for each user; "
            "use leave_last_out, or pass `at`"
        )


@dataclass(frozen=True, eq=False)
class ColdItems:
    """A training table in which some items have never been seen."""

    train: Interactions
    item_rows: np.ndarray = field(repr=False)
    """int64 (n_cold,): the items without any training interaction or impression, rising."""


def cold_items(interactions: Interactions, *, share: float, seed: int = 0) -> ColdItems:
    """Removes every interaction of a random share of the items that have any, to see how new items fare.

    Raises:
        ValueError: a share outside 0..1, or so small or large that no item is cold or none is left.
    """
    if not 0 < share < 1:
        raise ValueError(f"cold_items: expected a share between 0 and 1, got {share!r}")
    present = np.flatnonzero(interactions.item_counts())
    n_cold = round(share * len(present))
    if n_cold in (0, len(present)):
        raise ValueError(f"expected some of {len(present)} items to be cold and some not, got a share of {share!r}")
    chosen = np.sort(np.random.default_rng(seed).choice(present, n_cold, replace=False))
    is_cold = np.zeros(interactions.n_items, bool)
    is_cold[chosen] = True
    shown = interactions.negatives
    train = interactions.take(~is_cold[interactions.item_rows], negatives=shown.take(~is_cold[shown.item_rows]))
    return ColdItems(train, chosen.astype(np.int64))


def repeat_share(interactions: Interactions) -> float:
    """The share of users whose newest item is one they had taken before: high where people buy again; 0 for no users.

    Users with a single interaction do not count.
    """
    offsets, rows = interactions.offsets, interactions.item_rows
    users = np.flatnonzero(np.diff(offsets) > 1)
    again = [rows[offsets[user + 1] - 1] in rows[offsets[user] : offsets[user + 1] - 1] for user in users]
    return float(np.mean(again)) if again else 0.0
