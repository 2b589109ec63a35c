"""Splits: what is held out, what stays, and that nothing later than a target stays in training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.data import IdMap, Impressions, Interactions, cold_items, leave_last_out, time_split


def world(rows, *, n_users=3, n_items=6, negatives=None, time_kind="seconds"):
    """Interactions of (user, item, time) triples in input order."""
    users, items, times = zip(*rows, strict=True)
    shown = None if negatives is None else Impressions.of(*map(np.array, zip(*negatives, strict=True)))
    maps = IdMap.of(f"u{u}" for u in range(n_users)), IdMap.of(f"i{i}" for i in range(n_items))
    return Interactions.of(*maps, users, items, times, negatives=shown, time_kind=time_kind)


def triples(table):
    return list(zip(table.user_rows.tolist(), table.item_rows.tolist(), table.times.tolist(), strict=True))


def test_interactions_are_sorted_by_user_then_time_then_input_order():
    table = world([(1, 0, 5), (0, 3, 9), (0, 2, 1), (1, 5, 5), (1, 4, 2)])
    assert triples(table) == [(0, 2, 1), (0, 3, 9), (1, 4, 2), (1, 0, 5), (1, 5, 5)]


@pytest.mark.parametrize(
    ("ids", "row", "here", "there"),
    [
        (["i0", "i2", "i1"], 1, "'i2'", "'i1'"),
        (["i0"], 1, "nothing", "'i1'"),
        (["i0", "i1", "i2", "x"], 3, "'x'", "not"),
    ],
)
def test_another_item_table_is_told_by_its_first_row_that_differs(ids, row, here, there):
    table = world([(0, 1, 5)], n_items=3)
    table.require_items(IdMap.of(["i0", "i1", "i2"]))
    with pytest.raises(ValueError, match=f"where row {row} is {here}, got those of another one, where it is {there}"):
        table.require_items(IdMap.of(ids))


def test_exact_repeats_are_dropped_and_repeat_purchases_stay():
    table = world([(0, 1, 5), (0, 2, 5), (0, 1, 5), (0, 1, 6)])
    assert triples(table) == [(0, 1, 5), (0, 2, 5), (0, 1, 6)]


def test_same_moment_with_another_event_is_no_repeat():
    maps = IdMap.of(["u"]), IdMap.of(["i"])
    codes = np.array([0, 1, 0])
    table = Interactions.of(*maps, [0, 0, 0], [0, 0, 0], [1, 1, 1], event_codes=codes, event_names=("cart", "buy"))
    assert table.event_codes.tolist() == [0, 1]


def test_history_of_a_user_is_oldest_first_and_empty_without_interactions():
    table = world([(0, 3, 9), (0, 2, 1)])
    assert table.history(0).tolist() == [2, 3]
    assert table.history(2).tolist() == []
    assert table.offsets.tolist() == [0, 2, 2, 2]


def test_item_counts_count_every_interaction():
    assert world([(0, 1, 1), (0, 1, 2), (1, 4, 1)]).item_counts().tolist() == [0, 2, 0, 0, 1, 0]


def test_take_refuses_positions_that_would_break_the_order():
    with pytest.raises(ValueError, match="strictly rising"):
        world([(0, 1, 1), (0, 2, 2)]).take(np.array([1, 0]))


def test_interactions_refuse_rows_outside_the_maps():
    with pytest.raises(ValueError, match=r"item rows 0\.\.5, got 0\.\.6"):
        world([(0, 0, 1), (0, 6, 1)])


def test_leave_last_out_holds_out_the_last_of_each_user_and_keeps_lone_ones():
    split = leave_last_out(world([(0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 4, 7), (2, 5, 1), (2, 0, 2)]))
    assert split.test_users.tolist() == [0, 2]
    assert [target.tolist() for target in split.targets] == [[3], [0]]
    assert triples(split.train) == [(0, 1, 1), (0, 2, 2), (1, 4, 7), (2, 5, 1)]
    assert len(split.no_history) == 0


def test_leave_last_out_breaks_ties_by_input_order():
    split = leave_last_out(world([(0, 5, 1), (0, 4, 1)]))
    assert split.targets[0].tolist() == [4]


def test_leave_last_out_can_hold_out_several():
    split = leave_last_out(world([(0, 1, 1), (0, 2, 2), (0, 3, 3), (1, 4, 7), (1, 5, 8)]), n_last=2)
    assert split.test_users.tolist() == [0]
    assert split.targets[0].tolist() == [2, 3]
    assert len(split.train) == 3


def test_leave_last_out_drops_impressions_from_the_target_on():
    shown = [(0, 5, 1.0), (0, 4, 2.0), (0, 3, 9.0), (1, 3, 9.0)]
    split = leave_last_out(world([(0, 1, 1), (0, 2, 2), (1, 0, 3)], negatives=shown))
    assert triples(split.train.negatives) == [(0, 5, 1.0), (1, 3, 9.0)]


def test_leave_last_out_needs_a_user_with_two_interactions():
    with pytest.raises(ValueError, match="more than 1 interactions"):
        leave_last_out(world([(0, 1, 1), (1, 1, 1)]))


def test_time_split_holds_out_all_from_the_moment_on_and_sets_cold_users_apart():
    rows = [(0, 1, 1), (0, 2, 5), (0, 3, 6), (1, 4, 5), (2, 5, 2)]
    split = time_split(world(rows, negatives=[(0, 0, 4.0), (0, 0, 5.0)]), at=5)
    assert triples(split.train) == [(0, 1, 1), (2, 5, 2)]
    assert split.test_users.tolist() == [0]
    assert split.targets[0].tolist() == [2, 3]
    assert split.no_history.users.tolist() == [1]
    assert triples(split.train.negatives) == [(0, 0, 4.0)]
    assert split.moment == 5


def test_time_split_by_quantile_trains_on_about_that_share():
    split = time_split(world([(0, n % 6, n) for n in range(20)]), quantile=0.75)
    assert len(split.train) == 15


def test_time_split_names_the_range_when_a_side_is_empty():
    with pytest.raises(
        ValueError,
        match=r"moment 1970-01-01 00:00:03, got times from 1970-01-01 00:00:01 to 1970-01-01 00:00:02; where",
    ):
        time_split(world([(0, 1, 1), (0, 2, 2)]), at=3)


def test_time_split_refuses_positions_that_start_anew_for_each_user():
    rows = [(user, place, place) for user in range(3) for place in range(4)]
    with pytest.raises(ValueError, match="use leave_last_out"):
        time_split(world(rows, time_kind="positions"))


def test_time_split_takes_positions_that_all_users_share():
    rows = [(place % 3, place % 6, place) for place in range(12)]
    assert len(time_split(world(rows, time_kind="positions"), quantile=0.5).train) == 6


def test_cold_items_have_no_training_interaction_left():
    table = world(
        [(0, n, n) for n in range(5)] + [(1, n, n) for n in range(5)], negatives=[(2, n, 1.0) for n in range(6)]
    )
    cold = cold_items(table, share=0.4, seed=3)
    assert len(cold.item_rows) == 2
    assert not np.isin(cold.train.item_rows, cold.item_rows).any()
    assert not np.isin(cold.train.negatives.item_rows, cold.item_rows).any()
    assert len(cold.train) == 10 - 2 * 2
    assert cold_items(table, share=0.4, seed=3).item_rows.tolist() == cold.item_rows.tolist()


@pytest.mark.parametrize("share", [0, 1, -0.5, 0.01, float("nan")])
def test_cold_items_refuses_a_share_that_leaves_a_side_empty(share):
    with pytest.raises(ValueError, match="share"):
        cold_items(world([(0, n, n) for n in range(5)]), share=share)


rows_of_a_world = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 4).map(float)), min_size=2, max_size=30
)


@given(rows_of_a_world)
def test_no_training_interaction_of_a_test_user_is_later_than_a_target(rows):
    table = world(rows)
    if (np.diff(table.offsets) > 1).any():
        split = leave_last_out(table)
        for place, user in enumerate(split.test_users):
            first_target = split.held_out.times[split.held_out.offsets[place]]
            start, stop = split.train.offsets[user], split.train.offsets[user + 1]
            assert (split.train.times[start:stop] <= first_target).all()
        assert len(split.train) + len(split.held_out.items) == len(table)


@given(rows_of_a_world)
def test_sorting_agrees_with_plain_python(rows):
    expected = sorted(dict.fromkeys(rows), key=lambda row: (row[0], row[2]))  # both keep input order
    assert triples(world(rows)) == expected
