"""By time GPT-2 is weighed at two moments, by trainings that saw nothing of what follows; another one serves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retrieval import fit as fitting
from retrieval import fit_reranker
from retrieval.data import IdMap, Impressions, Interactions, moment_at, time_split
from retrieval.fit import fit
from retrieval.held_out import held_out_of, stopping_users, without_later
from retrieval.histories import histories_of
from retrieval.moments import MOMENT_SHARE
from retrieval.two_stage import trained_vectors_of
from tests.world import tiny_config

Calls = dict[str, list[tuple[Any, ...]]]


def watched(monkeypatch, module, *names: str) -> tuple[Calls, dict[str, list[dict[str, Any]]]]:
    """What these functions of a fit are called with, each time, by place and by name."""
    seen: Calls = {name: [] for name in names}
    by_name: dict[str, list[dict[str, Any]]] = {name: [] for name in names}

    def watch(name: str):
        real = getattr(module, name)

        def call(*arguments, **options):
            seen[name].append(arguments)
            by_name[name].append(options)
            return real(*arguments, **options)

        return call

    for name in names:
        monkeypatch.setattr(module, name, watch(name))
    return seen, by_name


def as_lists(histories) -> list[list[int]]:
    return [history.tolist() for history in histories]


@pytest.mark.parametrize("n_moments", [1, 3])
@pytest.mark.parametrize("counts", [True, False])
def test_what_weighs_gpt_2_taught_it_nothing(items, interactions, encoder, monkeypatch, n_moments, counts):
    seen, options = watched(monkeypatch, fit_reranker, "rolling_lists", "train_history_model")
    seen |= watched(monkeypatch, fitting, "fit_final_fusion")[0]
    monkeypatch.setattr("retrieval.two_stage.TwoStage.rerank_counts", property(lambda self: counts))
    config = tiny_config(lists={"validation": "time", "max_lists": 48, "moments": n_moments})
    said: list[str] = []
    serving = fit(items, interactions, config, encoder=encoder, say=said.append).model.reranker
    assert serving is not None

    held = held_out_of(interactions, config)
    assert held.moment is not None
    newest = moment_at(time_split(interactions).train, MOMENT_SHARE)
    (_, found, worlds, _), *_ = seen["fit_final_fusion"]
    stop = seen["train_history_model"][0][2].validation.users
    assert not np.isin(worlds[0].validation.users, stop).any()
    # One after the other: weighed at validation, weighed at the moment before, and for serving, if it counts at all.
    weighed = [held.moment, newest][: 1 if n_moments == 1 else 2]
    until = [time_split(interactions, at=moment).train for moment in weighed]
    until += [without_later(interactions, stop, held.moment)] * counts
    assert len(seen["rolling_lists"]) == len(seen["train_history_model"]) == len(until)
    for known, (learning, asked, *_), (_, read, *_) in zip(
        until, seen["rolling_lists"], seen["train_history_model"], strict=True
    ):
        assert as_lists(histories_of(asked)) == as_lists(read) == as_lists(histories_of(known))
        assert all(moment.at < asked.times.max() for moment in learning)
    n_learning = [n_moments, n_moments - 1][: len(weighed)] + [n_moments + 1] * counts
    assert [len(learning) for learning, *_ in seen["rolling_lists"]] == n_learning
    # Each world is asked with sources of its own time, and by a GPT-2 of its own.
    assert len(worlds) == len(weighed)
    assert {id(one.model.sources) for one, _ in found} == {id(world.sources) for world in worlds}
    assert len({id(gpt2) for _, gpt2 in found}) == len(worlds)
    assert any("(serving)" in line for line in said) == counts
    vectors = [trained_vectors_of(world.sources) for world in (*worlds, *([worlds[0]] if counts else []))]
    for told, own in zip(options["train_history_model"], vectors, strict=True):
        np.testing.assert_array_equal(told["vectors"], own)
    # What serves learned from the time of validation's lists, which would say too much for it.
    first = next(gpt2 for one, gpt2 in found if one.model.sources is worlds[0].sources)
    assert (serving is first) != counts
    assert serving.history is not None
    assert first.history is not None
    assert serving.history.blend == first.history.blend


def test_every_training_goes_on_from_checkpoints_of_its_own(items, interactions, encoder, monkeypatch, tmp_path):
    monkeypatch.setattr("retrieval.two_stage.TwoStage.rerank_counts", property(lambda self: True))
    config = tiny_config(lists={"validation": "time", "max_lists": 48, "moments": 2}, use_history_model=False)
    first, again = (fit(items, interactions, config, encoder=encoder, checkpoints=tmp_path) for _ in range(2))
    assert {place.name for place in tmp_path.iterdir()} == {"validation", "moment 1", "serving"}
    rerankers = [fitted.model.reranker for fitted in (first, again)]
    weights = [reranker.gpt2.state_dict() for reranker in rerankers if reranker]
    assert len(weights) == 2
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_stopping_users_keep_what_they_had_and_were_shown_before():
    ids = IdMap.of(["a", "b"]), IdMap.of([f"i{row}" for row in range(9)])
    shown = Impressions.of(np.array([0, 0, 1]), np.array([6, 7, 8]), np.array([1.0, 5.0, 5.0]))
    rows = np.array([0, 0, 1, 1]), np.array([1, 2, 3, 4]), np.array([1.0, 5.0, 1.0, 5.0])
    left = without_later(Interactions.of(*ids, *rows, negatives=shown), np.array([0]), 5.0)
    assert as_lists(histories_of(left)) == [[1], [3, 4]]
    assert left.negatives.item_rows.tolist() == [6, 8]


def test_users_who_stop_are_some_of_those_asked(interactions):
    held = held_out_of(interactions, tiny_config(lists={"validation": "time"}))
    stop = stopping_users(held.asked, share=0.25, seed=0)
    assert 0 < len(stop) < len(held.asked.users)
