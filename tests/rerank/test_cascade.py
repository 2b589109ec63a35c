"""A cascade scores the best of a long list with all blocks, and is refused where it costs quality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rerank import Reranker, TrainingList, train_reranker
from rerank.cascade import Cascade
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
    from rerank.cascade import judge_cascade

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
