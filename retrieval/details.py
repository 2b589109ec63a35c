"""Details: every candidate beside the newest items of the history, one by one, in seven kinds of likeness.

A source sums a whole history up before it looks at an item, and each sums up in one way. Whether a candidate goes with
the last item, with the last few, with all of them or with a single one of them says more than one sum (as the local
activations of Deep Interest Networks do, Zhou et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from retrieval.catalogue import Catalogue
from retrieval.sources import DenseSource, ItemItemSource, Source

SUMS = ("newest", "recent", "mean", "nearest")
"""Of the likenesses to the history's items: the newest one's, their sum with half the weight for every step back in
time, their mean, their maximum."""
MATRICES = ("neighbours", "transitions")
HISTORY_ITEMS = 50
_HALF = 0.5

Likeness = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(item rows (m,), item rows (n,)) -> float32 (m, n)."""


@dataclass(frozen=True)
class Details:
    """Kinds of likeness by name."""

    kinds: tuple[tuple[str, Likeness], ...]

    @property
    def names(self) -> list[str]:
        """The columns of `raw`."""
        return [f"{name}_{kind}" for name, _ in self.kinds for kind in SUMS]

    def among(self, names: Collection[str]) -> Details:
        """Only the kinds whose columns are named: what is fitted knows no others."""
        return Details(tuple(kind for kind in self.kinds if f"{kind[0]}_{SUMS[0]}" in names))

    def raw(self, rows: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
        """What is told of candidates: int64 (n_users, depth), -1 at padding -> float32 (n_users, depth, n), 0 there.

        Args:
            histories: item rows, oldest first; the newest HISTORY_ITEMS are looked at. An empty one gives 0.
        """
        found = np.zeros((*rows.shape, len(self.kinds), len(SUMS)), dtype=np.float32)
        for user, history in enumerate(histories):
            places = np.flatnonzero(rows[user] >= 0)
            newest = history[::-1][:HISTORY_ITEMS]
            if not (len(places) and len(newest)):
                continue
            weights = _HALF ** np.arange(len(newest), dtype=np.float32)
            for kind, (_, likeness) in enumerate(self.kinds):
                alike = likeness(newest, rows[user, places])
                found[user, places, kind] = np.stack(
                    [alike[0], weights @ alike, alike.mean(axis=0), alike.max(axis=0)], axis=1
                )
        return found.reshape(*rows.shape, len(self.names))


def details_of(catalogue: Catalogue, sources: Sequence[Source]) -> Details:
    """The likenesses that these sources and the items' texts and attributes know."""
    kinds: list[tuple[str, Likeness]] = []
    for source in sources:
        if isinstance(source, DenseSource):
            kinds.append((source.name, of_vectors(source.item_vectors)))
        elif isinstance(source, ItemItemSource) and source.name in MATRICES:
            kinds.append((source.name, of_matrix(source.matrix)))
    return Details(
        (
            *kinds,
            ("content", of_vectors(catalogue.text_vectors)),
            *((name, of_features(matrix)) for name, matrix in catalogue.marks.items()),
        )
    )


def of_vectors(vectors: np.ndarray) -> Likeness:
    """Inner products of dense rows."""
    return lambda left, right: vectors[left] @ vectors[right].T


def of_matrix(matrix: sp.csr_matrix) -> Likeness:
    """Entries of an item-by-item matrix: from the items of the history (rows) to the candidates (columns)."""
    return lambda left, right: sp.csr_matrix(matrix[left])[:, right].toarray().astype(np.float32, copy=False)


def of_features(matrix: sp.csr_matrix) -> Likeness:
    """Inner products of sparse rows."""
    return lambda left, right: np.asarray((matrix[left] @ matrix[right].T).todense(), dtype=np.float32)
