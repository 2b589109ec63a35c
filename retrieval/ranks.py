"""Where wanted items stand in rows of scores, and what that is worth."""

from __future__ import annotations

import numpy as np

_BLOCK = 4_096
"""Taken items at a time, each with a copy of its list's scores."""


def target_ranks(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Ranks from 1 of one column per row: (n, n_columns), int64 (n,) -> float64 (n,).

    Columns that score the same count half a rank each, so a constant score earns nothing by luck; a target of score
    -inf (masked) or nan (a model that diverged) is not found however short the row: inf.
    """
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    better = (scores > own).sum(axis=1)
    equal = (scores == own).sum(axis=1) - 1
    rank = 1 + better + equal / 2
    return np.where(np.isneginf(own[:, 0]) | np.isnan(own[:, 0]), np.inf, rank)


def rank_gains(rank: np.ndarray, k: int = 10) -> np.ndarray:
    """What a wanted item at each rank adds to the DCG@k: 1 / log2(1 + rank), 0 below k."""
    return np.where(rank <= k, 1 / np.log2(1 + rank), 0.0)


def list_ndcg(scores: np.ndarray, rows: np.ndarray, target: np.ndarray, k: int = 10) -> np.ndarray:
    """`lists_ndcg` where one item was taken, whose row is in target, int64 (n_lists,)."""
    is_target = rows == target[:, None]
    rank = target_ranks(np.where(rows >= 0, scores, -np.inf), is_target.argmax(axis=1))
    return np.where(is_target.any(axis=1), rank_gains(rank, k), 0.0)


def lists_ndcg(scores: np.ndarray, rows: np.ndarray, taken: np.ndarray, n_taken: np.ndarray, k: int = 10) -> np.ndarray:
    """NDCG@k per list: the sum of 1 / log2(1 + rank) over what was taken and ranked k or better, by its greatest value.

    Candidates that score the same as one that was taken count as half a rank each, so a constant score earns nothing by
    luck.

    Args:
        rows: int64 (n_lists, depth), -1 at padding. taken, n_taken: see `FusionLists`.
    """
    owner, place = np.nonzero(taken)
    scores = np.where(rows >= 0, scores, -np.inf)
    gains = np.zeros(len(rows))
    for part in range(0, len(owner), _BLOCK):
        own = owner[part : part + _BLOCK]
        rank = target_ranks(scores[own], place[part : part + _BLOCK])
        np.add.at(gains, own, rank_gains(rank, k))
    greatest = np.concatenate([[1.0], np.cumsum(rank_gains(np.arange(1, k + 1), k))])
    return gains / greatest[np.clip(n_taken, 0, k)]


def expected_ndcg(scores: np.ndarray, probability: np.ndarray, k: int = 10) -> np.ndarray:
    """NDCG@k per list to expect where one item will be taken: the sum of 1 / log2(1 + rank) times its probability.

    Nothing is above it by the order of the probabilities themselves.

    Args:
        scores: float (n_lists, depth), -inf at padding; equal ones in the order of the columns. probability: float
            (n_lists, depth), rows that sum to 1.

    Returns:
        float64 (n_lists,).
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(probability, order, axis=1) @ rank_gains(np.arange(1, order.shape[1] + 1), k)
