"""An evaluation says what each stage is worth, on all items, with the keys the README promises."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from retrieval.evaluate import Rankings, evaluate, make_split, rank_stages, stage_name, summarise
from retrieval.fit import Fitted
from retrieval.histories import histories_of
from tests.world import RING, interaction_frame, make_interactions, make_items, new_item_id, tiny_config, user_id

STAGES = (
    "popularity",
    "neighbours",
    "ease",
    "transitions",
    "walk",
    "lexical",
    "content",
    "dense",
    "recall",
    "fusion",
    "final",
)
METRICS = ("ndcg@10", "recall@10", "recall@50", "recall@100", "mrr@10", "hit@10", "coverage@10", "novelty@10")


@pytest.fixture(scope="module")
def evaluated(items, interactions, config, encoder) -> tuple[dict[str, Any], Fitted]:
    return evaluate(items, interactions, config, dataset="world", encoder=encoder)


@pytest.fixture(scope="module")
def result(evaluated) -> dict[str, Any]:
    return evaluated[0]


def test_the_promised_keys_are_there(result, items, interactions):
    assert (result["dataset"], result["split"]) == ("world", "leave-last-out")
    assert (result["n_users"], result["n_items"]) == (interactions.n_users, len(items))
    assert set(result["stages"]) >= set(STAGES)
    for figures in result["stages"].values():
        assert set(figures) >= set(METRICS)
    assert set(result["final_vs"]) == set(result["stages"]) - {"final"}
    for interval in result["final_vs"].values():
        assert interval["low"] <= interval["diff"] <= interval["high"]
    assert result["seconds"]["total"] > 0
    assert set(result["seconds"]) >= {"embed", "train_reranker", "rank_final", "rank_recall"}


def test_it_is_json(result):
    again = json.loads(json.dumps(result, allow_nan=False, default=float))
    assert again["stages"]["final"]["ndcg@10"] == result["stages"]["final"]["ndcg@10"]


def test_the_rule_of_the_ring_is_found_and_popularity_is_not_enough(result):
    stages = result["stages"]
    assert stages["final"]["ndcg@10"] > 0.9
    assert stages["popularity"]["ndcg@10"] < 0.3
    assert result["final_vs"]["popularity"]["low"] > 0.5


def test_recall_at_100_of_the_recall_stage_is_the_ceiling(result):
    assert result["stages"]["recall"]["recall@100"] == pytest.approx(result["ceiling"])
    assert result["stages"]["final"]["recall@100"] == pytest.approx(result["ceiling"])


def test_differences_are_of_the_means(result):
    for name, interval in result["final_vs"].items():
        expected = result["stages"]["final"]["ndcg@10"] - result["stages"][name]["ndcg@10"]
        assert interval["diff"] == pytest.approx(expected, abs=1e-9)


def test_it_is_measured_on_what_was_not_trained_on(evaluated, interactions):
    result, fitted = evaluated
    assert result["n_train_interactions"] == len(interactions) - interactions.n_users
    own = fitted.model.catalogue.n_items
    assert own == result["n_items"]


def test_contributions_are_what_is_lost_without_a_part(evaluated):
    result, fitted = evaluated
    assert result["fusion"] == fitted.model.final_fusion.figures
    assert set(fitted.model.final_fusion.contributions) == {
        "dense",
        "neighbours",
        "ease",
        "transitions",
        "walk",
        "content",
        "lexical",
        "popular",
        "new",
        "words",
        "category",
        "brand",
        "rerank",
    }


def test_users_can_be_sampled(items, interactions, encoder):
    config = tiny_config(use_reranker=False, head_training={"max_passes": 1})
    result, _ = evaluate(items, interactions, config, dataset="world", encoder=encoder, max_users=10)
    assert result["n_users"] == 10
    assert result["reranker"] is None
    assert result["stages"]["final"] == result["stages"]["fusion"]


def test_a_time_split_measures_what_came_after_one_moment(items, interactions, encoder):
    config = tiny_config(use_reranker=False, head_training={"max_passes": 1})
    at = float(np.quantile(interactions.times, 0.7))
    result, _ = evaluate(items, interactions, config, dataset="world", encoder=encoder, split="time", at=at)
    assert result["split"] == "time"
    assert result["n_train_interactions"] == int((interactions.times < at).sum())
    assert 0 < result["stages"]["final"]["recall@10"] <= 1


def test_an_unknown_split_is_refused(interactions):
    with pytest.raises(ValueError, match="split: expected one of leave-last-out, time, got 'random'"):
        make_split(interactions, "random")


def test_items_nobody_took_are_measured_apart(encoder):
    """One user's last item is one that nobody else ever took: it is cold, all others are warm."""
    items, frame = make_items(), interaction_frame()
    late = pd.DataFrame({"user_id": [user_id("toy", 0)], "item_id": [new_item_id("toy")], "timestamp": [1_700_000_000]})
    interactions = make_interactions(items, pd.concat([frame, late], ignore_index=True))
    config = tiny_config(use_reranker=False, head_training={"max_passes": 1})
    result, _ = evaluate(items, interactions, config, dataset="cold", encoder=encoder)
    assert result["cold"]["n_users"] == 1
    assert result["warm"]["n_users"] == interactions.n_users - 1
    assert set(result["cold"]["stages"]) == set(result["warm"]["stages"]) == set(result["stages"])
    whole = result["stages"]["final"]["ndcg@10"] * interactions.n_users
    parts = sum(result[kind]["stages"]["final"]["ndcg@10"] * result[kind]["n_users"] for kind in ("warm", "cold"))
    assert whole == pytest.approx(parts)


