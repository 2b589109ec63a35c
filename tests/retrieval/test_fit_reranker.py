"""Stage two as it is fitted: a history model beside a reranker that reads vectors, and beside no other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rerank.blend import Blend
from retrieval import fit_reranker
from retrieval.clock import Clock
from retrieval.fit import Fitted, fit, refit
from retrieval.fit_lists import cross_fitted_lists
from retrieval.held_out import hold_out
from retrieval.histories import histories_of
from retrieval.new_items import World
from retrieval.two_stage import trained_vectors_of
from tests.world import heard, tiny_config

QUICK = {"head_training": {"max_passes": 1}, "lists": {"max_lists": 32}}


def fit_with(items, interactions, encoder, **changes) -> Fitted:
    return fit(items, interactions, tiny_config(**QUICK, **changes), encoder=encoder)


def test_a_history_model_counts_where_it_finds_what_the_cross_encoder_does_not(
    items, interactions, encoder, monkeypatch
):
    monkeypatch.setattr("rerank.reranker.fit_blend", lambda *_: Blend(0.6, 0.5, 0.5))  # whatever so few lists say
    model = heard(fit_with(items, interactions, encoder).model, 0.5)
    assert model.reranker is not None
    assert model.reranker.history is not None
    tokens = fit_reranker.item_tokens(model.catalogue, model.trained_vectors, slice(None))
    assert model.reranker.history.model.config.vector_dim == tokens.shape[1] == model.reranker.config.vector_dim
    histories = [np.array([1, 2, 3]), np.array([4])]
    queries = model.catalogue.queries(histories)
    candidates = model.recall(queries)
    with_history = model.rerank(queries, candidates)
    # Half of the recall score that GPT-2 corrects is in it.
    said, real = model.final_features(candidates, with_history)[:, :, -1], candidates.rows >= 0
    np.testing.assert_allclose(said[real], (with_history - candidates.scores / 2)[real], atol=1e-5)
    assert not said[~real].any()
    model.reranker.history = replace(model.reranker.history, blend=Blend(0.6, 0.0, 0.5))
    assert np.nanmax(np.abs(with_history - model.rerank(queries, candidates))) > 0.01


@pytest.mark.parametrize(
    "changes", [{"use_history_model": False}, {"rerank": {"vector_dim": 0, "n_positions": 64, "candidate_tokens": 8}}]
)
def test_no_history_model_where_none_is_wanted_or_only_words_are_read(
    items, interactions, encoder, monkeypatch, changes
):
    monkeypatch.setattr(fit_reranker, "train_next_item", None)  # a call would raise
    model = fit_with(items, interactions, encoder, **changes).model
    assert model.reranker is not None
    assert model.reranker.history is None


def test_a_checkpoint_of_other_data_is_begun_anew_and_none_other_is_touched(fitted, interactions, config, tmp_path):
    """Last night's fit was killed; fine-tuning keeps its own checkpoints beside these."""
    model, few = fitted.model, replace(config, lists=replace(config.lists, max_lists=32), use_history_model=False)
    _, validation = hold_out(histories_of(interactions), max_users=40, keep_seen=False, seed=0)
    stop = World(model.sources, validation, np.ones(model.catalogue.n_items, dtype=bool))
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "weights").write_text("kept")
    prints = []
    for seed in (0, 1, 0):
        lists = cross_fitted_lists(histories_of(interactions), None, model, fitted.settings, replace(few, seed=seed))
        teacher = fit_reranker.Teacher(model, stop, few, Clock(print), checkpoints=tmp_path)
        reranker = teacher.train(lists, [])
        assert reranker is not None
        prints.append(reranker.fingerprint)
        assert (tmp_path / "reranker" / "facts.json").is_file()
    assert prints[0] == prints[2] != prints[1]
    assert (tmp_path / "encoder" / "weights").read_text() == "kept"


def test_the_final_list_is_that_without_gpt2_and_what_gpt2_corrects(fitted, interactions):
    model, without = fitted.model, fitted.model_without_rerank
    final, plain = model.final_fusion, without.final_fusion
    assert final.names == (*plain.names, "rerank_score")
    n_blocks = 1 + len(final.context_mean)
    blocks = final.weights.reshape(n_blocks, -1), plain.weights.reshape(n_blocks, -1)
    kept = blocks[0][:, :-1].sum() / blocks[1].sum()
    assert 0 < kept < 2
    np.testing.assert_allclose(blocks[0][:, :-1], kept * blocks[1], rtol=1e-6)
    queries = model.catalogue.queries(histories_of(interactions)[:9])
    candidates = model.recall(queries)
    logits = model.rerank(queries, candidates)
    said = model.final_features(candidates, logits)[:, :, -1]
    real = candidates.rows >= 0
    np.testing.assert_allclose(said[real], (logits - model.reranker.prior_weight * candidates.scores)[real], atol=1e-6)
    assert np.abs(said[real]).max() > 0
    assert not said[~real].any()
    # It says the same of a candidate whatever else is scored: nothing is measured among the candidates.
    fewer = replace(candidates, **{name: getattr(candidates, name)[:, :5] for name in vars(candidates)})
    np.testing.assert_array_equal(model.final_features(fewer, logits[:, :5])[:, :, -1], said[:, :5])


def test_gpt_2_goes_on_reading_the_vectors_it_was_trained_beside(fitted, interactions, config):
    model = fitted.model
    base, _ = hold_out(
        histories_of(interactions), max_users=config.lists.validation_users, keep_seen=False, seed=config.seed
    )
    known = np.bincount(np.concatenate(base), minlength=model.catalogue.n_items) > 0
    own = trained_vectors_of(model.sources)
    assert known.any()
    np.testing.assert_allclose(np.linalg.norm(model.trained_vectors, axis=1), 1, atol=1e-5)
    assert np.abs(model.trained_vectors - own)[known].max() > 1e-3
    np.testing.assert_array_equal(model.trained_vectors[~known], own[~known])
    assert not model.learned_vectors[~known].any()
    # Later fits move the recall head, and not what GPT-2 reads.
    later = refit(fitted, interactions, replace(config, seed=config.seed + 1))
    assert np.abs(trained_vectors_of(later.sources) - own).max() > 1e-3
    np.testing.assert_array_equal(later.trained_vectors[known], model.trained_vectors[known])
