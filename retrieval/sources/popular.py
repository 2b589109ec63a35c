"""What most people take: the same list for everybody, and the only answer for somebody nothing is known about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retrieval.sources.base import MatrixScan, Queries

UNTAKEN = 1e-6
_TAKEN_ONCE = np.log1p(1.0)


class PopularSource:
    """Items by how many interactions they have (`log(1 + count)`, so that the score is of the others' magnitude)."""

    name = "popular"

    def __init__(self, counts: np.ndarray) -> None:
        # A hair above zero for items nobody took, so that even they are found when everything else is used up.
        self.scores = (np.log1p(counts) + UNTAKEN).astype(np.float32)

    @property
    def untaken(self) -> np.ndarray:
        """The items nobody took: bool (n_items,)."""
        return self.scores < _TAKEN_ONCE / 2

    @property
    def shares(self) -> np.ndarray:
        """The share of all interactions that each item has: what is known of somebody's next item without a history."""
        counts = np.expm1(self.scores.astype(np.float64))
        return (counts / counts.sum()).astype(np.float32)

    @classmethod
    def of_scores(cls, scores: np.ndarray) -> PopularSource:
        """The source with these scores (what `scores` of another one holds)."""
        source = cls(np.zeros(0))
        source.scores = scores
        return source

    @classmethod
    def fit(cls, histories: Sequence[np.ndarray], n_items: int) -> PopularSource:
        """Count the interactions of each item over all histories."""
        return cls(count_items(histories, n_items))

    def scan(self, queries: Queries) -> MatrixScan:
        """See `Source.scan`."""
        return MatrixScan(np.broadcast_to(self.scores, (len(queries), len(self.scores))), queries.exclude)


def count_items(histories: Sequence[np.ndarray], n_items: int) -> np.ndarray:
    """Interactions per item: int64 (n_items,)."""
    rows = np.concatenate(histories) if len(histories) else np.empty(0, dtype=np.int64)
    return np.bincount(rows, minlength=n_items)
