"""What a fit holds out from itself to choose by: everybody's newest item, or what was taken after a moment.

Which is right depends on what the recommender is for. The newest item is mostly taken minutes after the one before it,
and asks what goes with that; a list that is made once and shown for weeks must know what people come back for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from retrieval.config import Config
from retrieval.data import Interactions, time_split
from retrieval.histories import Followed, Timeline, histories_of, taken_after
from retrieval.stage_one import Validation

_TARGETS_PER_USER = 5
"""Of what a user took after the moment, so many items at random are validation targets."""


@dataclass(frozen=True)
class HeldOut:
    """Training histories without what is held out, and that.

    base: int64 rows per user, oldest first. validation: one item after each history, for whatever is chosen by single
    items. asked: the same users with all that they took. by_time: base in the order it was taken,
    earlier: the table of base, moment: what parts them, and ahead: how far validation asks from it on, in the unit of
    the times; None, and without end, where no moment does.
    """

    base: list[np.ndarray]
    validation: Validation
    asked: Validation
    by_time: Timeline | None = None
    earlier: Interactions | None = field(default=None, repr=False)
    moment: float | None = None
    ahead: float = np.inf


def held_out_of(interactions: Interactions, config: Config) -> HeldOut:
    """What `lists.validation` says is held out.

    Raises:
        ValueError: see `hold_out` and `hold_out_later`.
    """
    options = {"max_users": config.lists.validation_users, "keep_seen": config.keep_seen, "seed": config.seed}
    if config.lists.by_time:
        return hold_out_later(interactions, **options)
    base, validation = hold_out(histories_of(interactions), **options)
    return HeldOut(base, validation, validation)


def hold_out(
    histories: list[np.ndarray], *, max_users: int, keep_seen: bool, seed: int
) -> tuple[list[np.ndarray], Validation]:
    """The newest item of at most max_users users (with 2 or more items) as targets; the others keep theirs.

    Raises:
        ValueError: nobody has 2 items.
    """
    eligible = np.array([user for user, history in enumerate(histories) if len(history) >= 2], dtype=np.int64)
    if not len(eligible):
        raise ValueError("fit: no user has 2 or more interactions, so nothing can be held out; give more interactions")
    if len(eligible) > max_users:
        eligible = np.sort(np.random.default_rng(seed).choice(eligible, max_users, replace=False))
    base = list(histories)
    for user in eligible:
        base[user] = histories[user][:-1]
    newest = [histories[user][-1:] for user in eligible]
    return base, Validation([base[user] for user in eligible], newest, keep_seen, eligible)


def hold_out_later(interactions: Interactions, *, max_users: int, keep_seen: bool, seed: int) -> HeldOut:
    """The newest tenth of all interactions: what users with a history take after one moment.

    Where seen items may not come again, only items that are new to the user count. At most max_users users are asked of
    all they took; of single items a user has up to _TARGETS_PER_USER at random, and there are at most max_users in all.

    Raises:
        ValueError: nobody has a history before the moment and takes something after it, or the times are no clock (see
            `retrieval.data.time_split`).
    """
    parts = time_split(interactions)
    base = histories_of(parts.train)
    followed = taken_after(parts, base, keep_seen=keep_seen)
    asked = asked_after(followed, max_users=max_users, keep_seen=keep_seen, seed=seed)
    if not len(asked):
        raise ValueError(
            "fit: no user has interactions both before and after the moment that lists.validation=time holds out by; "
            "give more interactions, or hold out everybody's newest item (lists.validation=last)"
        )
    validation = asked.single(_TARGETS_PER_USER, seed=seed).slice(max_users, seed)
    moment, ahead = parts.moment, float(interactions.times.max()) - float(parts.moment or 0)
    return HeldOut(base, validation, asked, Timeline.of(parts.train), parts.train, moment, ahead)


def asked_after(followed: Sequence[Followed], *, max_users: int, keep_seen: bool, seed: int) -> Validation:
    """All that users took after a moment (see `taken_after`), of at most max_users at random."""
    users = np.array([one.user for one in followed], dtype=np.int64)
    visits = np.array([one.visit for one in followed]).reshape(-1, 2)
    asked = Validation([one.history for one in followed], [one.taken for one in followed], keep_seen, users, visits)
    return asked.slice(max_users, seed)


def without_later(interactions: Interactions, users: np.ndarray, moment: float) -> Interactions:
    """The table without what these users (rows) took, or were shown, from the moment on."""
    shown = interactions.negatives
    later = np.isin(interactions.user_rows, users) & (interactions.times >= moment)
    shown_later = np.isin(shown.user_rows, users) & (shown.times >= moment)
    return interactions.take(~later, negatives=shown.take(~shown_later))


def stopping_users(validation: Validation, *, share: float, seed: int) -> np.ndarray:
    """So many of the users at random, int64: in every world they only stop the training of GPT-2, and all others tell
    what it is worth. At least one of each kind, where there are two."""
    users = np.random.default_rng(seed).permutation(np.unique(validation.users))
    return users[: min(max(1, round(share * len(users))), len(users) - 1) if len(users) > 1 else 0]
