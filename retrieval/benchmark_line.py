"""The runs of one data set in, one flat line of figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retrieval.evaluate import Trial
from retrieval.metrics import per_user_metrics
from retrieval.seeds import over_seeds
from retrieval.stage_figures import Rankings, compare
from retrieval.yardsticks import NAMES

# What others would use instead; sources that came with Tandem are none of them.
BASELINES = ("popularity", "neighbours", "ease", "lexical", "content", "repeat", *NAMES)
_KEYS = {"ndcg10": "ndcg@10", "recall100": "recall@100"}


def line_of(trial: Trial, runs: Sequence[tuple[Rankings, Mapping[str, Any]]], *, seed: int) -> dict[str, Any]:
    """The figures of a data set's runs (lists and evaluation each), one run per seed.

    Figures are means over the runs; `final_vs` compares the users' means over the runs, so that a user counts once.
    """
    first = runs[0][1]
    seeds = over_seeds([figures for _, figures in runs])
    stages = {stage: {m: value["mean"] for m, value in found.items()} for stage, found in seeds["stages"].items()}
    ndcg10 = {stage: found["ndcg@10"] for stage, found in stages.items()}
    recall100 = {stage: found["recall@100"] for stage, found in stages.items()}
    recall100["candidates"] = float(np.mean([figures["ceiling"] for _, figures in runs]))
    per_user = {
        stage: np.mean([per_user_metrics(r.ranked[stage], trial.targets)["ndcg@10"] for r, _ in runs], axis=0)
        for stage in stages
    }
    return {
        "n_users": first["n_users"],
        "n_items": first["n_items"],
        "n_train_interactions": first["n_train_interactions"],
        "users_without_history": first["users_without_history"],
        "keep_seen": first["keep_seen"],
        "encoder": first["encoder"],
        "reranker": first["reranker"],
        "ndcg10": ndcg10,
        "recall100": recall100,
        **_against_baselines(ndcg10, recall100),
        "final_vs": compare(per_user, seed=seed),
        "fusion_vs": compare({s: f for s, f in per_user.items() if s != "final"}, seed=seed, chosen="fusion"),
        "oracle": float(np.mean([figures["oracle"]["ndcg@10"] for _, figures in runs])),
        "segments": first["segments"],
        "seeds": {"n": seeds["n"], **{key: _spread_of(seeds["stages"], metric) for key, metric in _KEYS.items()}},
        "seconds": _seconds_of([figures["seconds"] for _, figures in runs]),
        "ms_per_user": first["ms_per_user"],
        "settings": first["fit"].get("source_settings", {}),
    }


def cold_figures(figures: Mapping[str, Any]) -> dict[str, Any]:
    """What a run with cold items says of them, in `warm_ndcg10` of the others, and of users by length of history."""
    cold = figures["cold"]
    return {
        "n_users": cold["n_users"],
        **{key: {stage: found[m] for stage, found in cold["stages"].items()} for key, m in _KEYS.items()},
        "history": figures["segments"]["history"],
        "warm_ndcg10": {stage: found["ndcg@10"] for stage, found in figures["warm"]["stages"].items()},
    }


def _against_baselines(ndcg10: Mapping[str, float], recall100: Mapping[str, float]) -> dict[str, Any]:
    """The best baseline, and by which factors the final list beats it and the candidates beat EASE's first 100."""
    baselines = {stage: value for stage, value in ndcg10.items() if stage in BASELINES}
    best = max(baselines, key=lambda stage: baselines[stage])
    ease = max(recall100.get("ease", 0.0), recall100.get("ease_tuned", 0.0))
    return {
        "best_baseline": best,
        "final_over_best": ndcg10["final"] / baselines[best] if baselines[best] else None,
        "candidates_over_ease": recall100["candidates"] / ease if ease else None,
    }


def _spread_of(stages: Mapping[str, Any], metric: str) -> dict[str, dict[str, float]]:
    return {stage: found[metric] for stage, found in stages.items()}


def _seconds_of(runs: list[Mapping[str, float]]) -> dict[str, float]:
    """Means over the runs: a fit's steps as they are, ranking together as `evaluate`."""
    steps = {name: float(np.mean([run.get(name, 0.0) for run in runs])) for name in runs[0]}
    ranking = sum(value for name, value in steps.items() if name.startswith("rank_"))
    return {**{k: v for k, v in steps.items() if not k.startswith("rank_") and k != "total"}, "evaluate": ranking}
