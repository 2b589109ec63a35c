"""A cascade scores the best of a long list with all blocks, and is refused where it costs quality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rerank import Reranker, RerankInput, TrainingList, train_reranker
from rerank.cascade import Cascade, fit_cascade, judge_cascade
from tests.rerank.test_reranker import SOFT_ONLY, reranker
from tests.rerank.test_train import SOFT_LISTS, soft_config


@pytest.fixture(scope="module")
def trained() -> Reranker:
    config = soft_config(epochs=5, lr=1e-2)
    return train_reranker(SOFT_LISTS, validation=SOFT_LISTS[:40], config=config).reranker


@pytest.fixture
def fresh(trained: Reranker) -> Reranker:
    trained.cascade = None
    return trained


def test_a_cascade_of_a_learned_rule_is_accepted_and_saved(fresh: Reranker, tmp_path: Path) -> None:
    report = fresh.fit_cascade(SOFT_LISTS[:80], n_blocks=1, keep=4, tolerance=0.05)
    assert report.accepted
    given = [entry.input for entry in SOFT_LISTS[80:90]]
    fresh.save(tmp_path)
    loaded = Reranker.load(tmp_path, precision="float32", device="cpu")
    for one, other in zip(fresh.score_many(given), loaded.score_many(given), strict=True):
        np.testing.assert_array_equal(one, other)


def test_kept_candidates_have_their_full_scores_and_stand_above_the_others(fresh: Reranker) -> None:
    given = SOFT_LISTS[0].input
    full = fresh.score(given)
    fresh.fit_cascade(SOFT_LISTS[:80], n_blocks=1, keep=3, tolerance=1.0)
    cut = fresh.score(given)
    kept = np.argsort(-cut)[:3]
    np.testing.assert_allclose(cut[kept], full[kept], atol=1e-5)
    assert cut[kept].min() > np.delete(cut, kept).max()


def test_short_lists_are_scored_in_full(fresh: Reranker) -> None:
    given = SOFT_LISTS[0].input
    full = fresh.score(given)
    fresh.fit_cascade(SOFT_LISTS[:80], n_blocks=1, keep=8, tolerance=1.0)
    np.testing.assert_array_equal(fresh.score(given), full)


def test_a_cascade_that_costs_quality_is_not_used(fresh: Reranker) -> None:
    blind = Cascade(np.zeros(16, dtype=np.float32), n_blocks=1, keep=1)
    encoded = [fresh.encoder.encode(entry.input) for entry in SOFT_LISTS[:40]]
    report = judge_cascade(blind, fresh.scorer, encoded, [entry.labels for entry in SOFT_LISTS[:40]])
    assert not report.accepted
    flipped = [TrainingList(entry.input, 1 - entry.labels) for entry in SOFT_LISTS[:40]]
    assert fresh.fit_cascade(flipped, n_blocks=1, keep=1, tolerance=-1.0).accepted is False
    assert fresh.cascade is None


@pytest.mark.parametrize("n_blocks", [0, 3])
def test_impossible_cascades_are_refused(n_blocks: int) -> None:
    with pytest.raises(ValueError, match="n_blocks: expected 1 to 2"):
        reranker(**SOFT_ONLY).fit_cascade([], n_blocks=n_blocks)


def test_the_prior_chooses_with_the_early_head_and_is_not_learned_by_it() -> None:
    shape = {**SOFT_ONLY, "prior": True}
    with_prior, without = reranker(**shape), reranker(**SOFT_ONLY)
    given = [prior_input(seed) for seed in range(12)]
    blind = Cascade(np.zeros(16, dtype=np.float32), n_blocks=1, keep=3)
    encoded = with_prior.encoder.encode(given[0])
    kept = np.argsort(-blind.score(with_prior.scorer, encoded))[:3]
    assert sorted(kept) == [5, 6, 7]  # the candidates with the highest prior
    labels = [np.eye(8)[seed % 8] for seed in range(12)]
    cascades = [
        fit_cascade(own.scorer, [own.encoder.encode(one) for one in given], labels, n_blocks=1, keep=3)[0]
        for own in (with_prior, without)
    ]
    np.testing.assert_allclose(cascades[0].head, cascades[1].head, rtol=1e-2, atol=1e-3)


def prior_input(seed: int) -> RerankInput:
    """Eight candidates whose last feature, the prior, rises by 10 from one to the next."""
    rng = np.random.default_rng(seed)
    features = np.concatenate([rng.normal(size=(8, 2)), 10 * np.arange(8.0)[:, None]], axis=1)
    return RerankInput(candidate_vectors=rng.normal(size=(8, 8)), candidate_features=features)
