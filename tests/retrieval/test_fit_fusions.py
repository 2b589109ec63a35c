"""Few lists may weigh what comes first alone before the rest; many weigh everything at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retrieval import fit_fusions
from retrieval.fusion import CrossFitted
from retrieval.new_items import World
from retrieval.stage_one import Validation
from tests.world import tiny_config

DEPTH, NOISE = 20, 30
NAMES = ("a_score", "b_score", *(f"noise{i}_score" for i in range(NOISE)))


def fitted(n_lists: int, *, by_time: bool = False) -> CrossFitted:
    """Of lists in which two features say what is taken, and thirty say nothing."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n_lists, DEPTH, len(NAMES))).astype(np.float32)
    logits = features[:, :, :2] @ np.array([1.5, 0.5])
    targets = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    rows = np.tile(np.arange(DEPTH), (n_lists, 1))
    validation = Validation([np.arange(3)] * n_lists, targets, False, np.arange(n_lists))
    config = tiny_config()
    config = replace(config, lists=replace(config.lists, validation="time" if by_time else "last"))
    worlds = [World((), validation, np.ones(DEPTH, dtype=bool))]
    return fit_fusions._fitted([(features, rows)], worlds, NAMES, config, n_first=2)


def weight_of_noise(found: CrossFitted) -> float:
    return float(np.abs(found.fusion.weights[2 : len(NAMES)]).max())


@pytest.mark.parametrize("by_time", [False, True])
def test_few_lists_give_noise_no_weight(by_time):
    assert weight_of_noise(fitted(60, by_time=by_time)) < 0.02


def test_many_lists_weigh_everything_at_once(monkeypatch):
    monkeypatch.setattr(fit_fusions, "FEW_LISTS", 60)
    found = fitted(60)
    assert weight_of_noise(found) > 0.02
    monkeypatch.setattr(fit_fusions, "FEW_LISTS", 61)
    assert found.fusion.figures["fused"]["held_out"] < fitted(60).fusion.figures["fused"]["held_out"]
