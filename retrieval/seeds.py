"""Evaluations of one data set under several seeds in, mean and deviation of every figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Spread = dict[str, dict[str, dict[str, float]]]


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
