"""Losses and NDCG by hand."""

from __future__ import annotations

from math import exp, log, log2

import numpy as np
import pytest
import torch

from rerank.losses import LOSSES, listwise, pairwise, pointwise
from rerank.metrics import ndcg_at_10

SCORES = torch.tensor([1.0, 0.0, 2.0, 2.0, 5.0])
LABELS = torch.tensor([1.0, 0.0, 0.0, 2.0, 0.0])
LISTS = torch.tensor([0, 0, 1, 1, 2])


def test_listwise_is_the_mean_log_share_of_the_wanted() -> None:
    first = -log(exp(1) / (exp(1) + 1))
    second = -log(1 / 2)
    assert float(listwise(SCORES, LABELS, LISTS)) == pytest.approx((first + second) / 2)  # the third wants nothing


def test_listwise_divides_graded_labels_by_their_sum() -> None:
    scores, labels = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([3.0, 1.0, 0.0])
    total = 1 + 1 + exp(1)
    expected = -(3 / 4) * log(1 / total) - (1 / 4) * log(1 / total)
    assert float(listwise(scores, labels, torch.zeros(3, dtype=torch.long))) == pytest.approx(expected)


def test_listwise_weighs_lists_by_the_root_of_how_much_they_want() -> None:
    """Four wanted of five count twice one of two."""
    scores = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0])
    labels, lists = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1, 1, 1, 1])
    one, four = log(exp(1) + 1) - 1, log(4 + exp(2))
    assert float(listwise(scores, labels, lists)) == pytest.approx((one + 2 * four) / 3)


def test_pairwise_is_the_mean_over_ordered_pairs() -> None:
    first = log(1 + exp(-(1.0 - 0.0)))
    second = log(1 + exp(-(2.0 - 2.0)))
    assert float(pairwise(SCORES, LABELS, LISTS)) == pytest.approx((first + second) / 2)


def test_pairwise_weighs_pairs_by_the_difference_of_labels() -> None:
    scores, labels = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([3.0, 1.0, 0.0])
    expected = (2 * log(1 + exp(1)) + 3 * log(2) + 1 * log(1 + exp(-1))) / (2 + 3 + 1)
    assert float(pairwise(scores, labels, torch.zeros(3, dtype=torch.long))) == pytest.approx(expected)


def test_pointwise_is_binary_cross_entropy_list_by_list() -> None:
    def off(score: float) -> float:
        return log(1 + exp(score))

    def on(score: float) -> float:
        return log(1 + exp(-score))

    expected = ((on(1) + off(0)) / 2 + (off(2) + on(2)) / 2 + off(5)) / 3
    assert float(pointwise(SCORES, LABELS, LISTS)) == pytest.approx(expected)


@pytest.mark.parametrize("name", list(LOSSES))
def test_extreme_scores_give_finite_losses_and_gradients(name: str) -> None:
    scores = torch.tensor([1e4, -1e4, 0.0, 3e3], requires_grad=True)
    loss = LOSSES[name](scores, torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.zeros(4, dtype=torch.long))
    loss.backward()
    assert torch.isfinite(loss)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("name", list(LOSSES))
def test_better_order_means_lower_loss(name: str) -> None:
    labels, lists = torch.tensor([1.0, 0.0]), torch.zeros(2, dtype=torch.long)
    good, bad = (LOSSES[name](torch.tensor(scores), labels, lists) for scores in ([2.0, -2.0], [-2.0, 2.0]))
    assert good < bad


def test_ndcg_is_discounted_gain_over_the_ideal() -> None:
    scores, labels = np.array([3.0, 2.0, 1.0]), np.array([0.0, 1.0, 2.0])
    gain = 1 / log2(3) + 2 / log2(4)
    ideal = 2 / log2(2) + 1 / log2(3)
    assert ndcg_at_10([scores], [labels]) == pytest.approx(gain / ideal)


def test_ndcg_counts_ties_against_us_and_skips_lists_that_want_nothing() -> None:
    flat = [np.zeros(3), np.zeros(3)]
    assert ndcg_at_10(flat, [np.array([1.0, 0.0, 0.0]), np.zeros(3)]) == pytest.approx(1 / log2(4))
    assert np.isnan(ndcg_at_10([np.zeros(3)], [np.zeros(3)]))


def test_ndcg_ends_at_ten() -> None:
    scores, labels = -np.arange(11.0), np.eye(11)[10]
    assert ndcg_at_10([scores], [labels]) == 0
