"""Items that nobody took yet are judged by what is known of them, because validation knows such items."""

from __future__ import annotations

import itertools

import numpy as np

from retrieval.evaluate import evaluate
from retrieval.new_items import choose_new, could_be_right, forget, forget_validation, positions_among
from retrieval.rerank_lists import Position
from retrieval.stage_one import Validation
from tests.world import tiny_config


def rows(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


NEW = np.array([False, True, False, True])


def test_a_share_of_the_items_is_chosen_the_same_way_each_time():
    chosen = choose_new(10_000, 0.1, 3)
    assert 0.08 < chosen.mean() < 0.12
    np.testing.assert_array_equal(chosen, choose_new(10_000, 0.1, 3))
    assert (chosen != choose_new(10_000, 0.1, 4)).any()
    assert not choose_new(100, 0.0, 0).any()


def test_new_items_leave_histories_but_not_targets():
    assert [history.tolist() for history in forget([rows(0, 1, 2), rows(3), rows()], NEW)] == [[0, 2], [], []]
    before, taken = [rows(0, 1), rows(3), rows(2)], [rows(3), rows(0), rows(1)]
    validation = Validation(before, taken, keep_seen=False, users=rows(7, 8, 9))
    left = forget_validation(validation, NEW, max_users=9, seed=0)
    assert [history.tolist() for history in left.histories] == [[0], [2]]
    assert left.targets.tolist() == [3, 1]
    assert left.users.tolist() == [7, 9]
    positions = positions_among([Position(rows(0, 3), rows(1), rows(3)), Position(rows(1), rows(0), rows())], NEW)
    assert [(p.history.tolist(), p.targets.tolist()) for p in positions] == [([0], [1])]


def test_what_nobody_ever_took_could_not_be_right():
    histories = [rows(0, 1), rows(), rows(3)]
    assert could_be_right(histories, 5, new_items=0.1).tolist() == [True, True, False, True, False]
    assert could_be_right(histories, 5, new_items=0.0).all()


def test_new_items_are_found_better_where_validation_knew_such_items(items, interactions, encoder):
    """Over three seeds: with 95 validation lists the final figure of one alone moves by a third with its seed."""
    figures = {(share, stage): 0.0 for share in (0.0, 0.2) for stage in ("recall", "final")}
    for share, seed in itertools.product((0.0, 0.2), range(3)):
        lists, depths = {"new_items": share, "max_lists": 192}, {"per_source": 40, "rerank": 40}
        config = tiny_config(lists=lists, depths=depths, seed=seed)
        result, _ = evaluate(items, interactions, config, dataset="world", encoder=encoder, cold_share=0.15)
        stages = result["cold"]["stages"]
        assert stages["ease"]["ndcg@10"] == 0
        for stage in ("recall", "final"):
            figures[share, stage] += stages[stage]["ndcg@10"] / 3
    assert figures[0.2, "recall"] > 1.2 * figures[0.0, "recall"], figures
    # What new items borrow helps in both.
    assert figures[0.2, "final"] > figures[0.0, "final"] > 0.3, figures
