"""Vectors: a user's vector is searched in a FAISS index of item vectors.

`content` compares the BERT vectors of the history's texts with the items' and needs no training; `dense` compares what
the trained head makes of both, and by time `taste` and `second` what further heads make of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from indexes import Index
from retrieval.encoder.heads import RecallHead
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.encoder.train import embed_items, embed_users
from retrieval.sources.base import IndexScan, MatrixScan, Queries

# With a decay of .95 the fiftieth newest item counts a thirteenth of the newest.
POOLED_ITEMS = 50


class ContentSource:
    """The texts of the history against the items' texts, both by the text encoder; nothing else is trained.

    With a decay every item of the history counts `decay ** age` (the newest has age 0) by its own vector's direction
    from the mean of all items: what all texts share says nothing of a user, and no text is read when serving. Without
    one (0) the newest items' titles are one text, which is encoded: what an encoder fine-tuned on such texts wants.
    On Amazon Scientific (validation, not fine-tuned) NDCG@10 is .071 with a decay of .7, .053 with one text.
    """

    name = "content"

    def __init__(self, encoder: TextEncoder, index: Index, text_vectors: np.ndarray, *, decay: float = 0.7) -> None:
        self.encoder = encoder
        self.index = index
        self.text_vectors = text_vectors
        self.decay = decay

    def scan(self, queries: Queries) -> IndexScan:
        """See `Source.scan`. A user with an empty history gets nothing."""
        if self.decay:
            users = pooled_users(self.text_vectors, queries.histories, self.decay, mean=self._mean)
        else:
            users = self._read(queries)
        return IndexScan(self.index, self.text_vectors, users, queries.exclude)

    @cached_property
    def _mean(self) -> np.ndarray:
        return mean_of(self.text_vectors)

    def _read(self, queries: Queries) -> np.ndarray:
        users = np.zeros((len(queries), self.text_vectors.shape[1]), dtype=np.float32)
        known = [user for user, text in enumerate(queries.texts) if text]
        if known:
            users[known] = self.encoder.encode([queries.texts[user] for user in known])
        return users


def mean_of(vectors: np.ndarray) -> np.ndarray:
    """The mean of all rows, summed in float64: float32 (dim,)."""
    return vectors.mean(axis=0, dtype=np.float64).astype(np.float32)


def pooled_users(
    vectors: np.ndarray, histories: Sequence[np.ndarray], decay: float, *, mean: np.ndarray | None = None
) -> np.ndarray:
    """The newest items' directions from the mean item, weighted and summed: float32 (n_users, dim), length 1 or zero.

    Args:
        vectors: float32 (n_items, dim). histories: item rows, oldest first. decay: above 0, at most 1.
        mean: `mean_of(vectors)`, for callers that ask often; it reads all of them.
    """
    mean = mean_of(vectors) if mean is None else mean
    users = np.zeros((len(histories), vectors.shape[1]), dtype=np.float32)
    for user, history in enumerate(histories):
        newest = history[::-1][:POOLED_ITEMS]
        users[user] = decay ** np.arange(len(newest)) @ unit_rows(vectors[newest] - mean)
    return unit_rows(users)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a row of (almost) nothing becomes zero, as its direction is rounding."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(lengths > 1e-6, rows / np.maximum(lengths, 1e-6), 0).astype(np.float32)


class DenseSource:
    """The trained head's user vector against its item vectors."""

    name = "dense"

    def __init__(self, head: RecallHead, index: Index, item_vectors: np.ndarray) -> None:
        self.head = head
        self.index = index
        self.item_vectors = item_vectors

    def scan(self, queries: Queries) -> IndexScan:
        """See `Source.scan`. A user with an empty history gets nothing."""
        users = embed_users(self.head, self.item_vectors, queries.histories)
        return IndexScan(self.index, self.item_vectors, users, queries.exclude)


class HeadSource:
    """A further head's user vector against its item vectors, beside a number for each item.

    `taste`: that head was told how popular items were when they were taken (see `retrieval.encoder.seasons`), so that
    it learned what a user likes in any season, and is asked beside how popular they are now; `DenseSource` learned what
    was liked in the seasons it saw. Beside that one recall@100 of the candidates is .0064 +- .0026 higher and NDCG@10
    of their order .0054 +- .0017 on two earlier moments of MovieLens-1M (450 and 318 users), .0047 +- .0007 and .0006
    +- .0007 on two of Online Retail II. (A second head of another seed instead: .0026 +- .0020 and .0029 +- .0016 on
    MovieLens-1M. Seasons in the only head there is: .0026 +- .0022 and .0042 +- .0019.)

    `second`: that head learned of any later item where `DenseSource` learned of those of later visits, or the other way
    round (see `SourceSettings.later_visits`). Beside both recall@100 is .0058 +- .0020 higher and NDCG@10 .0019 +-
    .0018 on the moments of MovieLens-1M.
    """

    def __init__(self, name: str, head: RecallHead, item_vectors: np.ndarray, beside: np.ndarray) -> None:
        """item_vectors: float32 (n_items, dim), the head's. beside: float32 (n_items,), log-odds; see `Seasons.now`."""
        self.name = name
        self.head = head
        self.item_vectors = item_vectors
        self.beside = beside

    @classmethod
    def of(cls, name: str, head: RecallHead, text_vectors: np.ndarray, beside: np.ndarray) -> HeadSource:
        """Over items with these text vectors, float32 (n_items, text_dim)."""
        return cls(name, head, embed_items(head, text_vectors), beside)

    def scan(self, queries: Queries) -> MatrixScan:
        """See `Source.scan`: log-odds above the average item's. A user with an empty history gets nothing."""
        users = embed_users(self.head, self.item_vectors, queries.histories) * self.head.log_scale.exp().item()
        scores = users @ self.item_vectors.T + self.beside
        scores -= scores.mean(axis=1, keepdims=True)
        scores[~users.any(axis=1)] = 0
        return MatrixScan(scores, queries.exclude)
