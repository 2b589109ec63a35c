"""A GPT-2 that the final fusion leaves out is not asked: its time would be for nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retrieval.cli_train import verdict
from retrieval.fusion import Fusion
from tests.world import heard


def test_gpt_2_is_asked_only_where_it_counts(recommender, monkeypatch):
    model = recommender.model
    queries = model.catalogue.queries(recommender.histories[:5], keep_seen=False)
    loud, silent = heard(model, 0.5), heard(model, 0.0)
    assert (loud.rerank_counts, silent.rerank_counts) == (True, False)
    assert np.isfinite(loud.rank(queries).rerank_scores).any()
    expected = loud.rank(queries)
    asked = []
    monkeypatch.setattr(type(model.reranker), "score_many", lambda self, inputs: asked.append(inputs))
    found = silent.rank(queries)
    assert not asked
    assert np.isnan(found.rerank_scores).all()
    # What it would have said changes nothing.
    monkeypatch.undo()
    candidates = silent.recall(queries)
    logits = loud.rerank(queries, candidates)
    np.testing.assert_array_equal(
        silent.fuse(queries, candidates, logits), silent.fuse(queries, candidates, np.full_like(logits, np.nan))
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
    served = replace(recommender, model=heard(recommender.model, weight))
    items = served.recommend("toy-fan-01", k=3)
    assert [item.rerank_score is not None for item in items] == [weight > 0] * 3


def test_a_fit_says_whether_gpt_2_counts(recommender):
    model = recommender.model
    assert verdict(replace(model, reranker=None)) == ""
    assert verdict(heard(model, 0.5)) == "; GPT-2 counts"
    assert verdict(heard(model, 0.0)) == "; GPT-2 does not count: validation users tell no gain by it"
