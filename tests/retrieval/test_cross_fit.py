"""What stands beside a fusion is fitted beside scores of lists that the fusion did not see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from retrieval import fusion
from retrieval.fusion import FusionLists, cross_fit
from tests.retrieval.test_fusion import alike, fit_fusion, make_lists, ndcg

NOISE = 12
TRUE = np.array([1.2, 1.0, *[0.0] * NOISE, 1.0])
NAMES = ("good_score", "other_score", *(f"noise{i}_score" for i in range(NOISE)), "late_score")


def base_lists(lists: FusionLists) -> FusionLists:
    """The lists without the feature that comes late."""
    return replace(lists, features=lists.features[:, :, :-1])


def test_every_list_is_scored_by_what_was_fitted_on_the_others():
    lists = make_lists(np.array([2.0, 0.0]), n_lists=200)
    found = cross_fit(lists, ("a_score", "b_score"))
    fold = lists.folds(4, 0)
    for part in range(4):
        other = fit_fusion(lists.only(fold != part), ("a_score", "b_score"))
        own = lists.only(fold == part)
        alike = np.corrcoef(other.score(own.features, own.context).ravel(), found.scores[fold == part].ravel())[0, 1]
        assert alike > 0.99
    changed = lists.only(np.ones(200, dtype=bool))
    changed.taken[0] = np.roll(changed.taken[0], 7)
    again = cross_fit(changed, ("a_score", "b_score"))
    np.testing.assert_array_equal(again.scores[fold == fold[0]], found.scores[fold == fold[0]])
    assert (again.scores[fold != fold[0]] != found.scores[fold != fold[0]]).any()


def test_it_takes_one_thread_and_leaves_the_others_their_number(monkeypatch):
    """On a busy machine the threads of many small products mostly wait for each other."""

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    during, before = list[int](), threads()
    real = fusion.fit_scaled
    monkeypatch.setattr(fusion, "fit_scaled", lambda *given: during.extend(threads()) or real(*given))
    cross_fit(make_lists(np.array([2.0, 0.0]), n_lists=40), ("a_score", "b_score"))
    assert set(during) == {1}
    assert threads() == before


def test_what_comes_late_counts_for_more_beside_scores_of_other_lists():
    """A base of many features knows its few lists by heart, so that nothing seems to be missing in their scores."""
    apart, honest, vain = make_lists(TRUE, n_lists=2_000, seed=99), [], []
    weight: dict[str, list[float]] = {"honest": [], "vain": []}
    for seed in range(4):
        lists = make_lists(TRUE, n_lists=150, seed=seed)
        base = cross_fit(base_lists(lists), NAMES[:-1])
        seen = base.fusion.score(lists.features[:, :, :-1], lists.context)
        one, other = (fit_fusion(lists, NAMES, base=replace(base, scores=s)) for s in (base.scores, seen))
        # How much the base counts is fitted too: what comes late counts for so much beside all of it.
        weight["honest"].append(one.weights.reshape(2, -1)[0, -1] * base.fusion.weights[0] / one.weights[0])
        weight["vain"].append(other.weights.reshape(2, -1)[0, -1] * base.fusion.weights[0] / other.weights[0])
        honest.append(ndcg(one, apart))
        vain.append(ndcg(other, apart))
    assert np.mean(weight["honest"]) > np.mean(weight["vain"])
    assert np.mean(honest) >= np.mean(vain)


def test_where_all_sources_count_alike_that_scores_the_lists():
    few = make_lists(np.array([1.0, 1.0, 0.0]), n_lists=4, depth=15)
    found = cross_fit(few, ("good_score", "weak_score", "noise_score"))
    assert not found.fusion.weights[3:].any()
    np.testing.assert_allclose(found.scores, found.fusion.score(few.features, few.context))
    scale = found.scores.std() / alike(few).std()
    np.testing.assert_allclose(found.scores, scale * alike(few), atol=1e-5)


def test_beside_a_base_counts_only_what_held_out_folds_tell_from_chance():
    telling = make_lists(np.array([1.0, 0.0, 2.0]), n_lists=400, seed=3)
    idle = make_lists(np.array([1.0, 0.0, 0.0]), n_lists=400, seed=3)
    names = ("a_score", "b_score", "late_score")
    for lists, counts in ((telling, True), (idle, False)):
        base = cross_fit(base_lists(lists), names[:-1])
        found = cross_fit(lists, names, base=base)
        late = found.fusion.weights.reshape(2, -1)[:, -1]
        assert bool(late.any()) is counts
        kept = found.fusion.weights.reshape(2, -1)[:, :-1].ravel()
        np.testing.assert_allclose(kept / kept[0], base.fusion.weights / base.fusion.weights[0])
        if not counts:
            np.testing.assert_array_equal(kept, base.fusion.weights)
            np.testing.assert_array_equal(found.scores, base.scores)
            assert found.fusion.figures["fused"] == pytest.approx(base.fusion.figures["fused"])
