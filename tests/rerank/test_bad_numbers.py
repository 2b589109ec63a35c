"""Numbers that are none, too large or out of range are refused or bounded, and never learned from or praised."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rerank import HistoryModel, HistoryModelConfig, RerankConfig, Reranker, RerankInput, TrainingList, train_reranker
from rerank.blend import Blend
from rerank.history_scorer import HistoryScorer
from rerank.metrics import ndcg_at_10
from tests.rerank.test_reranker import SOFT_ONLY, reranker
from tests.rerank.test_train import SOFT_LISTS, soft_config


def test_scores_that_are_no_numbers_count_nothing() -> None:
    assert ndcg_at_10([np.array([np.nan, np.nan])], [np.array([1.0, 0.0])]) == 0.0


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    with pytest.raises(ValueError, match="expected a finite loss, got nan; lower lr"):
        train_reranker(SOFT_LISTS[:64], validation=SOFT_LISTS[:8], config=soft_config(lr=1e30), device="cpu")


def test_training_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train_reranker(SOFT_LISTS[:8], validation=SOFT_LISTS[:4], config=soft_config(epochs=1), device="cpu")
    assert torch.equal(torch.rand(1), expected)


def test_a_feature_far_outside_the_training_data_gives_a_finite_score() -> None:
    features = np.array([[0.0, 3e38, 0.0], [0.0, 0.0, 0.0]])
    given = RerankInput(candidate_vectors=np.eye(2, 8), candidate_features=features)
    assert np.isfinite(reranker(**SOFT_ONLY).score(given)).all()


def history_model() -> HistoryModel:
    return HistoryModel(HistoryModelConfig(vector_dim=8, n_embd=16, n_layer=1, n_head=2, history_items=4)).eval()


def test_a_user_without_vectors_gets_nothing_from_a_history_model() -> None:
    given = RerankInput(candidate_vectors=np.eye(3, 8))
    assert HistoryScorer(history_model()).score_many([given])[0].tolist() == [0.0, 0.0, 0.0]


def test_candidates_count_in_the_rows_of_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    scorer = HistoryScorer(history_model())
    items = scorer._items

    def watched(parts):
        nonlocal largest
        largest = max(largest, sum(map(len, parts)))
        return items(parts)

    monkeypatch.setattr("rerank.history_scorer.MAX_ROWS", 50)
    monkeypatch.setattr(scorer, "_items", watched)
    scorer.score_many([RerankInput(context_vectors=np.eye(1, 8), candidate_vectors=np.eye(20, 8))] * 10)
    assert largest <= 50


@pytest.mark.parametrize(
    "wrong", [{"dropout": 1.0}, {"dropout": -0.1}, {"warmup": 1.5}, {"lr": float("nan")}, {"lr": -1.0}]
)
def test_options_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        RerankConfig.from_dict({"vector_dim": 4, **wrong})


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"temperature": float("nan")}, {"dropout": 2.0}])
def test_history_options_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        HistoryModelConfig(**wrong)


EMPTY = TrainingList(RerankInput(candidate_vectors=np.empty((0, 8)), candidate_features=np.empty((0, 3))), np.empty(0))


def some_lists(n_lists: int) -> list[TrainingList]:
    rng = np.random.default_rng(0)
    given = [
        RerankInput(candidate_vectors=rng.normal(size=(4, 8)), candidate_features=rng.normal(size=(4, 3)))
        for _ in range(n_lists)
    ]
    return [TrainingList(one, np.eye(4)[row % 4]) for row, one in enumerate(given)]


def own_reranker() -> Reranker:
    shared = reranker(**SOFT_ONLY)
    return Reranker(shared.gpt2, shared.tokenizer, shared.soft, shared.config, precision="float32", device="cpu")


def test_a_cascade_is_judged_only_by_lists_it_cuts() -> None:
    made = own_reranker()
    assert not made.fit_cascade([EMPTY, *some_lists(6)], n_blocks=1, keep=4).accepted
    assert made.cascade is None
    assert np.isfinite(made.fit_cascade([*some_lists(6), EMPTY], n_blocks=1, keep=2).ndcg_full)
    with pytest.raises(ValueError, match="keep: expected at least 1, got 0"):
        made.fit_cascade(some_lists(6), n_blocks=1, keep=0)


def test_a_history_model_is_not_used_where_all_lists_are_empty() -> None:
    made = own_reranker()
    assert made.add_history(history_model(), [EMPTY, EMPTY]) == Blend()
    assert made.history is None
