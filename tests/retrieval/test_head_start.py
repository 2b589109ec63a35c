"""New items get the largest head start that costs the lists at most one percent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retrieval.fusion import Fusion, FusionLists
from retrieval.head_start import FEWEST_FOUND, FEWEST_LISTS, STEPS, give_head_start

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


def chosen(fusion: Fusion) -> float:
    return fusion.figures["head_start"]["log_odds"]


def test_new_items_that_are_right_are_lifted_to_where_they_are_seen():
    lifted = give_head_start(FUSION, lists_of(0.8))
    # A gap of .7 is left after the fitted weight: .75 is enough to stand above the known ones, and 1 costs nothing more
    # where half of the users want the new one.
    assert chosen(lifted) in (0.75, 1.0)
    np.testing.assert_allclose(lifted.weights, [1.0, 0.1 + chosen(lifted), 0.0, 0.0])


def test_new_items_that_are_almost_never_right_stay_below():
    assert chosen(give_head_start(FUSION, lists_of(0.2, n_lists=4_000, new_right=0.01))) == 0.0


def test_what_costs_nothing_goes_to_new_items():
    # The new one stands so far below that no head start lifts it past a known one.
    assert chosen(give_head_start(FUSION, lists_of(9.0))) == max(STEPS)


def test_more_than_a_hundredth_is_too_much():
    # One of forty users wants the new item, which pushes the others' first item to the second place.
    few = lists_of(0.2, n_lists=FEWEST_FOUND * 40, new_right=0.025)
    assert chosen(give_head_start(FUSION, few)) == 0.0


@pytest.mark.parametrize(
    "change", ["no list", "few lists", "no new item", "new item never right", "few right", "no such feature"]
)
def test_without_anything_to_choose_by_nothing_changes(change):
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
    assert give_head_start(fusion, lists) is fusion


def test_up_to_a_hundredth_is_worth_it_however_surely_it_is_lost():
    # One user in 100 loses a place, one in 500 finds what is new: so many lists show that loss beyond any doubt.
    lists = lists_of(0.2, n_lists=12_000, new_right=0.002)
    lists.features[:, 0, 0] = np.where(np.arange(12_000) % 100 == 99, 0.05, 2.0)
    assert chosen(give_head_start(FUSION, lists)) == max(STEPS)


def test_the_first_lists_can_be_left_out():
    lists = lists_of(0.8)
    rest = lists.only(np.arange(len(lists)) >= 250)
    assert len(rest) == 150
    np.testing.assert_array_equal(rest.features, lists.features[250:])
