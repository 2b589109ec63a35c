"""The conditional logit against its own definition, and against scipy's optimiser."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from retrieval.logit import Lists, fit_logit


def widen(features: np.ndarray, context: np.ndarray) -> np.ndarray:
    """The features, and the features times each of the list's contexts, as columns of their own."""
    return np.concatenate([features, *(features * one[:, None, None] for one in context.T)], axis=2)


def make_lists(n: int, *, seed: int = 0, weight: float = 1.0) -> Lists:
    """Lists of up to six candidates, of which one is taken as weights say that grow with the context."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 6, 3)).astype(np.float32)
    context = rng.normal(size=(n, 1))
    rows = np.tile(np.arange(6), (n, 1))
    rows[rng.random((n, 6)) < 0.2] = -1
    rows[:, 0] = 0
    truth = weight * np.array([1.5, -1.0, 0.0, 0.5, 0.0, 0.0])
    logits = np.where(rows >= 0, widen(features, context) @ truth + rng.gumbel(size=(n, 6)), -np.inf)
    return Lists(features, context, rows, logits == logits.max(axis=1, keepdims=True))


def spread_of(lists: Lists) -> np.ndarray:
    """Root mean square of how far a candidate lies from the mean of its list, once per block of weights."""
    own = [features[rows >= 0] for features, rows in zip(lists.features, lists.rows, strict=True)]
    apart = np.concatenate([part - part.mean(axis=0) for part in own])
    return np.tile(np.sqrt((apart**2).mean(axis=0)), 1 + lists.context.shape[1])


def objective(lists: Lists, weights: np.ndarray, penalty: float) -> float:
    total = penalty * float(((weights * spread_of(lists)) ** 2).sum())
    for features, context, rows, taken in zip(lists.features, lists.context, lists.rows, lists.taken, strict=True):
        logits = widen(features[None], context[None])[0] @ weights
        chance = logits[taken] - np.log(np.exp(logits[rows >= 0]).sum())
        total -= float(np.sqrt(taken.sum()) * chance.mean())
    return total


def test_the_optimum_is_that_of_a_general_optimiser():
    lists = make_lists(400)
    for penalty in (0.1, 30.0):
        found = fit_logit(lists, penalty)
        general = minimize(lambda w, p=penalty: objective(lists, w, p), np.zeros(6), tol=1e-9)
        np.testing.assert_allclose(found, general.x, atol=1e-3)
        assert objective(lists, found, penalty) <= general.fun + 1e-6


def test_where_several_were_taken_their_mean_counts_by_the_root_of_their_number():
    lists = make_lists(400)
    rng = np.random.default_rng(1)
    lists.taken[:] |= (rng.random(lists.taken.shape) < 0.3) & (lists.rows >= 0)
    assert (lists.taken.sum(axis=1) > 1).any()
    for penalty in (0.1, 30.0):
        found = fit_logit(lists, penalty)
        general = minimize(lambda w, p=penalty: objective(lists, w, p), np.zeros(6), tol=1e-9)
        np.testing.assert_allclose(found, general.x, atol=1e-3)


def test_several_contexts_and_a_given_part_of_the_logits_have_the_optimum_of_a_general_optimiser():
    lists, rng = make_lists(300), np.random.default_rng(2)
    context, offset = rng.normal(size=(300, 2)), rng.normal(size=(300, 6))
    lists = Lists(lists.features, context, lists.rows, lists.taken, offset)

    def value(weights: np.ndarray) -> float:
        logits = np.where(lists.rows >= 0, widen(lists.features, context) @ weights + offset, -np.inf)
        chance = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return 0.3 * float(((weights * spread_of(lists)) ** 2).sum()) - float(chance[lists.taken].sum())

    found = fit_logit(lists, 0.3)
    general = minimize(value, np.zeros(9), tol=1e-9)
    np.testing.assert_allclose(found, general.x, atol=1e-3)
    assert value(found) <= general.fun + 1e-6


def test_the_unit_of_a_feature_makes_no_difference():
    lists = make_lists(300)
    unit = np.array([1.0, 4.0, 20.0], dtype=np.float32)
    for penalty in (1.0, 300.0):
        found = fit_logit(replace(lists, features=lists.features * unit), penalty)
        np.testing.assert_allclose(found * np.tile(unit, 2), fit_logit(lists, penalty), atol=1e-4)


def test_what_is_nearly_always_the_same_does_not_weigh_without_end():
    lists = make_lists(300)
    lists.features[:, :, 2] = 0
    lists.features[:1, :, 2] = lists.taken[:1]
    assert lists.spread[2] == pytest.approx(0.3)
    assert 0 < fit_logit(lists, 1.0)[2] < 2


def test_what_decided_is_found():
    found = fit_logit(make_lists(4_000), 0.1)
    np.testing.assert_allclose(found, [1.5, -1.0, 0, 0.5, 0, 0], atol=0.15)


def test_a_better_start_changes_the_way_not_the_end():
    lists = make_lists(300)
    far = fit_logit(lists, 1.0, np.full(6, 25.0))
    np.testing.assert_allclose(far, fit_logit(lists, 1.0), atol=1e-3)


def test_lists_that_one_feature_decides_without_error_have_an_end():
    lists = make_lists(100, weight=1000.0)
    found = fit_logit(lists, 0.1)
    assert np.isfinite(found).all()
    assert found[0] > 1
