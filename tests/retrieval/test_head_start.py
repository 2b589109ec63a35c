"""New items get the largest head start that costs the lists at most two percent of what is expected of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retrieval.fusion import Fusion, FusionLists
from retrieval.head_start import FEWEST_FOUND, FEWEST_LISTS, MOST, STEPS, HeadStart, choose_head_start, with_head_start

NAMES = ("some_score", "new_item")
FUSION = Fusion(
    NAMES, np.array([1.0, 0.1, 0.0, 0.0]), np.zeros(1), np.ones(1), (1.0, 0.0), {"fused": {"held_out": 0.5}}
)


def lists_of(gap: float, *, n_lists: int = 400, n_known: int = 12, new_right: float = 0.5) -> FusionLists:
    """Twelve known items that score 0 and one new one that scores `gap` below them; the new one is right for a share of
    the users, the first known one for the others."""
    features = np.zeros((n_lists, n_known + 1, 2), dtype=np.float32)
    features[:, 0, 0] = 0.05  # the known target stands first among the known
    features[:, -1] = (-gap, 1)
    rows = np.tile(np.arange(n_known + 1), (n_lists, 1))
    target = np.where(np.arange(n_lists) < new_right * n_lists, n_known, 0)
    return FusionLists.of(features, rows, target[:, None], np.zeros((n_lists, 1), np.float32))


def chosen(lists: FusionLists) -> HeadStart:
    start = choose_head_start(FUSION, lists)
    assert start is not None
    return start


def random_lists(n_lists: int = 300, depth: int = 20, *, share_new: float = 0.2, spread: float = 1.0) -> FusionLists:
    """Candidates of any scores, some of them new, a third of the lists padded; any one of a list was taken."""
    rng = np.random.default_rng(3)
    features = np.zeros((n_lists, depth, 2), dtype=np.float32)
    features[:, :, 0] = rng.normal(0, spread, (n_lists, depth))
    features[:, :, 1] = rng.random((n_lists, depth)) < share_new
    rows = np.tile(np.arange(depth), (n_lists, 1))
    rows[::3, depth - 6 :] = -1
    features[rows < 0] = 0
    target = rng.integers(0, depth - 6, n_lists)
    return FusionLists.of(features, rows, target[:, None], np.zeros((n_lists, 1), np.float32))


def cost_of(lists: FusionLists, step: float) -> float:
    """The share of NDCG@10 that a step costs where what is taken is drawn by the fusion's probabilities, in loops."""
    before = after = 0.0
    for features, rows in zip(lists.features.astype(np.float64), lists.rows, strict=True):
        own = [(score + 0.1 * new, new) for score, new in features[rows >= 0]]
        total = sum(np.exp(score) for score, _ in own)
        first = sorted(own, key=lambda one: -one[0])[:10]
        lifted = sorted(own, key=lambda one: -one[0] - step * one[1])[:10]
        before += sum(np.exp(score) / total / np.log2(rank + 2) for rank, (score, _) in enumerate(first))
        after += sum(np.exp(score) / total / np.log2(rank + 2) for rank, (score, _) in enumerate(lifted))
    return 1 - after / before


@pytest.mark.parametrize("share_new", [0.1, 0.2, 0.5])
def test_the_largest_head_start_within_the_bound_is_given(share_new):
    lists = random_lists(share_new=share_new)
    start = chosen(lists)
    cost = [cost_of(lists, step) for step in STEPS]
    assert start.log_odds == max(step for step, lost in zip(STEPS, cost, strict=True) if lost <= MOST)
    assert start.cost == pytest.approx(cost[STEPS.index(start.log_odds)], rel=1e-4)
    assert 0 < start.log_odds < max(STEPS)  # there was a choice
    assert np.all(np.diff(cost) >= 0)


def test_only_the_weight_of_new_items_rises():
    lifted = with_head_start(FUSION, HeadStart(0.7, 0.01))
    np.testing.assert_allclose(lifted.weights, [1.0, 0.1 + 0.7, 0.0, 0.0])
    assert lifted.calibration == FUSION.calibration
    assert lifted.figures == {**FUSION.figures, "head_start": {"log_odds": 0.7, "cost": 0.01}}
    assert "head_start" not in FUSION.figures
    assert with_head_start(FUSION, None) is FUSION


def test_what_costs_nothing_goes_to_new_items():
    # The new one stands so far below that no head start lifts it past a known one.
    assert chosen(lists_of(9.0)) == HeadStart(max(STEPS), 0.0)


def test_the_surer_the_fusion_is_the_less_a_head_start_costs():
    # Of what is spread tenfold hardly anything lies within a step of something else.
    assert chosen(random_lists(spread=1.0)).log_odds < chosen(random_lists(spread=10.0)).log_odds


def test_which_of_the_candidates_were_taken_makes_no_difference():
    lists = random_lists()
    counts = [int((lists.taken & (lists.features[:, :, 1] > 0)).any(axis=1).sum())]
    for seed in range(3):
        target = np.random.default_rng(seed).integers(0, 14, len(lists))
        others = replace(lists, taken=np.equal(lists.rows, target[:, None]))
        counts.append(int((others.taken & (others.features[:, :, 1] > 0)).any(axis=1).sum()))
        assert chosen(others) == chosen(lists)
    assert len(set(counts)) > 1
    assert min(counts) >= FEWEST_FOUND


def test_lists_that_hold_nothing_taken_say_nothing():
    lists = random_lists()
    missed = np.arange(len(lists)) % 4 == 0
    taken = np.where(missed[:, None], False, lists.taken)
    assert chosen(replace(lists, taken=taken)) == chosen(lists.only(~missed)) != chosen(lists)


@pytest.mark.parametrize(
    "change", ["no list", "few lists", "no new item", "new item never right", "few right", "no such feature"]
)
def test_without_anything_to_choose_by_there_is_none(change):
    lists, fusion = lists_of(0.8), FUSION
    if change == "no list":
        lists = lists.only(np.zeros(len(lists), dtype=bool))
    elif change == "few lists":
        lists = lists.only(np.arange(len(lists)) > len(lists) - FEWEST_LISTS)
    elif change == "no new item":
        lists.features[:, :, 1] = 0
    elif change == "few right":
        lists = lists_of(0.8, new_right=(FEWEST_FOUND - 1) / 400)
    elif change == "new item never right":
        lists = replace(lists, taken=lists.rows == 0)
    else:
        fusion = replace(FUSION, names=("some_score", "other"))
    assert choose_head_start(fusion, lists) is None


def test_the_first_lists_can_be_left_out():
    lists = lists_of(0.8)
    rest = lists.only(np.arange(len(lists)) >= 250)
    assert len(rest) == 150
    np.testing.assert_array_equal(rest.features, lists.features[250:])
