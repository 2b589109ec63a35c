"""What items visibly share: rare words of their titles, categories, a brand; as sparse rows of length 1."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer

from retrieval.data import Items

ATTRIBUTES = ("category", "brand")
_PARTS = re.compile(r"\s*[|,;>/]\s*")


def marks_of(items: Items, titles: Sequence[str]) -> Mapping[str, sp.csr_matrix]:
    """Sparse float32 (n_items, n) by kind: "words" of the titles, and the parts of each of ATTRIBUTES.

    The inner product of two rows is their cosine: 1 where both say the same, 0 where they share nothing.
    """
    marks = {"words": word_matrix(titles)}
    for name in ATTRIBUTES:
        marks[name] = part_matrix(items.frame[name].tolist())
    return marks


def word_matrix(texts: Sequence[str]) -> sp.csr_matrix:
    """TF-IDF (Sparck Jones 1972) of the texts' words, each counted once per text."""
    vectorizer = TfidfVectorizer(binary=True)
    try:
        return sp.csr_matrix(vectorizer.fit_transform(texts), dtype=np.float32)
    except ValueError:  # not a word of two letters in all of them
        return sp.csr_matrix((len(texts), 1), dtype=np.float32)


def part_matrix(values: Sequence[str]) -> sp.csr_matrix:
    """The parts of values such as "Comedy|Drama" or "Tools > Saws", each as a mark of its own."""
    number: dict[str, int] = {}
    rows, columns = [], []
    for row, value in enumerate(values):
        parts = {part for part in _PARTS.split(value.strip().casefold()) if part}
        rows += [row] * len(parts)
        columns += [number.setdefault(part, len(number)) for part in sorted(parts)]
    sizes = np.bincount(rows, minlength=len(values)) if rows else np.zeros(len(values))
    weights = 1 / np.sqrt(np.maximum(sizes, 1))
    data = weights[rows].astype(np.float32) if rows else np.empty(0, np.float32)
    return sp.csr_matrix((data, (rows, columns)), shape=(len(values), max(1, len(number))))
