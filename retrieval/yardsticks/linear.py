"""Item neighbours and EASE with recency weights, their settings chosen on validation from a fine grid.

The weight of an interaction is `decay ** age`, the newest having age 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch

from retrieval.sources.item_items import (
    EASE_MAX_ITEMS,
    content_matrix,
    cosine_matrix,
    dense_product,
    history_matrix,
)
from retrieval.yardsticks.base import Scorer, Task, Tuned, blocks, mask_rows, ndcg_at_10, sample_validation

DECAYS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
CONTENT_WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
REGULARISATIONS = (10.0, 50.0, 250.0, 1_000.0, 4_000.0)
CHOOSING_USERS = 3_000
REFINEMENTS = (2.2, 1.5)  # then around the best, closer and closer


def fit_neighbours(task: Task) -> Tuned:
    """Cosine item neighbours without any text; the decay is chosen."""
    return _fit_neighbours(task, (0.0,))


def fit_neighbours_with_content(task: Task) -> Tuned:
    """Cosine item neighbours plus a weighted cosine of the item texts; decay and weight are chosen.

    Raises:
        ValueError: the task has no text vectors.
    """
    if task.text_vectors is None:
        raise ValueError("neighbours with content: expected text vectors in the task, got None")
    return _fit_neighbours(task, CONTENT_WEIGHTS)


def fit_ease(task: Task) -> Tuned:
    """EASE (Steck 2019) with every weight kept; regularisation and decay are chosen.

    The EASE_MAX_ITEMS most popular items take part. The regularisation is searched on a coarse grid, then around its
    best value, on at most CHOOSING_USERS validation users: each of the 90 pairs costs a product over all items.
    """
    asked = sample_validation(task, CHOOSING_USERS)
    found: dict[tuple[float, float], float] = {}

    def search(values: Sequence[float]) -> None:
        for regularisation in values:
            weights = _ease_weights(task.base, task.n_items, regularisation)
            for decay in DECAYS:
                found[regularisation, decay] = _linear_ndcg(asked, weights, decay)

    search(REGULARISATIONS)
    for factor in REFINEMENTS:
        best = max(found, key=lambda key: found[key])[0]
        search([best / factor, best * factor])
    regularisation, decay = max(found, key=lambda key: found[key])
    weights = _ease_weights(task.histories, task.n_items, regularisation)
    settings = {"regularisation": regularisation, "decay": decay}
    return Tuned(_scorer(weights, decay, task.n_items), settings, found[regularisation, decay])


def _fit_neighbours(task: Task, weights: Sequence[float]) -> Tuned:
    cosine = cosine_matrix(task.base, task.n_items)
    content = None if task.text_vectors is None or max(weights) == 0 else content_matrix(task.text_vectors)
    sums = np.zeros((len(DECAYS), len(weights)))
    for part in blocks(len(task.validation), 2 * task.n_items):
        histories, targets = task.validation.histories[part], task.validation.targets[part]
        for row, decay in enumerate(DECAYS):
            taken = history_matrix(histories, task.n_items, decay=decay)
            together = dense_product(taken, cosine)
            read = None if content is None else dense_product(taken, content)
            if not task.keep_seen:
                mask_rows(together, histories)
            for column, weight in enumerate(weights):
                scores = together if read is None or weight == 0 else together + np.float32(weight) * read
                sums[row, column] += ndcg_at_10(scores, targets).sum()
    row, column = divmod(int(np.argmax(sums)), len(weights))
    decay, weight = DECAYS[row], weights[column]
    matrix = cosine_matrix(task.histories, task.n_items)
    if content is not None and weight:
        matrix = (matrix + weight * content).tocsr()
    settings = {"decay": decay, **({"content_weight": weight} if len(weights) > 1 else {})}
    return Tuned(_scorer(matrix, decay, task.n_items), settings, float(sums[row, column] / len(task.validation)))


def _scorer(matrix: sp.csr_matrix | np.ndarray, decay: float, n_items: int) -> Scorer:
    """Weighted histories times the matrix; what scores 0 or less has no evidence."""

    def score(users: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
        taken = history_matrix(histories, n_items, decay=decay)
        scores = dense_product(taken, matrix) if isinstance(matrix, sp.csr_matrix) else np.asarray(taken @ matrix)
        return np.where(scores > 0, scores, np.float32(-np.inf))

    return score


def _linear_ndcg(task: Task, weights: np.ndarray, decay: float) -> float:
    """NDCG@10 on validation of dense item-item weights."""
    total = 0.0
    for part in blocks(len(task.validation), task.n_items):
        histories = task.validation.histories[part]
        scores = np.asarray(history_matrix(histories, task.n_items, decay=decay) @ weights)
        if not task.keep_seen:
            mask_rows(scores, histories)
        total += ndcg_at_10(scores, task.validation.targets[part]).sum()
    return float(total / len(task.validation))


def _ease_weights(histories: Sequence[np.ndarray], n_items: int, regularisation: float) -> np.ndarray:
    """B of EASE, equation 8: float32 (n_items, n_items), 0 for items that take no part."""
    taken = history_matrix(histories, n_items)
    taken.data[:] = 1
    counts = np.asarray(taken.sum(axis=0)).ravel()
    chosen = np.sort(np.argsort(-counts, kind="stable")[:EASE_MAX_ITEMS])
    chosen = chosen[counts[chosen] > 0]
    gram = torch.from_numpy((taken[:, chosen].T @ taken[:, chosen]).toarray().astype(np.float32))
    gram.diagonal().add_(regularisation)
    precision = torch.cholesky_inverse(torch.linalg.cholesky(gram)).numpy()
    precision /= -np.diag(precision).copy()[None, :]
    np.fill_diagonal(precision, 0)
    if len(chosen) == n_items:
        return precision
    weights = np.zeros((n_items, n_items), dtype=np.float32)
    weights[np.ix_(chosen, chosen)] = precision
    return weights
