"""NDCG of lists with one target or several, where equal scores share their ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.fusion import FusionLists
from retrieval.metrics import per_user_metrics
from retrieval.ranks import expected_ndcg, list_ndcg, target_ranks


def test_ndcg_of_one_target_is_the_inverse_logarithm_of_its_rank():
    scores = np.array([[3.0, 2.0, 1.0]] * 4)
    rows = np.array([[7, 8, 9]] * 4)
    found = list_ndcg(scores, rows, np.array([7, 8, 9, 5]))
    np.testing.assert_allclose(found, [1 / np.log2(2), 1 / np.log2(3), 1 / np.log2(4), 0])


def test_ndcg_is_zero_below_its_depth():
    scores, rows = -np.arange(12.0)[None], np.arange(12)[None]
    assert list_ndcg(scores, rows, np.array([9]))[0] == pytest.approx(1 / np.log2(11))
    assert list_ndcg(scores, rows, np.array([10]))[0] == 0


def test_a_constant_score_earns_the_middle_rank():
    scores, rows = np.zeros((1, 5)), np.arange(5)[None]
    assert list_ndcg(scores, rows, np.array([0]))[0] == pytest.approx(1 / np.log2(1 + 3))


def test_a_score_that_is_no_number_is_not_found():
    scores = np.array([[np.nan, np.nan], [np.nan, 1.0]])
    np.testing.assert_array_equal(target_ranks(scores, np.array([0, 1])), [np.inf, 1])


def test_padding_never_outranks_an_item():
    scores = np.array([[0.0, 9.0, 9.0]])
    assert list_ndcg(scores, np.array([[4, -1, -1]]), np.array([4]))[0] == 1


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_ndcg_of_several_targets_is_that_of_the_evaluation(seed):
    """Some of what was taken is not in the list, and some lists are shorter than others."""
    rng = np.random.default_rng(seed)
    rows = np.array([rng.permutation(40)[:15] for _ in range(6)])
    rows[3:, 8:] = -1
    wanted = [rng.permutation(40)[: rng.integers(1, 14)] for _ in range(6)]
    scores = rng.permutation(90).reshape(6, 15).astype(np.float32)
    lists = FusionLists.of(np.zeros((6, 15, 1), np.float32), rows, wanted, np.zeros((6, 1), np.float32))
    order = np.argsort(-np.where(rows >= 0, scores, -np.inf), axis=1)
    expected = per_user_metrics(np.take_along_axis(rows, order, axis=1), wanted)["ndcg@10"]
    np.testing.assert_allclose(lists.ndcg(scores), expected)


def test_a_masked_target_is_not_found_however_few_items_there_are():
    scores = np.array([[1.0, -np.inf, -np.inf, 0.5]])
    assert target_ranks(scores, np.array([1])).tolist() == [np.inf]
    assert list_ndcg(scores, np.arange(4)[None], np.array([1])).tolist() == [0.0]


def test_the_expected_ndcg_is_the_mean_over_what_may_be_taken():
    rng = np.random.default_rng(5)
    scores, chance = rng.normal(size=(6, 14)), rng.dirichlet(np.ones(14), 6)
    rows = np.tile(np.arange(14), (6, 1))
    scores[0, 9:], chance[0, 9:], rows[0, 9:] = -np.inf, 0, -1  # padding
    chance[0] /= chance[0].sum()
    drawn = [chance[:, i] * list_ndcg(scores, rows, np.full(6, i)) for i in range(14)]
    np.testing.assert_allclose(expected_ndcg(scores, chance), np.sum(drawn, axis=0), rtol=1e-12)
    assert np.all(expected_ndcg(scores, chance) < expected_ndcg(chance, chance))
    # One candidate, surely taken; and the order of the columns where scores are equal.
    np.testing.assert_allclose(expected_ndcg(np.zeros((1, 1)), np.ones((1, 1))), [1.0])
    np.testing.assert_allclose(expected_ndcg(np.zeros((1, 3)), np.array([[0.0, 1.0, 0.0]])), [1 / np.log2(3)])
