"""The seam of recall: a source scores items for users from their histories.

`Source.scan(queries)` does a source's work for a batch of users once; the scan then answers two questions: which
items are best (`top`), and what any given item scores (`at`), so that every candidate gets a score from every source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from indexes import Hits, Index

UNKNOWN_VISIT = np.full(2, np.nan)
"""The row of `Queries.visits` of a user whose last visit is not known."""


def visits_of(each: Sequence[np.ndarray | None]) -> np.ndarray:
    """`Queries.visits` of users one by one: float64 (2,), None where the last visit is not known."""
    return np.array([UNKNOWN_VISIT if visit is None else visit for visit in each]).reshape(-1, 2)


@dataclass(frozen=True)
class Queries:
    """A batch of users as stage one sees them.

    histories: per user int64 item rows, oldest first; may be empty.
    exclude: per user int64 item rows that must not be recommended (the seen ones, unless asked otherwise).
    texts: per user the history as one text, newest item first; "" for an empty history.
    visits: per user how long ago its newest interaction was and when (see `retrieval.histories.last_visits`), float64
        (n, 2), nan where that is not known; None where it is known of nobody.
    """

    histories: tuple[np.ndarray, ...]
    exclude: tuple[np.ndarray, ...]
    texts: tuple[str, ...]
    visits: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not len(self.histories) == len(self.exclude) == len(self.texts):
            raise ValueError(
                f"Queries: expected as many exclude lists and texts as histories ({len(self.histories)}), "
                f"got {len(self.exclude)} and {len(self.texts)}"
            )

    def __len__(self) -> int:
        return len(self.histories)


class Scan(Protocol):
    """One source's answer for a batch of users."""

    def top(self, k: int, *, allowed: np.ndarray | None = None) -> Hits:
        """The k best items per user without the excluded ones, among `allowed` (bool (n_items,)) if given."""
        ...

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Scores of given items: int64 (n_users, n), -1 where there is none -> float32 (n_users, n), 0 there."""
        ...


class Source(Protocol):
    """Anything that scores items for users."""

    @property
    def name(self) -> str:
        """What the source is called in features and reports."""
        ...

    def scan(self, queries: Queries) -> Scan:
        """Score the items for these users. Changes nothing; the same queries give the same scan."""
        ...


class MatrixScan:
    """A scan that holds every score: float32 (n_users, n_items)."""

    def __init__(self, scores: np.ndarray, exclude: Sequence[np.ndarray]) -> None:
        self.scores = scores
        self._exclude = exclude

    def top(self, k: int, *, allowed: np.ndarray | None = None) -> Hits:
        """Best first; equal scores by lower row. Items scored 0 or less were not found and are missing."""
        scores = self.scores.copy()
        if allowed is not None:
            scores[:, ~allowed] = -np.inf
        for user, rows in enumerate(self._exclude):
            scores[user, rows] = -np.inf
        return top_positive(scores, k)

    def at(self, rows: np.ndarray) -> np.ndarray:
        """See `Scan.at`."""
        found = np.take_along_axis(self.scores, np.maximum(rows, 0), axis=1)
        return np.where(rows >= 0, found, np.float32(0))


class IndexScan:
    """A scan through a vector index: what is best comes from the index, single scores from the vectors themselves."""

    def __init__(self, index: Index, vectors: np.ndarray, users: np.ndarray, exclude: Sequence[np.ndarray]) -> None:
        self._index = index
        self._vectors = vectors
        self._users = users
        self._exclude = exclude

    def top(self, k: int, *, allowed: np.ndarray | None = None) -> Hits:
        """Over-fetches by the user's exclude list, so that k items are left. A user without a vector gets none.

        How deep is searched depends on the user alone (the next power of two, so that a batch takes few searches): an
        approximate index may find other items at another depth.
        """
        scores = np.full((len(self._users), k), -np.inf, dtype=np.float32)
        rows = np.full((len(self._users), k), -1, dtype=np.int64)
        depths: dict[int, list[int]] = {}
        for user in np.flatnonzero(np.any(self._users != 0, axis=1)).tolist():
            depth = 1 << (k + len(self._exclude[user]) - 1).bit_length()
            depths.setdefault(min(depth, self._index.n_items), []).append(user)
        for depth, users in depths.items():
            hits = self._index.search(self._users[users], depth, allowed=allowed)
            for place, user in enumerate(users):
                keep = (hits.rows[place] >= 0) & ~np.isin(hits.rows[place], self._exclude[user])
                kept = np.flatnonzero(keep)[:k]
                rows[user, : len(kept)] = hits.rows[place, kept]
                scores[user, : len(kept)] = hits.scores[place, kept]
        return Hits(scores=scores, rows=rows)

    def at(self, rows: np.ndarray) -> np.ndarray:
        """See `Scan.at`."""
        found = np.einsum("ud,und->un", self._users, self._vectors[np.maximum(rows, 0)])
        return np.where(rows >= 0, found, np.float32(0)).astype(np.float32)


def top_positive(scores: np.ndarray, k: int) -> Hits:
    """The k highest positive scores of each row of (n_users, n_items), padded with row -1 and score -inf."""
    n_users, n_items = scores.shape
    found = min(k, n_items)
    rows = np.full((n_users, k), -1, dtype=np.int64)
    best = np.full((n_users, k), -np.inf, dtype=np.float32)
    if found:
        columns = largest_columns(scores, found) if found < n_items else np.tile(np.arange(n_items), (n_users, 1))
        values = np.take_along_axis(scores, columns, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        rows[:, :found] = np.take_along_axis(columns, order, axis=1)
        best[:, :found] = np.take_along_axis(values, order, axis=1)
    missing = ~(best > 0)
    rows[missing], best[missing] = -1, -np.inf
    return Hits(scores=best, rows=rows)


def largest_columns(scores: np.ndarray, n: int) -> np.ndarray:
    """int64 (n_rows, n): the columns of each row's n largest values, rising; of equal values the lower columns."""
    columns = np.empty((len(scores), n), dtype=np.int64)
    for user, line in enumerate(scores):  # line by line, so that only one line of positions is in memory
        columns[user] = np.argpartition(-line, n - 1)[:n]
        least = line[columns[user]].min()
        tied = np.flatnonzero(line == least)
        larger = np.flatnonzero(line > least)
        columns[user] = np.concatenate([larger, tied[: n - len(larger)]])
    return np.sort(columns, axis=1)
