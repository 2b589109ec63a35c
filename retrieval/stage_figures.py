"""Ranked rows per stage and the real targets in, the figures of an evaluation out: means, parts, segments, differences.

Every stage is compared on the same users. A part of the targets (cold items, the tail) is measured on the users who
have such a target, who are then asked for these targets only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieval.metrics import coverage, holm, novelty, paired_bootstrap, per_user_metrics, sign_flip_p_value

LENGTHS = ((1, 2), (3, 5), (6, 10), (11, 20), (21, None))
"""History lengths that are told apart, both ends included."""
SEGMENT_METRICS = ("ndcg@10", "recall@100")
PerUser = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Rankings:
    """Ranked rows per stage: int64 (n_users, 100), best first, -1 at padding; in the order of the test users.

    candidate_recall: float64 (n_users,), the share of a user's targets among the candidates that are reranked.
    seconds: wall time per stage.
    """

    ranked: dict[str, np.ndarray]
    candidate_recall: np.ndarray
    seconds: dict[str, float]


def summarise(
    rankings: Rankings, targets: list[np.ndarray], counts: np.ndarray, n_train_users: int, *, seed: int
) -> dict[str, Any]:
    """Means per stage, warm and cold targets apart, and final against every other stage.

    Args:
        counts: int64 (n_items,), how many users took each item in training; an item without one is cold.
    """
    values = measure_all(rankings.ranked, targets)
    stages: dict[str, dict[str, float]] = {}
    for name, rows in rankings.ranked.items():
        stages[name] = {metric: float(array.mean()) for metric, array in values[name].items()}
        stages[name]["coverage@10"] = coverage(rows, len(counts))
        stages[name]["novelty@10"] = novelty(rows, counts, n_train_users)
    result = {
        "stages": stages,
        "final_vs": compare({name: found["ndcg@10"] for name, found in values.items()}, seed=seed),
        "ceiling": float(rankings.candidate_recall.mean()),
        "oracle": {"ndcg@10": oracle_ndcg(rankings.candidate_recall, targets)},
    }
    for kind, is_kind in (("warm", counts > 0), ("cold", counts == 0)):
        part = part_figures(rankings.ranked, targets, is_kind)
        if part is not None:
            result[kind] = part
    return result


def measure_all(ranked: Mapping[str, np.ndarray], targets: Sequence[np.ndarray]) -> PerUser:
    """Every stage's figures, one number per user."""
    return {name: per_user_metrics(rows, targets) for name, rows in ranked.items()}


def compare(ndcg: Mapping[str, np.ndarray], *, seed: int, chosen: str = "final") -> dict[str, dict[str, float]]:
    """`chosen` minus every other stage: difference, 95 % interval, p-value, and the p-value after Holm's correction.

    Args:
        ndcg: float64 (n_users,) per stage, the same users in the same order.
    """
    others = [name for name in ndcg if name != chosen]
    p = {name: sign_flip_p_value(ndcg[chosen], ndcg[name], seed=seed) for name in others}
    corrected = holm(p)
    found = {}
    for name in others:
        interval = paired_bootstrap(ndcg[chosen], ndcg[name], seed=seed)
        found[name] = {
            "diff": interval.diff,
            "low": interval.low,
            "high": interval.high,
            "p": p[name],
            "p_holm": corrected[name],
        }
    return found


def oracle_ndcg(candidate_recall: np.ndarray, targets: Sequence[np.ndarray], *, k: int = 10) -> float:
    """NDCG@k if the targets among the candidates stood first: what the best possible reranker would reach.

    Args:
        candidate_recall: float64 (n_users,), the share of a user's distinct targets among the candidates.
    """
    n_targets = np.array([len(np.unique(rows)) for rows in targets], dtype=np.int64)
    found = np.rint(candidate_recall * n_targets).astype(np.int64)
    reached = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    return float((reached[np.minimum(found, k)] / reached[np.minimum(n_targets, k)]).mean())


def part_figures(
    ranked: Mapping[str, np.ndarray], targets: Sequence[np.ndarray], is_kind: np.ndarray
) -> dict[str, Any] | None:
    """The figures on some of the items; None where nobody has such a target.

    Args:
        is_kind: bool (n_items,), which targets count.
    """
    own = [target[is_kind[target]] for target in targets]
    chosen = np.flatnonzero([len(rows) for rows in own])
    if not len(chosen):
        return None
    values = measure_all({name: rows[chosen] for name, rows in ranked.items()}, [own[user] for user in chosen])
    stages = {name: {metric: float(array.mean()) for metric, array in found.items()} for name, found in values.items()}
    return {"n_users": len(chosen), "stages": stages}


def segment_figures(
    ranked: Mapping[str, np.ndarray],
    targets: Sequence[np.ndarray],
    lengths: np.ndarray,
    counts: np.ndarray,
    labels: Sequence[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Tables by history length, by how popular the target is and, with labels, by the users' own segments.

    Args:
        lengths: int64 (n_users,), how many interactions each test user has in training.
        counts: int64 (n_items,), how many users took each item in training.
        labels: each test user's segment; "" for none.

    Returns:
        Per table, per segment that has users: `n_users`, and `stages` with SEGMENT_METRICS.
    """
    values = measure_all(ranked, targets)
    tables: dict[str, dict[str, Any]] = {"history": {}, "popularity": {}}
    for low, high in LENGTHS:
        name = f"{low}+" if high is None else f"{low}-{high}"
        chosen = (lengths >= low) & (lengths <= (np.inf if high is None else high))
        tables["history"][name] = _segment(values, chosen)
    for name, is_kind in popularity_classes(counts).items():
        part = part_figures(ranked, targets, is_kind)
        if part is not None:
            kept = {stage: {m: found[m] for m in SEGMENT_METRICS} for stage, found in part["stages"].items()}
            tables["popularity"][name] = {"n_users": part["n_users"], "stages": kept}
    if labels is not None:
        named = np.asarray(labels, dtype=object)
        tables["segment"] = {str(name): _segment(values, named == name) for name in sorted(set(labels)) if name}
    return {name: {key: found for key, found in table.items() if found} for name, table in tables.items()}


def popularity_classes(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Items as head, mid, tail and cold: bool (n_items,) each, every item in one.

    Items are sorted by how often they were taken; head are the first that together hold a third of all, mid those up to
    two thirds, tail the others that were taken at all (equal counts by lower row).
    """
    order = np.argsort(-counts, kind="stable")
    # The share before an item decides, so that the item that crosses a border still belongs to the class above it.
    before = np.cumsum(counts[order]) - counts[order]
    share = np.empty(len(counts))
    share[order] = before / max(1, counts.sum())
    taken = counts > 0
    return {
        "head": taken & (share < 1 / 3),
        "mid": taken & (share >= 1 / 3) & (share < 2 / 3),
        "tail": taken & (share >= 2 / 3),
        "cold": ~taken,
    }


def _segment(values: PerUser, chosen: np.ndarray) -> dict[str, Any]:
    """Means over the chosen users; empty where there are none."""
    if not chosen.any():
        return {}
    stages = {
        name: {metric: float(found[metric][chosen].mean()) for metric in SEGMENT_METRICS}
        for name, found in values.items()
    }
    return {"n_users": int(chosen.sum()), "stages": stages}
