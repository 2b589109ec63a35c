"""What most people take these days: the same list for everybody, and another one every season."""

from __future__ import annotations

import numpy as np

from retrieval.sources.base import MatrixScan, Queries


class RecentSource:
    """Items by how often anybody took them lately (`log(1 + weighted count)`, of the other scores' magnitude).

    Age has no unit: an interaction counts half for every `share` of all interactions that came after it. So the same
    setting fits a shop of a week and one of ten years.
    """

    name = "recent"

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores

    @classmethod
    def fit(cls, by_time: np.ndarray, n_items: int, *, share: float) -> RecentSource:
        """by_time: int64 (n_interactions,), the item rows of all interactions, oldest first."""
        return cls(np.log1p(recent_counts(by_time, n_items, share=share)).astype(np.float32))

    def scan(self, queries: Queries) -> MatrixScan:
        """See `Source.scan`."""
        return MatrixScan(np.broadcast_to(self.scores, (len(queries), len(self.scores))), queries.exclude)


def recent_counts(by_time: np.ndarray, n_items: int, *, share: float) -> np.ndarray:
    """Interactions per item, each with the weight `.5 ** (share of all that came after it / share)`: float64."""
    age = np.arange(len(by_time))[::-1] / max(1, len(by_time))
    return np.bincount(by_time, 0.5 ** (age / share), minlength=n_items)
