"""Who is asked for what: cold items leave training whole, masks stay, and no test interaction reaches a list."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.evaluate import evaluate, figures_of, make_trial, rank_trial
from tests.world import TOPICS, interaction_frame, item_id, make_interactions, tiny_config, user_id

QUICK = {"use_reranker": False, "head_training": {"max_passes": 1}}


def test_cold_items_leave_training_and_histories_but_stay_masked(interactions):
    trial = make_trial(interactions, "leave-last-out", cold_share=0.25, seed=1)
    assert len(trial.cold_rows) == 12  # of 48 items that anybody took
    assert not np.isin(trial.train.item_rows, trial.cold_rows).any()
    assert not np.isin(np.concatenate(trial.histories), trial.cold_rows).any()
    assert np.isin(np.concatenate(trial.seen), trial.cold_rows).any()
    assert np.isin(np.concatenate(trial.targets), trial.cold_rows).any()


def test_the_same_seed_makes_the_same_items_cold(interactions):
    first, second, other = (
        make_trial(interactions, "leave-last-out", cold_share=0.25, seed=seed).cold_rows for seed in (1, 1, 2)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_nothing_is_masked_where_items_come_again(interactions):
    trial = make_trial(interactions, "leave-last-out", keep_seen=True)
    assert all(len(rows) == 0 for rows in trial.seen)


def test_users_left_without_a_history_are_not_asked(interactions):
    trial = make_trial(interactions, "leave-last-out", cold_share=0.9, seed=0)
    assert all(len(history) > 0 for history in trial.histories)
    assert len(trial.users) + trial.n_without_history == interactions.n_users


def test_a_share_that_leaves_nobody_is_refused(items):
    frame = interaction_frame().groupby("user_id").head(2)
    with pytest.raises(ValueError, match="expected a share between 0 and 1, got 1"):
        make_trial(make_interactions(items, frame), "leave-last-out", cold_share=1)


def test_cold_figures_are_told_apart(items, interactions, encoder):
    segments = {user_id(topic, number): topic for topic in TOPICS for number in range(12)}
    result, _ = evaluate(
        items, interactions, tiny_config(**QUICK), dataset="cold", encoder=encoder, cold_share=0.25, segments=segments
    )
    assert result["cold_items"]["n_items"] == 12
    assert result["cold"]["n_users"] + result["warm"]["n_users"] == result["n_users"]
    assert result["cold"]["stages"]["ease"]["ndcg@10"] == 0
    assert result["cold"]["stages"]["popularity"]["ndcg@10"] < 0.05
    assert set(result["segments"]["segment"]) == set(TOPICS)
    assert sum(found["n_users"] for found in result["segments"]["history"].values()) == result["n_users"]
    assert set(result["ms_per_user"]) == set(result["stages"])
    assert result["oracle"]["ndcg@10"] >= result["stages"]["final"]["ndcg@10"]


def test_lists_do_not_depend_on_what_is_held_out(items, encoder):
    """The newest interaction of every user is replaced by another item: the lists must stay the same."""
    frame = interaction_frame()
    newest = frame.groupby("user_id").tail(1).index
    other = frame.copy()
    other.loc[newest, "item_id"] = item_id("toy", 0)
    config = tiny_config(use_reranker=True, head_training={"max_passes": 1}, lists={"max_lists": 32})
    found = []
    for taken in (frame, other):
        trial = make_trial(make_interactions(items, taken), "leave-last-out")
        rankings, _, _ = rank_trial(items, trial, config, encoder=encoder)
        found.append((trial, rankings))
    (trial, first), (_, second) = found
    for stage, rows in first.ranked.items():
        np.testing.assert_array_equal(rows, second.ranked[stage], err_msg=stage)
    assert figures_of(trial, first)["stages"]["final"]["ndcg@10"] > 0
