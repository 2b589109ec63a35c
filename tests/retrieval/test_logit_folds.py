"""The penalty of a conditional logit is the one with which other folds are ordered best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retrieval.logit import Lists, fit_logit
from retrieval.logit_folds import PENALTIES, Folds, fit_scaled

TRUE = np.array([1.5, 0.5])
DEPTH = 20


def make_lists(n_lists: int, *, noise: int = 1, late: float = 0.0, seed: int = 0) -> Lists:
    """Two features that say what is taken, then `noise` more: the first of these counts `late`, the others nothing."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_lists, DEPTH, 2 + noise)).astype(np.float32)
    logits = features[:, :, :2] @ TRUE + (late * features[:, :, 2] if noise else 0)
    place = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    rows = np.tile(np.arange(DEPTH), (n_lists, 1))
    return Lists(features, np.zeros((n_lists, 1)), rows, rows == place[:, None])


def folds_of(lists: Lists) -> Folds:
    n = len(lists.taken)
    return Folds(lists, np.ones(n, dtype=np.int64), np.arange(n) % 4)


def test_held_out_scores_come_from_the_other_folds():
    folds = folds_of(make_lists(80))
    found = folds.held_out()
    assert sorted(found) == list(PENALTIES)
    for penalty, scores in found.items():
        for part in range(4):
            test = folds.fold == part
            weights = fit_scaled(folds.lists.only(~test), penalty).reshape(2, -1)[0]
            np.testing.assert_allclose(scores[test], folds.lists.features[test] @ weights, atol=1e-3)


def log_likelihood(lists: Lists, scores: np.ndarray) -> float:
    chance = np.exp(scores.astype(np.float64))
    return float(np.log((chance / chance.sum(axis=1, keepdims=True))[lists.taken]).sum())


@pytest.mark.parametrize(("n_lists", "noise"), [(40, 30), (400, 2), (1500, 30)])
def test_the_penalty_is_the_likeliest_that_other_folds_cannot_tell_from_the_best(n_lists, noise):
    folds = folds_of(make_lists(n_lists, noise=noise))
    chosen, scores = folds.best()
    tried = folds.held_out()
    found = {penalty: folds.ndcg(one) for penalty, one in tried.items()}
    best = max(found.values(), key=lambda ndcg: ndcg.mean())
    behind = {penalty: best - ndcg for penalty, ndcg in found.items()}
    equal = [one for one, loss in behind.items() if loss.mean() <= loss.std() / np.sqrt(n_lists)]
    assert len(equal) > 1
    assert log_likelihood(folds.lists, scores) == pytest.approx(
        max(log_likelihood(folds.lists, tried[penalty]) for penalty in equal)
    )
    np.testing.assert_array_equal(scores, tried[chosen])
    assert chosen in equal


def test_lists_without_what_was_taken_are_scored_but_not_learned_from():
    lists = make_lists(80)
    holds = np.arange(80) % 5 > 0
    some = folds_of(replace(lists, taken=lists.taken & holds[:, None]))
    for part in range(4):
        test = some.fold == part
        weights = fit_scaled(lists.only(~test & holds), 1.0).reshape(2, -1)[0]
        np.testing.assert_allclose(some.held_out()[1.0][test], lists.features[test] @ weights, atol=1e-3)


def test_an_offset_is_a_part_of_the_logits_that_is_not_fitted():
    lists = make_lists(3_000, late=1.0, noise=1)
    known = (lists.features[:, :, :2] @ TRUE).astype(np.float64)
    beside = Lists(lists.features[:, :, 2:], lists.context, lists.rows, lists.taken, known)
    assert fit_logit(beside, 0.1)[0] == pytest.approx(1.0, abs=0.1)
    assert fit_logit(replace(beside, offset=None), 0.1)[0] < 0.9
    folds = folds_of(beside)
    scores = folds.held_out()[0.1]
    np.testing.assert_allclose(scores - known, beside.features[:, :, 0], atol=0.5)
    assert folds.ndcg(scores).mean() > folds.ndcg(known).mean()


def test_beside_an_offset_the_penalty_is_the_likeliest_one():
    lists = make_lists(300, late=0.3, noise=4)
    folds = folds_of(Lists(lists.features[:, :, 2:], lists.context, lists.rows, lists.taken, lists.features[:, :, 0]))
    found = {penalty: folds.log_likelihood(scores).sum() for penalty, scores in folds.held_out().items()}
    assert len(set(found.values())) > 1
    assert found[folds.best()[0]] == max(found.values())


def test_padding_is_never_taken_with_an_offset():
    lists = make_lists(200, noise=0)
    rows = np.concatenate([lists.rows, np.full((200, 3), -1)], axis=1)
    features = np.concatenate([lists.features, np.full((200, 3, 2), 9.0, np.float32)], axis=1)
    offset = np.concatenate([np.ones((200, DEPTH)), np.full((200, 3), 50.0)], axis=1)
    taken = np.concatenate([lists.taken, np.zeros((200, 3), dtype=bool)], axis=1)
    padded = Lists(features, lists.context, rows, taken, offset)
    np.testing.assert_allclose(fit_logit(padded, 1.0), fit_logit(lists, 1.0), atol=1e-6)
