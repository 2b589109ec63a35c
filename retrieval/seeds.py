"""Evaluations of one data set under several seeds in, mean and deviation of every figure out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from retrieval.config import Config

Spread = dict[str, dict[str, dict[str, float]]]


def with_seeds(
    run: Callable[[Config], dict[str, Any]],
    config: Config,
    n_seeds: int,
    *,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """The evaluation of the first seed and, where there are several, `seeds`: what `over_seeds` tells of all.

    Args:
        run: one evaluation of a configuration; called with the seeds config.seed, config.seed + 1, ...
    """
    runs = []
    for seed in range(config.seed, config.seed + n_seeds):
        if n_seeds > 1:
            say(f"seed {seed}")
        runs.append(run(replace(config, seed=seed)))
    return runs[0] if n_seeds == 1 else {**runs[0], "seeds": over_seeds(runs)}


def over_seeds(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How much the figures owe to chance: `n`, and per stage and metric `mean` and `deviation`.

    The deviation is that of a sample (n - 1), 0 for a single one. Stages that some evaluations lack are left out.

    Raises:
        ValueError: no evaluation.
    """
    if not evaluations:
        raise ValueError("over_seeds: expected at least one evaluation, got none")
    found: dict[str, Any] = {"n": len(evaluations), "stages": spread([run["stages"] for run in evaluations])}
    if all("cold" in run for run in evaluations):
        found["cold"] = spread([run["cold"]["stages"] for run in evaluations])
    return found


def spread(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> Spread:
    """Mean and deviation per stage and metric over runs of {stage: {metric: value}}."""
    stages = [name for name in runs[0] if all(name in run for run in runs)]
    return {name: {metric: _figure([run[name][metric] for run in runs]) for metric in runs[0][name]} for name in stages}


def _figure(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}
