"""Vectors: a user's vector is searched in a FAISS index of item vectors.

Two of them stand side by side: `content` compares the BERT vector of the history text with the items' BERT vectors and
needs no training; `dense` compares what the trained head makes of both.
"""

from __future__ import annotations

import numpy as np

from indexes import Index
from retrieval.encoder.heads import RecallHead
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.encoder.train import embed_users
from retrieval.sources.base import IndexScan, Queries


class ContentSource:
    """The history as one text (newest item first) against the items' texts, both by the frozen encoder."""

    name = "content"

    def __init__(self, encoder: TextEncoder, index: Index, text_vectors: np.ndarray) -> None:
        self.encoder = encoder
        self.index = index
        self.text_vectors = text_vectors

    def scan(self, queries: Queries) -> IndexScan:
        """See `Source.scan`. A user with an empty text gets nothing."""
        users = np.zeros((len(queries), self.text_vectors.shape[1]), dtype=np.float32)
        known = [user for user, text in enumerate(queries.texts) if text]
        if known:
            users[known] = self.encoder.encode([queries.texts[user] for user in known])
        return IndexScan(self.index, self.text_vectors, users, queries.exclude)


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
