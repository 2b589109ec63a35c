"""Ranked rows and the rows a user really took next in, ranking quality out, one number per user.

Relevance is binary. Nothing is averaged here, so that stages can be compared user by user
(`retrieval.significance`). A list shorter than k is taken as it is: its missing places are misses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.significance import Interval, holm, paired_bootstrap, sign_flip_p_value

__all__ = [
    "METRIC_NAMES",
    "Interval",
    "coverage",
    "holm",
    "novelty",
    "paired_bootstrap",
    "per_user_metrics",
    "sign_flip_p_value",
]

TOP = 10
RECALL_DEPTHS = (10, 50, 100)
METRIC_NAMES = (f"ndcg@{TOP}", *(f"recall@{k}" for k in RECALL_DEPTHS), f"mrr@{TOP}", f"hit@{TOP}")
BLOCK_CELLS = 4_000_000  # ranked places looked at together: 32 MB of keys


def per_user_metrics(ranked: NDArray[np.int64], targets: Sequence[NDArray[np.int64]]) -> dict[str, NDArray[np.float64]]:
    """NDCG, recall, reciprocal rank and hit of every user, under METRIC_NAMES.

    With rel(i) = 1 where place i (from 1) holds one of the user's targets, else 0:

        recall@k = sum_{i<=k} rel(i) / n_targets              (may stay below 1 where n_targets > k)
        dcg@k    = sum_{i<=k} rel(i) / log2(i + 1)
        ndcg@k   = dcg@k / sum_{i<=min(k, n_targets)} 1 / log2(i + 1)     (ideal list cut at k, too)
        mrr@k    = 1 / (first i <= k with rel(i) = 1), or 0
        hit@k    = 1 where some i <= k has rel(i) = 1, else 0

    NDCG: Järvelin & Kekäläinen, ACM TOIS 20(4), 2002; discount log2(i + 1) as in trec_eval's `ndcg_cut`.

    Two targets, 7 and 9; 7 stands second, 9 is missing: dcg is 1/log2(3), the ideal 1/log2(2) + 1/log2(3).

    >>> found = per_user_metrics(np.array([[4, 7, 5]]), [np.array([7, 9])])
    >>> bool(found["ndcg@10"][0] == (1 / np.log2(3)) / (1 / np.log2(2) + 1 / np.log2(3)))
    True
    >>> float(found["recall@10"][0]), float(found["mrr@10"][0]), float(found["hit@10"][0])
    (0.5, 0.5, 1.0)

    Args:
        ranked: int64 (n_users, depth), item rows best first, padded with -1; no row twice for one user.
        targets: for each user the item rows that were really taken; repeated rows count once.

    Returns:
        For every name of METRIC_NAMES a float64 array (n_users,), in the order of `ranked`.

    Raises:
        ValueError: wrong shapes, a user without a target, a negative target, or an item ranked twice.
    """
    ranked = _checked_lists(ranked)
    if len(targets) != len(ranked):
        raise ValueError(f"expected one target array per ranked list, got {len(targets)} for {len(ranked)} lists")
    wanted = [np.unique(np.asarray(rows, dtype=np.int64)) for rows in targets]
    for user, rows in enumerate(wanted):
        if not rows.size or rows[0] < 0:
            raise ValueError(
                f"expected at least one target row >= 0 for every user, got {targets[user]!r} "
                f"at position {user}; leave users without a target out"
            )
    found = {name: np.zeros(len(ranked)) for name in METRIC_NAMES}
    step = max(1, BLOCK_CELLS // max(1, ranked.shape[1]))
    for start in range(0, len(ranked), step):
        part = slice(start, start + step)
        for name, values in _metrics_of_block(ranked[part], wanted[part]).items():
            found[name][part] = values
    return found


def coverage(ranked: NDArray[np.int64], n_items: int, k: int = TOP) -> float:
    """The share of the catalogue that is in the first k places of at least one list (0 for empty lists).

    Args:
        ranked: int64 (n_users, depth), padded with -1.
        n_items: the size of the catalogue; every row is below it.
    """
    shown = _shown(ranked, n_items, k)
    return len(np.unique(shown)) / n_items


def novelty(ranked: NDArray[np.int64], item_counts: NDArray[np.int64], n_users: int, k: int = TOP) -> float:
    """The mean self-information, in bits, of what is recommended: the mean of -log2(item_counts / n_users).

    Zhou et al., PNAS 107(10), 2010. An item that half of the users took adds 1 bit; one that nobody took yet
    counts as taken by one user, so that new items are as novel as the rarest known ones, not infinitely so.

    Args:
        ranked: int64 (n_users of the evaluation, depth), padded with -1.
        item_counts: int64 (n_items,), how many different users took each item in training.
        n_users: the number of users in training.
    """
    counts = np.asarray(item_counts)
    if counts.ndim != 1 or not counts.size or counts.min() < 0 or counts.max() > n_users:
        raise ValueError(
            f"expected item_counts (n_items,) of different users, each from 0 to n_users = {n_users!r}, "
            f"got shape {counts.shape} with a largest value of {counts.max() if counts.size else None!r}"
        )
    shown = _shown(ranked, len(counts), k)
    if not shown.size:
        return 0.0
    return float(-np.log2(np.maximum(counts[shown], 1) / max(n_users, 1)).mean())


def _metrics_of_block(ranked: NDArray[np.int64], wanted: Sequence[NDArray[np.int64]]) -> dict[str, NDArray[np.float64]]:
    n_targets = np.array([len(rows) for rows in wanted], dtype=np.int64)
    is_hit = _hits(ranked, wanted, n_targets)  # (n_users, depth)
    top = is_hit[:, :TOP]
    discounts = 1.0 / np.log2(np.arange(2, TOP + 2))  # place i weighs 1 / log2(i + 1)
    ideal = np.cumsum(discounts)[np.minimum(n_targets, TOP) - 1]
    any_hit = np.count_nonzero(top, axis=1) > 0
    first = np.argmax(top, axis=1) + 1 if top.shape[1] else np.ones(len(top), dtype=np.int64)
    ndcg: NDArray[np.float64] = top @ discounts[: top.shape[1]] / ideal
    found = {f"ndcg@{TOP}": ndcg}
    for k in RECALL_DEPTHS:
        found[f"recall@{k}"] = np.count_nonzero(is_hit[:, :k], axis=1) / n_targets
    found[f"mrr@{TOP}"] = np.where(any_hit, 1.0 / first, 0.0)
    found[f"hit@{TOP}"] = np.where(any_hit, 1.0, 0.0)
    return found


def _hits(
    ranked: NDArray[np.int64], wanted: Sequence[NDArray[np.int64]], n_targets: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Where a ranked row is one of that user's targets; user and row make one key, so one search does all."""
    all_wanted = np.concatenate(wanted)
    base = int(max(all_wanted.max(), ranked.max(initial=0))) + 1
    users = np.arange(len(ranked), dtype=np.int64)
    target_keys = np.repeat(users, n_targets) * base + all_wanted  # rising: users rise, rows rise within a user
    ranked_keys = users[:, None] * base + ranked
    places = np.minimum(np.searchsorted(target_keys, ranked_keys), len(target_keys) - 1)
    return (target_keys[places] == ranked_keys) & (ranked >= 0)


def _checked_lists(ranked: NDArray[np.int64]) -> NDArray[np.int64]:
    ranked = np.asarray(ranked)
    if ranked.ndim != 2 or not np.issubdtype(ranked.dtype, np.integer):
        raise ValueError(
            f"expected ranked lists as integers (n_users, depth), got {ranked.dtype} of shape {ranked.shape}"
        )
    in_order = np.sort(ranked, axis=1)
    twice = ((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)).any(axis=1)
    if twice.any():
        raise ValueError(
            f"expected every item at most once in a list, got one twice in list {int(np.argmax(twice))}; "
            "a repeated hit would count double"
        )
    return ranked.astype(np.int64, copy=False)


def _shown(ranked: NDArray[np.int64], n_items: int, k: int) -> NDArray[np.int64]:
    """All rows in the first k places, one after another, without padding."""
    if k < 1 or n_items < 1:
        raise ValueError(f"k and n_items must be at least 1, got k={k!r}, n_items={n_items!r}")
    top = np.asarray(ranked)[:, :k]
    shown = top[top >= 0]
    if shown.size and shown.max() >= n_items:
        raise ValueError(f"expected item rows below n_items = {n_items}, got row {int(shown.max())}")
    return shown
