"""The users that stop GPT-2's training, and those that tell what GPT-2 is worth, are not the same."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from retrieval.fit import fit
from retrieval.held_out import stopping_users
from retrieval.new_items import World
from retrieval.stage_one import Validation
from tests.world import make_interactions, make_items, tiny_config

FIT = importlib.import_module("retrieval.fit")
RERANKER = importlib.import_module("retrieval.fit_reranker")


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_validation_is_parted_into_users_that_stop_training_and_all_others(n):
    own = [np.array([user]) for user in range(n)]
    validation = Validation(own, own, False, np.arange(n))
    stop = stopping_users(validation, share=0.25, seed=0)
    assert len(stop) == {1: 0, 2: 1, 3: 1, 10: 2}[n]
    parts = World((), validation, np.ones(n, dtype=bool), has_new=True).parted(stop)
    first, second = (part.validation for part in parts)
    assert sorted(first.targets) == sorted(stop)
    assert sorted([*first.targets, *second.targets]) == list(range(n))
    for part in parts:
        assert part.has_new
        assert [int(history[0]) for history in part.validation.histories] == part.validation.targets.tolist()


def test_users_that_stop_gpt2_never_tell_what_it_is_worth(encoder, monkeypatch):
    real_lists, real_fusion = RERANKER.stopping_lists, FIT.fit_final_fusion
    seen: dict[str, set[int]] = {"stop": set(), "judge": set()}
    n_worlds, items = [], make_items()

    def watched_stop(model, stop, config):
        seen["stop"] |= set(stop.validation.users.tolist())
        return real_lists(model, stop, config)

    def watched_fusion(model, found, worlds, config, **options):
        n_worlds.append(len(worlds))
        for world in worlds:
            seen["judge"] |= set(world.validation.users.tolist())
        return real_fusion(model, found, worlds, config, **options)

    monkeypatch.setattr(RERANKER, "stopping_lists", watched_stop)
    monkeypatch.setattr(FIT, "fit_final_fusion", watched_fusion)
    fit(items, make_interactions(items), tiny_config(), encoder=encoder)
    assert n_worlds == [2]  # one of them with items made new
    assert seen["stop"]
    assert seen["judge"]
    assert not seen["stop"] & seen["judge"]
