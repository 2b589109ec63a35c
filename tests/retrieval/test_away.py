"""How long a user has been away: what it is, that the fusions weigh by it, and that it reaches them in serving."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from retrieval import fit_fusions
from retrieval.data import IdMap, Interactions, time_split
from retrieval.fit import fit
from retrieval.fusion import CrossFitted, Fusion, FusionLists, cross_fit
from retrieval.held_out import hold_out_later
from retrieval.histories import last_visits, time_away
from retrieval.recommend import Recommender
from tests.retrieval.test_fusion import fit_fusion, make_lists, ndcg
from tests.retrieval.test_held_out import table
from tests.world import tiny_config

FITS: list[tuple[dict[str, Any], CrossFitted]] = []
"""What the fusions of `by_time` were fitted with, and what was found."""


@pytest.fixture(scope="module")
def by_time(items, interactions, encoder) -> Recommender:
    config = tiny_config(lists={"validation": "time", "max_lists": 48})

    def watched(lists, names, **options):
        found = cross_fit(lists, names, **options)
        FITS.append(({"lists": lists, **options}, found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_fusions, "cross_fit", watched)
        fitted = fit(items, interactions, config, encoder=encoder)
    return Recommender.of(fitted.model, interactions, config, fitted.settings)


def test_how_long_a_user_has_been_away_has_no_unit():
    some = table((0, 1, 20.0), (0, 2, 40.0), (1, 5, 60.0), (2, 6, 100.0))
    away = time_away(some)
    np.testing.assert_allclose(away, np.log1p(10_000 * np.array([60, 40, 0]) / 80), rtol=1e-6)
    np.testing.assert_allclose(time_away(replace(some, times=some.times * 86_400 + 1e9)), away, rtol=1e-4)
    assert (time_away(some, at=120.0) > away).all()
    nobody = Interactions.of(IdMap.of(["u0", "u1"]), some.items, np.array([1]), np.array([0]), np.array([5.0]))
    assert np.isnan(time_away(nobody)[0])
    assert time_away(nobody)[1] == 0


def test_one_stray_time_brings_nobody_nearer():
    taken = [(user % 30, user % 7, 1e9 + 3600.0 * user) for user in range(1_000)]
    usual, stray = time_away(table(*taken)), time_away(table(*taken, (30, 1, 0.0)))
    np.testing.assert_allclose(stray[:30], usual, rtol=1e-3)
    assert stray[30] == pytest.approx(np.log1p(10_000))


def test_what_is_held_out_knows_how_long_each_user_has_been_away(interactions):
    moment = time_split(interactions).moment
    held = hold_out_later(interactions, max_users=10_000, keep_seen=False, seed=0)
    assert held.earlier is not None
    visits = last_visits(held.earlier, at=moment)
    away = visits[:, 0]
    np.testing.assert_array_equal(held.validation.visits, visits[held.validation.users])
    some = held.validation.take(np.array([3, 1]))
    np.testing.assert_array_equal(some.visits, visits[held.validation.users[[3, 1]]])
    assert len(np.unique(away[np.isfinite(away)])) > 3


def test_a_known_user_is_asked_with_the_time_away_and_a_given_history_without(by_time, interactions):
    user = str(by_time.users.ids[0])
    np.testing.assert_array_equal(by_time.visits, last_visits(interactions))
    assert len(by_time.model.final_fusion.context_mean) == 2
    asked = []
    watched = replace(by_time, model=replace(by_time.model, recall_fusion=Watched(by_time.model.recall_fusion, asked)))
    watched.recommend(user)
    watched.recommend_many([user, user], histories=[None, ["film-01"]])
    watched.rerank(["film-01"], ["film-02"])
    own = float(time_away(interactions)[0])
    np.testing.assert_allclose(np.concatenate(asked)[:, 1], [own, own, np.nan, np.nan], rtol=1e-6)


class Watched:
    """A fusion that notes the contexts it is asked with."""

    def __init__(self, fusion: Fusion, asked: list[np.ndarray]) -> None:
        self._fusion, self._asked, self.names = fusion, asked, fusion.names

    def score(self, features: np.ndarray, context: np.ndarray) -> np.ndarray:
        self._asked.append(context)
        return self._fusion.score(features, context)


def test_a_second_context_counts_and_where_it_is_not_known_the_mean_stands_in():
    """Who has been away long takes by b, who has not by a; the first context says nothing."""
    one, other = make_lists(np.array([2.0, 0.0])), make_lists(np.array([0.0, 2.0]), seed=1)
    away = np.repeat([3.0, 5.0], 600)
    both = FusionLists(
        np.concatenate([one.features, other.features]),
        np.concatenate([one.rows, other.rows]),
        np.concatenate([one.taken, other.taken]),
        np.concatenate([one.n_taken, other.n_taken]),
        np.stack([np.concatenate([one.context[:, 0], other.context[:, 0]]), away], axis=1),
    )
    fusion = fit_fusion(both, ("a_score", "b_score"))
    np.testing.assert_allclose(fusion.context_mean[1], 4.0)
    plain, by_length, by_away = fusion.weights.reshape(3, 2)
    # Up to one factor, as the penalty pulls all of them towards 0.
    scale = plain.sum()
    np.testing.assert_allclose(by_length / scale, 0, atol=0.1)
    np.testing.assert_allclose((plain - by_away) / scale, [1, 0], atol=0.1)
    np.testing.assert_allclose((plain + by_away) / scale, [0, 1], atol=0.1)
    unknown, typical = both.context.copy(), both.context.copy()
    unknown[:, 1], typical[:, 1] = np.nan, 4.0
    np.testing.assert_allclose(fusion.score(both.features, unknown), fusion.score(both.features, typical), atol=1e-5)
    # Without a second context the fit is the one it always was.
    length = fit_fusion(replace(both, context=both.context[:, :1]), ("a_score", "b_score"))
    never = fit_fusion(replace(both, context=unknown), ("a_score", "b_score"))
    np.testing.assert_array_equal(never.weights, length.weights)
    assert ndcg(fusion, both) > ndcg(never, both) + 0.1


def test_by_time_gpt_2_is_weighed_beside_scores_by_other_folds(by_time):
    (recall, _), (plain, without), (final, _) = FITS
    assert plain.get("base") is None
    lists, n = plain["lists"], len(final["lists"].rows)
    np.testing.assert_array_equal(final["base"].fusion.weights, without.fusion.weights)
    # Earlier moments are what GPT-2 learned from, and a part of the users stopped it: all of them weigh the rest.
    assert n < len(lists) == len(recall["lists"])
    np.testing.assert_array_equal(final["lists"].rows, lists.rows[:n])
    real = lists.rows[:n] >= 0
    np.testing.assert_allclose(final["base"].scores[real], without.scores[:n][real], atol=1e-5)


def test_without_gpt_2_no_user_is_kept_for_stopping_it(items, interactions, encoder, monkeypatch):
    lists = []

    def watched(some, names, **options):
        lists.append(some)
        return cross_fit(some, names, **options)

    monkeypatch.setattr(fit_fusions, "cross_fit", watched)
    fit(items, interactions, tiny_config(use_reranker=False, head_training={"max_passes": 1}), encoder=encoder)
    recall, plain = lists
    assert sorted(plain.users) == sorted(recall.users)
