"""Some items as if nobody had taken them yet: from these the fusions and GPT-2 learn to judge new items.

Every item that is held out for validation was taken before, so whatever is fitted on validation alone learns that an
item without interactions is never right, and new items would never be shown. In a world where a random tenth of the
items has no interactions, some of the held-out items are new.

An item that nobody ever took is never right in any world: as a candidate it would only teach that new items are wrong,
so what is fitted does not see it. (With as many of them among the candidates as were made new, NDCG@10 on new items of
Amazon Scientific falls from .073 to .049, and on all items it stays the same; the fusion without GPT-2.) Where items
without interactions are ones that nobody wants, set `lists.new_items` to 0.
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
    has_new: whether some of them are new to the sources.
    """

    sources: tuple[Source, ...]
    validation: Validation
    allowed: np.ndarray
    has_new: bool = False

    def parted(self, users: np.ndarray) -> tuple[World, World]:
        """The world of these validation users (int64 rows), and that of all others."""
        own = np.isin(self.validation.users, users)
        parts = [self.validation.take(np.flatnonzero(some)) for some in (own, ~own)]
        return replace(self, validation=parts[0]), replace(self, validation=parts[1])


def choose_new(n_items: int, share: float, seed: int) -> np.ndarray:
    """A random share of the items: bool (n_items,)."""
    return np.random.default_rng((seed, n_items)).random(n_items) < share


def could_be_right(histories: Sequence[np.ndarray], n_items: int, *, new_items: float) -> np.ndarray:
    """The items that may be candidates where something is fitted: those that somebody took, then or later.

    Args:
        new_items: the configured share; where no new items are expected (0), all items may.

    Returns:
        bool (n_items,).
    """
    return count_items(histories, n_items) > 0 if new_items else np.ones(n_items, dtype=bool)


def forget(histories: Sequence[np.ndarray], new: np.ndarray) -> list[np.ndarray]:
    """The histories without the new items."""
    return [history[~new[history]] for history in histories]


def forget_validation(validation: Validation, new: np.ndarray, *, max_users: int, seed: int) -> Validation:
    """At most max_users of them with what is left of their histories, which is never nothing; what they took may be
    new."""
    small = validation.slice(max_users, seed)
    histories = forget(small.histories, new)
    left = np.array([place for place, history in enumerate(histories) if len(history)], dtype=np.int64)
    return replace(small, histories=histories).take(left)


def positions_among(positions: Sequence[Position], new: np.ndarray) -> list[Position]:
    """Moments of the past without the new items in their histories; those with nothing before them are left out."""
    left = [replace(position, history=position.history[~new[position.history]]) for position in positions]
    return [position for position in left if len(position.history)]
