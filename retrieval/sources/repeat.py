"""People buy again: a user's own items, by how often and how lately they were taken; where seen items count."""

from __future__ import annotations

import numpy as np

from retrieval.sources.base import MatrixScan, Queries
from retrieval.sources.item_items import history_matrix


class RepeatSource:
    """Scores a user's own history: the sum over its interactions of `decay ** age`."""

    name = "repeat"

    def __init__(self, n_items: int, *, decay: float = 0.98) -> None:
        self.n_items = n_items
        self.decay = decay

    def scan(self, queries: Queries) -> MatrixScan:
        """See `Source.scan`."""
        own = history_matrix(queries.histories, self.n_items, decay=self.decay)
        return MatrixScan(own.toarray().astype(np.float32, copy=False), queries.exclude)
