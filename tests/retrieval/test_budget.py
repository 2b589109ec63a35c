"""Minutes become lists, epochs, seconds and validation users that fit into them."""

from __future__ import annotations

import itertools

import pytest
import torch

from retrieval.budget import MAKE_LISTS_PER_S, RERANK_LISTS_PER_S, head_pass_s, machine_speed, within_budget
from retrieval.config import Config, ListsConfig

SIZES = [(60_000, 4_400), (200_000, 12_000), (600_000, 4_000)]


def seconds_of(config: Config, n_interactions: int, n_items: int) -> float:
    """What the plan takes by the measured speeds: the head's fits, the history model, the lists, the reranker."""
    assert config.head_training.max_seconds is not None
    assert config.history_training.max_seconds is not None
    head = (config.lists.folds * config.lists.rounds + 1) * config.head_training.max_seconds
    lists = config.lists.max_lists * (1 / MAKE_LISTS_PER_S + config.rerank.epochs / RERANK_LISTS_PER_S)
    return head + config.history_training.max_seconds + lists


@pytest.mark.parametrize(("n_interactions", "n_items"), SIZES)
@pytest.mark.parametrize("minutes", [15, 30, 120, 600])
def test_the_plan_fits_into_its_minutes(n_interactions, n_items, minutes):
    plan = within_budget(Config(), n_interactions, n_items, minutes, speed=1)
    assert seconds_of(plan, n_interactions, n_items) <= 60 * minutes


@pytest.mark.parametrize(("n_interactions", "n_items"), SIZES)
def test_more_minutes_never_train_less(n_interactions, n_items):
    minutes = (1, 5, 15, 30, 60, 120, 480)
    plans = [within_budget(Config(), n_interactions, n_items, some, speed=1) for some in minutes]
    seen = [
        (p.head_training.max_seconds or 0, p.lists.validation_users, p.lists.max_lists * p.rerank.epochs) for p in plans
    ]
    for less, more in itertools.pairwise(seen):
        assert all(a <= b for a, b in zip(less, more, strict=True))


def test_a_minute_still_trains_something():
    plan = within_budget(Config(), 600_000, 4_000, 0.5, speed=1)
    assert plan.lists.max_lists == plan.lists.validation_users == 500
    assert plan.rerank.epochs == 1
    assert plan.head_training.min_passes == 2
    assert plan.head_training.max_seconds == pytest.approx(2 * head_pass_s(600_000, 4_000))


def test_more_folds_only_where_the_head_has_passes_enough():
    assert within_budget(Config(), 600_000, 4_000, 30, speed=1).lists.folds == 2
    assert within_budget(Config(), 60_000, 4_400, 60, speed=1).lists.folds == Config().lists.folds > 2


def test_users_are_dealt_again_where_interactions_are_few_and_time_is_left():
    rounds = [within_budget(Config(), 60_000, 4_400, minutes, speed=1).lists.rounds for minutes in (5, 30)]
    assert rounds == [1, Config().lists.rounds]
    assert within_budget(Config(), 600_000, 4_000, 600, speed=1).lists.rounds == 1


def test_by_time_there_are_as_many_moments_as_heads_can_be_trained_for():
    by_time = Config(lists=ListsConfig(validation="time"))
    plans = [within_budget(by_time, 600_000, 4_000, minutes, speed=1) for minutes in (2, 30, 60, 480)]
    moments = [plan.lists.moments for plan in plans]
    assert moments == sorted(moments)
    assert moments[0] < moments[-1] == by_time.lists.moments
    seconds = [plan.head_training.max_seconds or 0 for plan in plans]
    assert seconds == sorted(seconds)
    heads = [(3 * plan.lists.moments + 7) * some for plan, some in zip(plans, seconds, strict=True)]
    assert all(some <= 0.6 * 0.9 * 60 * minutes for some, minutes in zip(heads[1:], (30, 60, 480), strict=True))


def test_there_are_never_more_lists_than_interactions():
    plan = within_budget(Config(), 3_000, 400, 300, speed=1)
    assert plan.lists.max_lists == 3_000
    assert plan.rerank.epochs == 4


def test_everything_else_stays_as_it_was():
    config = Config(seed=7, keep_seen=True)
    plan = within_budget(config, 60_000, 4_400, 30, speed=1)
    assert (plan.seed, plan.keep_seen, plan.head, plan.depths) == (7, True, config.head, config.depths)
    assert plan.rerank.n_layer == config.rerank.n_layer


def test_a_faster_machine_trains_on_more():
    slow, fast = (within_budget(Config(), 600_000, 4_000, 30, speed=speed) for speed in (1, 8))
    assert fast.lists.max_lists > 4 * slow.lists.max_lists


@pytest.mark.parametrize(("threads", "speed"), [(1, 0.5), (2, 1.0), (6, 3.0), (64, 4.0)])
def test_threads_are_what_makes_a_cpu_fast(monkeypatch, threads, speed):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert machine_speed("cpu") == speed
    config = Config(device="cpu")
    assert within_budget(config, 600_000, 4_000, 30) == within_budget(config, 600_000, 4_000, 30, speed=speed)


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_no_time_is_refused(minutes):
    with pytest.raises(ValueError, match="budget: expected minutes and speed above 0"):
        within_budget(Config(), 10, 10, minutes)


def test_no_data_is_refused():
    with pytest.raises(ValueError, match="n_interactions=0"):
        within_budget(Config(), 0, 10, 5, speed=1)
