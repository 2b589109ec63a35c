"""Items that nobody took yet are judged by what is known of them, because validation knows such items."""

from __future__ import annotations

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


def mean_on_new_items(items, interactions, encoder, *, share: float, n_seeds: int, **options) -> dict[str, float]:
    """NDCG@10 on the new items of one split by stage, the mean over seeds: a few lists of them move with each seed."""
    found = {"recall": 0.0, "final": 0.0}
    for seed in range(n_seeds):
        lists, depths = {"new_items": share, "max_lists": 192}, {"per_source": 40, "rerank": 40}
        config = tiny_config(lists=lists, depths=depths, seed=seed, **options)
        result, _ = evaluate(
            items, interactions, config, dataset="world", encoder=encoder, cold_share=0.15, data_seed=0
        )
        stages = result["cold"]["stages"]
        assert stages["ease"]["ndcg@10"] == 0
        found = {stage: value + stages[stage]["ndcg@10"] / n_seeds for stage, value in found.items()}
    return found


def test_new_items_are_found_better_where_validation_knew_such_items(items, interactions, encoder):
    world = items, interactions, encoder
    without = mean_on_new_items(*world, share=0.0, n_seeds=2, use_reranker=False)
    knowing = mean_on_new_items(*world, share=0.2, n_seeds=8, use_reranker=False)
    # What new items borrow helps in both.
    assert knowing["recall"] > 1.1 * without["recall"] > 0.4, (knowing, without)
    assert knowing["final"] > 1.1 * without["final"] > 0.4, (knowing, without)


def test_gpt2_finds_new_items_too_where_its_lists_knew_such_items(items, interactions, encoder):
    knowing, without = (
        mean_on_new_items(items, interactions, encoder, share=share, n_seeds=3)["final"] for share in (0.2, 0.0)
    )
    assert knowing > without > 0.3, (knowing, without)
