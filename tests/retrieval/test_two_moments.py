"""By time GPT-2 is weighed at two moments: validation's, and an earlier one, of which it has seen nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retrieval import fit as fitting
from retrieval.data import moment_at, time_split
from retrieval.fit import fit
from retrieval.fit_lists import MOMENT_SHARE
from retrieval.held_out import held_out_of
from retrieval.histories import histories_of
from tests.world import tiny_config


def watched(monkeypatch, *names: str) -> dict[str, tuple[Any, ...]]:
    """What these functions of a fit are called with."""
    seen: dict[str, tuple[Any, ...]] = {}

    def watch(name: str):
        real = getattr(fitting, name)

        def call(*arguments, **options):
            seen[name] = arguments
            return real(*arguments, **options)

        return call

    for name in names:
        monkeypatch.setattr(fitting, name, watch(name))
    return seen


@pytest.mark.parametrize("n_moments", [1, 3])
def test_what_weighs_gpt_2_taught_it_nothing(items, interactions, encoder, monkeypatch, n_moments):
    seen = watched(monkeypatch, "earlier_moments", "rolling_lists", "train_history_model", "fit_final_fusion")
    config = tiny_config(lists={"validation": "time", "max_lists": 48, "moments": n_moments})
    assert fit(items, interactions, config, encoder=encoder).model.reranker is not None
    base = time_split(interactions).train
    learning, (_, read, stop, _) = seen["rolling_lists"][0], seen["train_history_model"]
    model, found, worlds, _ = seen["fit_final_fusion"]
    newest = moment_at(base, MOMENT_SHARE)
    known = base
    if n_moments == 1:  # The only one is what the lists are made of.
        assert [moment.at for moment in learning] == [newest]
        assert len(worlds) == 1
    else:
        assert len(learning) == n_moments - 1
        assert all(moment.at < newest for moment in learning)
        known = time_split(base, at=newest).train
        real, earlier = worlds
        assert not {id(world) for world in worlds} & {id(moment.world) for moment in learning}
        for user, history in zip(earlier.validation.users, earlier.validation.histories, strict=True):
            assert history.tolist() == histories_of(known)[user].tolist()
        assert not np.isin(real.validation.users, stop.validation.users).any()
        # Each world is asked with sources of its own time.
        assert {id(one.model.sources) for one in found} == {id(world.sources) for world in worlds}
    assert [history.tolist() for history in read] == [history.tolist() for history in histories_of(known)]
    assert model.reranker is not None


def test_an_earlier_moment_is_one_of_data_with_a_clock(interactions):
    held = held_out_of(interactions, tiny_config(lists={"validation": "last"}))
    with pytest.raises(ValueError, match="by time"):
        held.until(1.0)
