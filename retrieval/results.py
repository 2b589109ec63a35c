"""What a recommender answers: small frozen objects, and the same as a DataFrame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

MAX_K = 1_000


@dataclass(frozen=True)
class Recommendation:
    """One item of a list.

    rank: from 1. score: the calibrated probability that the user takes the item next, in (0, 1); for `search` and
    `similar` a cosine. recall_score: stage one's log-odds, up to a constant per user. rerank_score: GPT-2's
    logit, None where it did not read the item, as where it does not count. reasons: the sources that found it, or
    sentences when explained.
    """

    item_id: str
    rank: int
    score: float
    title: str = ""
    recall_score: float | None = None
    rerank_score: float | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecommendationList:
    """A user's list, best first.

    note: said when the list is not what was asked for, e.g. a popular list for somebody unknown, or fewer items than k;
        "" otherwise.
    ignored_ids: the items of the given history that the catalogue does not know, in its order.
    """

    items: tuple[Recommendation, ...]
    user_id: str | None = None
    note: str = ""
    ignored_ids: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Recommendation]:
        return iter(self.items)

    def __getitem__(self, place: int) -> Recommendation:
        return self.items[place]

    def __str__(self) -> str:
        lines = [f"{item.rank:3}. {item.title or item.item_id}  {item.score:.3f}" for item in self.items]
        return "\n".join([self.note] * bool(self.note) + lines)

    @property
    def ignored_history(self) -> int:
        """How many items of the given history the catalogue does not know."""
        return len(self.ignored_ids)

    @property
    def item_ids(self) -> list[str]:
        """The ids, best first."""
        return [item.item_id for item in self.items]

    def to_frame(self) -> pd.DataFrame:
        """Columns user_id, item_id, rank, score, title; one row per item, best first."""
        return pd.DataFrame(
            {
                "user_id": [self.user_id] * len(self),
                "item_id": self.item_ids,
                "rank": [item.rank for item in self.items],
                "score": [item.score for item in self.items],
                "title": [item.title for item in self.items],
            }
        )


def note_of(n_items: int, k: int, note: str = "") -> str:
    """The note of a list of so many items where k were asked for; `note` is what else there is to say."""
    short = f"only {n_items} of the {k} items asked for fit" if n_items else "no item fits; is the filter too narrow?"
    return "; ".join([note] * bool(note) + [short] * (n_items < k))


def check_k(k: int) -> int:
    """Gives k as an int. Raises ValueError for what is no whole number from 1 to `MAX_K`."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= MAX_K:
        raise ValueError(f"k: expected a whole number from 1 to {MAX_K}, got {k!r}")
    return int(k)
