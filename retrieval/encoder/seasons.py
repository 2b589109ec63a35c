"""How popular every item was when: what somebody took is by taste and by season, and only the taste lasts.

A softmax that is told the season's popularity as it is (as a fixed logit beside the model's own) leaves the model to
learn what makes this user differ from the others of that season; asked later, it is told today's. It is the correction
of a sampled softmax for how often each item is drawn (Yi et al. 2019), with the sign that keeps popularity in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_EVER = 0.5
"""What is known of an item at any time counts so much beside what is known of it in an era."""
_UNSEEN = 0.1
_LATELY = 0.3
"""Interactions that every item has besides its own, in an era and lately."""


@dataclass(frozen=True)
class Seasons:
    """Logits of popularity: at the time of what was taken, and now.

    eras: per history int64 (n,), the era in which each item was taken.
    popularity: float32 (n_eras, n_items), the log share of the items among what was taken in each era, around 0.
    now: float32 (n_items,), the same of late.
    """

    eras: Sequence[np.ndarray]
    popularity: np.ndarray
    now: np.ndarray

    @classmethod
    def of(cls, histories: Sequence[np.ndarray], eras: Sequence[np.ndarray], lately: np.ndarray) -> Seasons:
        """Counted in these histories (item rows); lately: float (n_items,), how often each item was taken of late.

        What nobody took is now as popular as the average item that somebody did: how much it will be wanted nobody
        knows yet, and that it is the least popular of all would be a guess, and the wrong one.
        """
        n_items = len(lately)
        taken = np.concatenate([np.empty(0, dtype=np.int64), *histories])
        era = np.concatenate([np.empty(0, dtype=np.int64), *eras])
        counts = np.zeros((int(era.max(initial=0)) + 1, n_items))
        np.add.at(counts, (era, taken), 1)
        ever = counts.sum(axis=0)
        shares = np.log(counts + _EVER * ever / len(counts) + _UNSEEN)
        now = np.log(lately + _LATELY)
        if (ever > 0).any():
            shares -= shares[:, ever > 0].mean()
            now -= now[ever > 0].mean()
        return cls(eras, shares.astype(np.float32), np.where(ever > 0, now, 0).astype(np.float32))


@dataclass(frozen=True)
class Timing:
    """What is told of time where a next-item model learns from histories.

    apart: per history, see `retrieval.histories.first_apart`: of later items only those of later visits are right.
    seasons: of the histories; what the model says is then beside how popular items are, not with it.
    """

    apart: Sequence[np.ndarray] | None = None
    seasons: Seasons | None = None
