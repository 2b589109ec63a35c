"""A GPT-2 that the final fusion leaves out is not asked: its time would be for nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retrieval.cli_train import verdict
from retrieval.fusion import Fusion
from retrieval.two_stage import TwoStage


def weighed(model: TwoStage, weight: float) -> TwoStage:
    """The model with this weight for what GPT-2 says, for every context."""
    fusion = model.final_fusion
    assert fusion.names[-1] == "rerank_score"
    weights = fusion.weights.reshape(-1, len(fusion.names)).copy()
    weights[:, -1] = 0
    weights[0, -1] = weight
    return replace(model, final_fusion=replace(fusion, weights=weights.ravel()))


def test_gpt_2_is_asked_only_where_it_counts(recommender, monkeypatch):
    model = recommender.model
    queries = model.catalogue.queries(recommender.histories[:5], keep_seen=False)
    heard, unheard = weighed(model, 0.5), weighed(model, 0.0)
    assert (heard.rerank_counts, unheard.rerank_counts) == (True, False)
    assert np.isfinite(heard.rank(queries).rerank_scores).any()
    expected = heard.rank(queries)
    asked = []
    monkeypatch.setattr(type(model.reranker), "score_many", lambda self, inputs: asked.append(inputs))
    found = unheard.rank(queries)
    assert not asked
    assert np.isnan(found.rerank_scores).all()
    # What it would have said changes nothing.
    monkeypatch.undo()
    candidates = unheard.recall(queries)
    logits = heard.rerank(queries, candidates)
    np.testing.assert_array_equal(
        unheard.fuse(queries, candidates, logits), unheard.fuse(queries, candidates, np.full_like(logits, np.nan))
    )
    assert not np.array_equal(found.scores, expected.scores)


def test_a_reranker_that_no_fusion_was_asked_about_is_heard(recommender):
    """So it is while the final fusion is fitted: the one without GPT-2 stands in for it."""
    model, names = recommender.model, recommender.model.final_fusion.names[:-1]
    fusion = model.final_fusion
    weights = fusion.weights.reshape(-1, len(fusion.names))[:, :-1].ravel()
    plain = Fusion(names, weights, fusion.context_mean, fusion.context_deviation, fusion.calibration, fusion.figures)
    assert replace(model, final_fusion=plain).rerank_counts
    assert not replace(model, reranker=None, final_fusion=plain).rerank_counts


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_list_tells_whether_gpt_2_read_it(recommender, weight):
    served = replace(recommender, model=weighed(recommender.model, weight))
    items = served.recommend("toy-fan-01", k=3)
    assert [item.rerank_score is not None for item in items] == [weight > 0] * 3


def test_a_fit_says_whether_gpt_2_counts(recommender):
    model = recommender.model
    assert verdict(replace(model, reranker=None)) == ""
    assert verdict(weighed(model, 0.5)) == "; GPT-2 counts"
    assert verdict(weighed(model, 0.0)) == "; GPT-2 does not count: validation users tell no gain by it"
