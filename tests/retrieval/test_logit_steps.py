"""A conditional logit in two steps: the first features alone, then all, pulled towards what these have found."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from retrieval.logit import Lists, fit_logit
from retrieval.logit_steps import PULLS, Steps, fit_steps, list_ndcg

TRUE = np.array([1.5, 0.5])
DEPTH, NOISE = 20, 30


def make_lists(n_lists: int, *, noise: int = NOISE, late: float = 0.0, seed: int = 0) -> Lists:
    """Two features that say what is taken, then `noise` more: the first of these counts `late`, the others nothing."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_lists, DEPTH, 2 + noise)).astype(np.float32)
    logits = features[:, :, :2] @ TRUE + (late * features[:, :, 2] if noise else 0)
    place = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return Lists(features, np.zeros((n_lists, 1)), np.tile(np.arange(DEPTH), (n_lists, 1)), place)


def steps_of(lists: Lists) -> Steps:
    n = len(lists.place)
    return Steps(lists, np.ones(n, dtype=bool), lists.place, np.arange(n) % 4, 4, np.arange(n))


def ndcg(lists: Lists, weights: np.ndarray) -> float:
    scores = lists.features.astype(np.float64) @ weights.reshape(2, -1)[0]
    return float(list_ndcg(scores, lists.rows, lists.place).mean())


def test_few_lists_lose_less_to_noise_in_two_steps():
    """Over ten draws of 40 lists: what 30 features without meaning cost, measured on 4,000 other lists."""
    apart = make_lists(4_000, seed=99)
    two, one = [], []
    for seed in range(10):
        steps = steps_of(make_lists(40, seed=seed))
        two.append(ndcg(apart, fit_steps(steps.lists, steps.penalties(2))))
        one.append(ndcg(apart, fit_steps(steps.lists, steps.penalties(0))))
    assert np.mean(two) > np.mean(one) + 0.02


def test_many_lists_learn_a_late_feature_in_two_steps_as_in_one():
    steps = steps_of(make_lists(3_000, noise=3, late=1.0))
    penalties = steps.penalties(2)
    assert [n_features for n_features, _ in penalties] == [2, 5]
    assert not math.isinf(penalties[1][1])
    weights = fit_steps(steps.lists, penalties)
    assert weights[:5] == pytest.approx([1.5, 0.5, 1.0, 0.0, 0.0], abs=0.15)
    assert ndcg(steps.lists, weights) == pytest.approx(
        ndcg(steps.lists, fit_steps(steps.lists, steps.penalties(0))), abs=5e-3
    )


def test_what_adds_nothing_that_can_be_told_from_chance_is_left_out():
    """Some pull is always the best one on held-out folds, thirty features without meaning or not; a standard error is
    exceeded by chance once in six times."""
    pulls = [steps_of(make_lists(200, seed=seed)).penalties(2)[1][1] for seed in range(5)]
    assert pulls.count(math.inf) >= 3
    assert min(pulls) >= 100


def test_many_lists_of_one_user_are_no_more_certain_than_one():
    steps = steps_of(make_lists(400, noise=0))
    lost = np.tile([0.5, -0.5, 0.5, -0.3], 100)
    assert not steps._lost_by_chance(lost)
    assert replace(steps, users=np.arange(400) % 4)._lost_by_chance(lost)
    assert steps._lost_by_chance(np.zeros(400))
    assert steps._lost_by_chance(-lost)


def test_an_endless_pull_leaves_what_the_first_features_have_found():
    lists = make_lists(200)
    alone = fit_logit(lists.first(2), 1.0)
    weights = fit_steps(lists, ((2, 1.0), (2 + NOISE, math.inf))).reshape(2, -1)
    np.testing.assert_allclose(weights[:, :2].ravel(), alone)
    assert not weights[:, 2:].any()
    near = fit_steps(lists, ((2, 1.0), (2 + NOISE, 1e9))).reshape(2, -1)
    np.testing.assert_allclose(near, weights, atol=1e-5)


def test_a_weight_is_pulled_to_where_it_is_told():
    lists = make_lists(50, noise=0)
    towards = np.array([3.0, -2.0, 0.0, 0.0])
    np.testing.assert_allclose(fit_logit(lists, 1e9, towards=towards), towards, atol=1e-5)
    np.testing.assert_allclose(fit_logit(lists, 1.0, towards=np.zeros(4)), fit_logit(lists, 1.0), atol=1e-9)


def test_held_out_scores_come_from_the_other_folds():
    lists = make_lists(80, noise=1)
    steps = steps_of(lists)
    found = steps.held_out(((2, 1.0), (3, 10.0)))
    for part in range(4):
        test = steps.fold == part
        weights = fit_steps(lists.only(~test), ((2, 1.0), (3, 10.0))).reshape(2, -1)[0]
        np.testing.assert_allclose(found[test], lists.features[test] @ weights, atol=1e-3)


@pytest.mark.parametrize("n_first", [0, 5, 9])
def test_one_step_where_there_is_nothing_to_come_first(n_first):
    steps = steps_of(make_lists(40, noise=3))
    assert len(steps.penalties(n_first)) == 1
    assert math.inf in PULLS


def test_an_offset_is_a_part_of_the_logits_that_is_not_fitted():
    lists = make_lists(3_000, noise=1, late=1.0)
    known = (lists.features[:, :, :2] @ TRUE).astype(np.float64)
    beside = Lists(lists.features[:, :, 2:], lists.context, lists.rows, lists.place, known)
    assert fit_logit(beside, 0.1)[0] == pytest.approx(1.0, abs=0.1)
    assert fit_logit(replace(beside, offset=None), 0.1)[0] < 0.9
    steps = steps_of(beside)
    scores = steps.held_out(((1, 0.1),))
    np.testing.assert_allclose(scores - known, beside.features[:, :, 0], atol=0.5)
    assert list_ndcg(scores, lists.rows, lists.place).mean() > list_ndcg(known, lists.rows, lists.place).mean()


def test_padding_is_never_taken_with_an_offset():
    lists = make_lists(200, noise=0)
    rows = np.concatenate([lists.rows, np.full((200, 3), -1)], axis=1)
    features = np.concatenate([lists.features, np.full((200, 3, 2), 9.0, np.float32)], axis=1)
    offset = np.concatenate([np.ones((200, DEPTH)), np.full((200, 3), 50.0)], axis=1)
    padded = Lists(features, lists.context, rows, lists.place, offset)
    np.testing.assert_allclose(fit_logit(padded, 1.0), fit_logit(lists, 1.0), atol=1e-6)
