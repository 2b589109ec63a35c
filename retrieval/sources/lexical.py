"""Words in common: BM25 between the titles of the newest items and every item's text, through the library bm25s."""

from __future__ import annotations

import logging
from typing import cast

import bm25s
import numpy as np

from retrieval.sources.base import MatrixScan, Queries

# The library sets its logger to DEBUG when it is imported; an index per fold would say so each time.
logging.getLogger("bm25s").setLevel(logging.WARNING)


def _words(texts: list[str]) -> list[list[str]]:
    words = bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)
    return cast("list[list[str]]", words)  # with return_ids it would be word numbers and a vocabulary


class LexicalSource:
    """BM25 (Robertson, Lucene's variant) of the query text's distinct words over the items' texts.

    Args:
        texts: one per item, in row order.
        query_words: how many distinct words of a query are read, from its beginning (the newest items).
    """

    name = "lexical"

    def __init__(self, texts: list[str], *, query_words: int = 40) -> None:
        self.texts = texts
        self.query_words = query_words
        self._bm25 = bm25s.BM25(method="lucene")
        words = _words(texts)
        self._vocabulary: set[str] = {word for line in words for word in line}
        if self._vocabulary:
            self._bm25.index(words, show_progress=False)

    def scan(self, queries: Queries) -> MatrixScan:
        """See `Source.scan`."""
        scores = np.zeros((len(queries), len(self.texts)), dtype=np.float32)
        for user, words in enumerate(_words(list(queries.texts))):
            known = [word for word in dict.fromkeys(words) if word in self._vocabulary][: self.query_words]
            if known:
                scores[user] = self._bm25.get_scores(known)
        return MatrixScan(scores, queries.exclude)