def test_items_taken_again_and_again_by_the_same_people_can_be_evaluated(encoder):
    """More interactions with an item than there are users."""
    items = make_items()
    frame = pd.DataFrame(
        {
            "user_id": [f"user-{n % 6}" for n in range(120)],
            "item_id": [items.ids.ids[n % 2 if n % 6 else n % RING] for n in range(120)],
            "timestamp": range(120),
        }
    )
    config = tiny_config(keep_seen=True, use_reranker=False, head_training={"max_passes": 1})
    result, fitted = evaluate(items, make_interactions(items, frame), config, dataset="again", encoder=encoder)
    assert result["keep_seen"] is True
    assert "repeat" in result["stages"]
    assert all(math.isfinite(figures["novelty@10"]) for figures in result["stages"].values())
    assert "repeat" in fitted.model.source_names


def test_figures_by_hand():
    """Two users, four items; item 3 is cold."""
    ranked = {
        "one": np.array([[0, 1, 2], [2, 3, -1]]),
        "final": np.array([[1, 0, 2], [3, -1, -1]]),
    }
    targets = [np.array([1]), np.array([3])]
    rankings = Rankings(ranked, np.array([1.0, 0.0]), {})
    found = summarise(rankings, targets, np.array([4, 2, 1, 0]), 4, seed=0)
    assert found["stages"]["one"]["ndcg@10"] == pytest.approx((1 / np.log2(3) + 1 / np.log2(3)) / 2)
    assert found["stages"]["final"]["ndcg@10"] == 1
    assert found["stages"]["one"]["coverage@10"] == 1
    assert found["ceiling"] == 0.5
    assert found["warm"]["n_users"] == found["cold"]["n_users"] == 1
    assert found["warm"]["stages"]["one"]["mrr@10"] == 1 / 2
    assert found["cold"]["stages"]["final"]["mrr@10"] == 1
    # Item 0 was taken by all four (0 bits), 1 by two (1 bit), 2 and 3 by one or nobody (2 bits).
    assert found["stages"]["final"]["novelty@10"] == pytest.approx((1 + 0 + 2 + 2) / 4)


def test_without_a_cold_target_nothing_is_said_of_cold_items():
    rankings = Rankings({"final": np.array([[0]])}, np.array([1.0]), {})
    assert "cold" not in summarise(rankings, [np.array([0])], np.array([1]), 1, seed=0)


def test_every_stage_ranks_each_item_once_and_no_seen_one(evaluated, interactions):
    fitted = evaluated[1]
    histories = histories_of(interactions)[:5]
    queries = fitted.model.catalogue.queries(histories)
    rankings = rank_stages(fitted, queries, [np.array([0])] * 5)
    assert set(rankings.ranked) >= set(STAGES)
    for name, ranked in rankings.ranked.items():
        assert ranked.shape == (5, 100), name
        for line, history in zip(ranked, histories, strict=True):
            found = line[line >= 0]
            assert len(np.unique(found)) == len(found)
            assert not np.isin(found, history).any()


def test_the_final_list_holds_the_candidates_of_the_recall_stage(evaluated, interactions):
    fitted = evaluated[1]
    queries = fitted.model.catalogue.queries(histories_of(interactions)[:5])
    ranked = rank_stages(fitted, queries, [np.array([0])] * 5).ranked
    for recall, final in zip(ranked["recall"], ranked["final"], strict=True):
        assert set(recall) == set(final)
    np.testing.assert_array_equal(fitted.model.rank(queries).rows, ranked["final"][:, : fitted.model.depths.rerank])


def test_the_popular_source_is_called_popularity_in_reports(fitted):
    assert [stage_name(source) for source in fitted.model.sources if source.name == "popular"] == ["popularity"]
