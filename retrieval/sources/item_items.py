"""Twenty lines of linear algebra that most text recommenders lose to: neighbours, random walks, transitions and EASE.

Each learns one sparse item-by-item matrix and scores `weighted history @ matrix`; the weight of an interaction is
`decay ** age`, where the newest has age 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch

from indexes import Index
from retrieval.sources.base import MatrixScan, Queries, largest_columns

# EASE inverts a dense matrix over items: 12,000 take 0.6 GB and 20 s on two cores. Beyond, the most popular so many.
EASE_MAX_ITEMS = 12_000
# 20,000 items compare all their pairs in 2 s on two cores, 50,000 in 15 s; then an index is faster.
EXACT_LINKS = 50_000


def history_matrix(histories: Sequence[np.ndarray], n_items: int, *, decay: float = 1.0) -> sp.csr_matrix:
    """float32 (n_users, n_items); an item taken several times has the sum of its weights."""
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.concatenate([*histories, np.empty(0, dtype=np.int64)]).astype(np.int64)
    age = np.repeat(offsets[1:], lengths) - 1 - np.arange(len(rows))
    matrix = sp.csr_matrix(
        (np.power(np.float32(decay), age, dtype=np.float32), rows, offsets), shape=(len(histories), n_items)
    )
    matrix.sum_duplicates()
    return matrix


def dense_product(left: sp.csr_matrix, right: sp.csr_matrix) -> np.ndarray:
    """left @ right as a dense float32 array."""
    return sp.csr_matrix(left @ right).toarray().astype(np.float32, copy=False)


def _binary(histories: Sequence[np.ndarray], n_items: int) -> sp.csr_matrix:
    matrix = history_matrix(histories, n_items)
    matrix.data[:] = 1
    return matrix


def keep_largest(matrix: sp.csr_matrix, per_row: int) -> sp.csr_matrix:
    """The `per_row` entries of largest magnitude of every row; equal ones by lower column."""
    matrix = matrix.tocsr()
    counts = np.diff(matrix.indptr)
    row_of = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((matrix.indices, -np.abs(matrix.data), row_of))
    position = np.arange(len(order)) - np.repeat(matrix.indptr[:-1], counts)
    kept = order[position < per_row]
    result = sp.csr_matrix((matrix.data[kept], (row_of[kept], matrix.indices[kept])), shape=matrix.shape)
    result.sort_indices()
    return result


class ItemItemSource:
    """Scores from a sparse item-by-item matrix: `history_matrix(decay) @ matrix`.

    Args:
        learned: what histories taught, where the matrix holds `text_weight` times the likeness of texts beside it. It
            is kept apart, as no other index finds exactly the likeness again that was added.
    """

    def __init__(
        self,
        name: str,
        matrix: sp.csr_matrix,
        *,
        decay: float,
        learned: sp.csr_matrix | None = None,
        text_weight: float = 0.0,
    ) -> None:
        if text_weight and learned is None:
            raise ValueError(f"{name}: expected what was learned apart from texts, got none; see with_texts")
        self._name = name
        self.matrix = matrix
        self.learned = matrix if learned is None else learned
        self.decay = decay
        self.text_weight = text_weight

    @classmethod
    def with_texts(
        cls,
        name: str,
        learned: sp.csr_matrix,
        *,
        decay: float,
        text_weight: float,
        vectors: np.ndarray,
        index: Index | None = None,
    ) -> ItemItemSource:
        """What histories taught and `text_weight` times the `content_matrix` of these vectors."""
        if not text_weight:
            return cls(name, learned, decay=decay)
        matrix = (learned + text_weight * content_matrix(vectors, index=index)).tocsr()
        return cls(name, matrix, decay=decay, learned=learned, text_weight=text_weight)

    @property
    def name(self) -> str:
        """What the source is called in features and reports."""
        return self._name

    def scan(self, queries: Queries) -> MatrixScan:
        """See `Source.scan`."""
        histories = history_matrix(queries.histories, len(self.matrix.indptr) - 1, decay=self.decay)
        return MatrixScan(dense_product(histories, self.matrix), queries.exclude)


def cosine_matrix(histories: Sequence[np.ndarray], n_items: int, *, per_item: int = 300) -> sp.csr_matrix:
    """Cosine between items over the users who took them (Sarwar et al. 2001), diagonal 0, `per_item` kept per row."""
    taken = _binary(histories, n_items)
    counts = np.asarray(taken.sum(axis=0)).ravel()
    scale = sp.diags(1 / np.sqrt(np.maximum(counts, 1)))
    together = (scale @ (taken.T @ taken) @ scale).tocsr()
    together.setdiag(0)
    together.eliminate_zeros()
    return keep_largest(together.astype(np.float32), per_item)


def walk_matrix(
    histories: Sequence[np.ndarray], n_items: int, *, target_power: float, per_item: int = 300
) -> sp.csr_matrix:
    """Where a random walk from an item ends after a user who took it and an item of this user's: RP3beta (Paudel et al.
    2017, with alpha 1), diagonal 0, `per_item` kept per row.

    Beside a cosine, who took much says little of each item. An entry is divided by its column's count to the
    `target_power` (their beta), without which the walk ends at popular items.
    """
    taken = _binary(histories, n_items)
    counts = np.maximum(np.asarray(taken.sum(axis=0)).ravel(), 1)
    lengths = np.maximum(np.asarray(taken.sum(axis=1)).ravel(), 1)
    walk = sp.diags(1 / counts) @ taken.T @ sp.diags(1 / lengths) @ taken @ sp.diags(counts**-target_power)
    walk = sp.csr_matrix(walk, dtype=np.float32)
    walk.setdiag(0)
    walk.eliminate_zeros()
    return keep_largest(walk, per_item)


def followers(
    histories: Sequence[np.ndarray], n_items: int, *, reach: int = 20, closeness: float = 0.9
) -> sp.csr_matrix:
    """How often, and how closely, one item (row) is followed by another (column) in a history: float32, diagonal 0.

    A pair that stands `d` places apart counts `closeness ** (d - 1)`; more than `reach` places apart it does not count.
    """
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    rows = np.concatenate([*histories, np.empty(0, dtype=np.int64)]).astype(np.int64)
    owner = np.repeat(np.arange(len(histories)), lengths)
    total = sp.csr_matrix((n_items, n_items), dtype=np.float32)
    for apart in range(1, min(reach, int(lengths.max(initial=1)) - 1) + 1):
        together = owner[apart:] == owner[:-apart]
        places = (rows[:-apart][together], rows[apart:][together])
        weights = np.full(len(places[0]), closeness ** (apart - 1), dtype=np.float32)
        total = total + sp.csr_matrix((weights, places), shape=total.shape)
    total = sp.csr_matrix(total)
    total.setdiag(0)
    total.eliminate_zeros()
    return total


def transition_matrix(
    following: sp.csr_matrix,
    counts: np.ndarray,
    *,
    back: float,
    source_power: float,
    target_power: float,
    per_item: int = 300,
) -> sp.csr_matrix:
    """What is taken soon after an item: a Markov chain of many steps, as far as the order of a history says something.

    Args:
        following: see `followers`. counts: how often each item was taken, (n_items,).
        back: weight of what came before an item beside what came after; 1 forgets the order.
        source_power, target_power: an entry is divided by these powers of its row's and its column's count. A cosine
            has .5 and .5; a lower target_power lets popular items be found more often.
    """
    counts = np.maximum(counts, 1).astype(np.float32)
    both = following + back * following.T if back else following
    scaled = sp.diags(counts**-source_power) @ both @ sp.diags(counts**-target_power)
    return keep_largest(scaled.tocsr().astype(np.float32), per_item)


def content_matrix(
    vectors: np.ndarray, *, index: Index | None = None, per_item: int = 100, block: int = 1_024
) -> sp.csr_matrix:
    """Cosine of item texts, the `per_item` nearest of every item without itself.

    Args:
        vectors: (n_items, dim), length 1.
        index: over the vectors; above EXACT_LINKS items it finds the nearest (comparing all pairs takes n^2 products).
    """
    n_items = len(vectors)
    per_item = min(per_item, n_items - 1)
    if per_item < 1:
        return sp.csr_matrix((n_items, n_items), dtype=np.float32)
    columns, values = [], []
    for start in range(0, n_items, block):
        if index is not None and n_items > EXACT_LINKS:
            hits = index.search(vectors[start : start + block], per_item)
            own = (hits.rows < 0) | (hits.rows == np.arange(start, start + len(hits.rows))[:, None])
            columns.append(np.maximum(hits.rows, 0))
            values.append(np.where(own, 0, hits.scores))
            continue
        scores = vectors[start : start + block] @ vectors.T
        scores[np.arange(len(scores)), np.arange(start, start + len(scores))] = -np.inf
        best = np.argpartition(-scores, per_item - 1, axis=1)[:, :per_item]
        columns.append(best)
        values.append(np.take_along_axis(scores, best, axis=1))
    rows = np.repeat(np.arange(n_items), per_item)
    flat = np.maximum(np.concatenate(values).ravel(), 0).astype(np.float32)
    return sp.csr_matrix((flat, (rows, np.concatenate(columns).ravel())), shape=(n_items, n_items))


def ease_matrix(
    histories: Sequence[np.ndarray], n_items: int, *, regularisation: float, per_item: int = 500
) -> sp.csr_matrix:
    """EASE (Steck 2019, equation 8): B = I - P / diag(P), P = (X'X + regularisation I)^-1, zero diagonal.

    X is binary. The `per_item` weights of largest magnitude of every row are kept; the EASE_MAX_ITEMS most
    popular items take part.
    """
    taken = _binary(histories, n_items)
    counts = np.asarray(taken.sum(axis=0)).ravel()
    chosen = np.sort(np.argsort(-counts, kind="stable")[:EASE_MAX_ITEMS])
    chosen = chosen[counts[chosen] > 0]
    if not len(chosen):
        return sp.csr_matrix((n_items, n_items), dtype=np.float32)
    gram = torch.from_numpy((taken[:, chosen].T @ taken[:, chosen]).toarray().astype(np.float32))
    gram.diagonal().add_(regularisation)
    precision = torch.cholesky_inverse(torch.linalg.cholesky(gram)).numpy()
    weights = -precision / np.diag(precision)[None, :]
    np.fill_diagonal(weights, 0)
    per_item = min(per_item, len(chosen))
    # Row by row: sorting all weights of 12,000 items at once would take 6 GB.
    columns = np.concatenate([largest_columns(np.abs(row[None]), per_item) for row in weights])
    values = np.take_along_axis(weights, columns, axis=1).ravel()
    places = (np.repeat(chosen, per_item), chosen[columns].ravel())
    matrix = sp.csr_matrix((values, places), shape=(n_items, n_items), dtype=np.float32)
    matrix.eliminate_zeros()
    return matrix
