"""Some items as if nobody had taken them yet: from these the fusions and GPT-2 learn to judge new items.

Every item that is held out for validation was taken before, so whatever is fitted on validation alone learns that an
item without interactions is never right, and new items would never be shown. In a world where a random tenth of the
items has no interactions, some of the held-out items are new.

An item that nobody ever took is never right in any world. How often such items will be right nobody can know: they may
have come yesterday, or have been refused for years. We say half of what is new will be wanted as much as other items
are, and half not at all: beside the items made new stand, at the most, as many that nobody ever took.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from retrieval.rerank_lists import Position
from retrieval.sources import Source
from retrieval.sources.popular import count_items
from retrieval.stage_one import Validation


@dataclass(frozen=True)
class World:
    """Sources and the validation users they are tried on.

    allowed: bool (n_items,), the items that may be candidates (see `could_be_right`).
    """

    sources: tuple[Source, ...]
    validation: Validation
    allowed: np.ndarray


def choose_new(n_items: int, share: float, seed: int) -> np.ndarray:
    """A random share of the items: bool (n_items,)."""
    return np.random.default_rng((seed, n_items)).random(n_items) < share


def could_be_right(
    histories: Sequence[np.ndarray], n_items: int, *, new_items: float, n_new: int = 0, seed: int = 0
) -> np.ndarray:
    """The items that may be candidates in a world: those that somebody took, then or later; bool (n_items,).

    Args:
        new_items: the configured share; where no new items are expected (0), all items may: then an item without
            interactions is one that nobody wants.
        n_new: how many items the world makes new; at the most as many that nobody took are drawn to stand beside them.
    """
    taken = count_items(histories, n_items) > 0
    if not new_items:
        return np.ones(n_items, dtype=bool)
    never = np.flatnonzero(~taken)
    drawn = np.random.default_rng((seed, n_items, 1)).choice(never, min(n_new, len(never)), replace=False)
    taken[drawn] = True
    return taken


def forget(histories: Sequence[np.ndarray], new: np.ndarray) -> list[np.ndarray]:
    """The histories without the new items."""
    return [history[~new[history]] for history in histories]


def forget_validation(validation: Validation, new: np.ndarray, *, max_users: int, seed: int) -> Validation:
    """At most max_users users with what is left of their histories; targets may be new. Nobody has an empty history."""
    small = validation.slice(max_users, seed)
    histories = forget(small.histories, new)
    left = [user for user, history in enumerate(histories) if len(history)]
    return Validation([histories[user] for user in left], small.targets[left], small.keep_seen)


def positions_among(positions: Sequence[Position], new: np.ndarray) -> list[Position]:
    """Moments of the past without the new items in their histories; those with nothing before them are left out."""
    left = [replace(position, history=position.history[~new[position.history]]) for position in positions]
    return [position for position in left if len(position.history)]
