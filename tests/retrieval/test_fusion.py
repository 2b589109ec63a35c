"""The fusion recovers weights that are known, is calibrated, and has none that held-out folds take for chance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retrieval import fusion as fusion_module
from retrieval.fusion import CrossFitted, Fusion, FusionLists, cross_fit
from retrieval.storage import _fusion, _fusion_dict

NAMES = ("good_score", "weak_score", "noise_score")


def make_lists(weights: np.ndarray, n_lists: int = 600, depth: int = 20, seed: int = 0) -> FusionLists:
    """Lists whose target is drawn from softmax(features @ weights): the model the fusion assumes."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_lists, depth, len(weights))).astype(np.float32)
    scores = features @ weights
    probability = np.exp(scores - scores.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    rows = np.tile(np.arange(depth), (n_lists, 1))
    place = np.array([rng.choice(depth, p=line) for line in probability])
    return FusionLists.of(features, rows, place[:, None], rng.normal(size=(n_lists, 1)).astype(np.float32))


def fit_fusion(lists: FusionLists, names: Sequence[str], *, base: CrossFitted | None = None) -> Fusion:
    return cross_fit(lists, names, base=base).fusion


@pytest.fixture(scope="module")
def lists() -> FusionLists:
    return make_lists(np.array([2.0, 0.7, 0.0]), n_lists=2_000)


@pytest.fixture(scope="module")
def fusion(lists: FusionLists) -> Fusion:
    return fit_fusion(lists, NAMES)


def alike(lists: FusionLists) -> np.ndarray:
    """All features (of lists without padding), each in its spread: float32 (n_lists, depth)."""
    apart = lists.features - lists.features.mean(axis=1, keepdims=True)
    return (lists.features / np.sqrt((apart.astype(np.float64) ** 2).mean(axis=(0, 1)))).sum(axis=2).astype(np.float32)


def ndcg(fusion: Fusion, lists: FusionLists) -> float:
    return float(lists.ndcg(fusion.score(lists.features, lists.context)).mean())


def test_weights_recover_the_model_that_made_the_lists(fusion):
    # Up to one factor, since the penalty pulls all of them towards 0.
    np.testing.assert_allclose(fusion.weights[:3] / fusion.weights[0], [1, 0.7 / 2.0, 0], atol=0.08)
    np.testing.assert_allclose(fusion.weights[3:] / fusion.weights[0], 0, atol=0.08)
    assert 1 < fusion.weights[0] < 2.3


def test_weights_may_depend_on_how_much_is_known_of_a_user():
    one, other = make_lists(np.array([2.0, 0.0])), make_lists(np.array([0.0, 2.0]), seed=1)
    context = np.concatenate([np.full(600, -1.0), np.full(600, 1.0)]).astype(np.float32)
    joined = FusionLists(
        np.concatenate([one.features, other.features]),
        np.concatenate([one.rows, other.rows]),
        np.concatenate([one.taken, other.taken]),
        np.concatenate([one.n_taken, other.n_taken]),
        context[:, None],
    )
    fusion = fit_fusion(joined, ("a_score", "b_score"))
    # One of context -1 is weighed by w - v, one of +1 by w + v.
    np.testing.assert_allclose(fusion.weights[:2] - fusion.weights[2:], [2, 0], atol=0.3)
    np.testing.assert_allclose(fusion.weights[:2] + fusion.weights[2:], [0, 2], atol=0.3)


def test_all_that_was_taken_is_learned_from():
    """Lists of which five items each were taken say more of the weights than lists of which one was."""
    truth, errors = np.array([1.0, 0.5, 0.0]), {1: [], 5: []}
    for seed in range(5):
        lists = make_lists(truth, n_lists=60, depth=40, seed=seed)
        noise = np.random.default_rng(seed).gumbel(size=lists.rows.shape)
        order = np.argsort(-(lists.features @ truth + noise), axis=1)
        for n, found in errors.items():
            several = FusionLists.of(lists.features, lists.rows, order[:, :n], lists.context)
            weights = fit_fusion(several, NAMES).weights[:3]
            found.append(np.abs(weights / weights[0] - truth).sum())
    assert np.mean(errors[5]) < 0.7 * np.mean(errors[1])


def test_the_fusion_beats_its_best_part_where_two_parts_know_something(fusion, lists):
    assert ndcg(fusion, lists) > max(fusion.figures["alone"].values()) + 0.01


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n_lists=st.integers(4, 40), weight=st.floats(0, 3))
@example(seed=151, n_lists=4, weight=2.5)
def test_on_held_out_folds_the_fusion_is_never_worse_than_all_sources_alike(seed, n_lists, weight):
    lists = make_lists(np.array([weight, 0.0, 0.0]), n_lists=n_lists, depth=15, seed=seed)
    fusion = fit_fusion(lists, NAMES)
    assert fusion.figures["fused"]["held_out"] >= lists.ndcg(alike(lists)).mean() - 1e-6


def test_that_all_sources_count_alike_is_said_in_one_line(caplog):
    few = make_lists(np.array([1.0, 1.0, 0.0]), n_lists=4, depth=15)
    fusion = fit_fusion(few, ("good_score", "good_rank", "new_item"))
    assert ((fusion.weights > 0) == [True, True, False, False, False, False]).all()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "4 validation lists tell no weights from chance" in caplog.text
    assert "all sources count alike; with more users" in caplog.text


@pytest.mark.parametrize(("better", "worse", "counts"), [(0, 0, False), (40, 38, False), (80, 0, True), (0, 80, False)])
def test_weights_count_only_where_they_are_ahead_by_more_than_chance(monkeypatch, caplog, lists, better, worse, counts):
    def best(folds):
        """The scores of all sources alike, but as many of the worst lists are put right and of the best ones spoilt."""
        scores = alike(lists)
        good = lists.ndcg(scores)
        scores[np.flatnonzero(good == 1)[:worse]] = 0
        wrong = np.flatnonzero(good == 0)[:better]
        scores[wrong, lists.taken[wrong].argmax(axis=1)] = 100
        return 1.0, scores

    monkeypatch.setattr(fusion_module.Folds, "best", best)
    fitted = fit_fusion(lists, NAMES)
    same = np.corrcoef(fitted.score(lists.features, lists.context).ravel(), alike(lists).ravel())[0, 1] > 0.9999
    assert (not same) == (not caplog.records) == counts


def test_a_fusion_of_several_features_needs_no_warning(caplog):
    fit_fusion(make_lists(np.array([2.0, 0.7, 0.0])), NAMES)
    assert not caplog.records


def test_figures_tell_each_part_alone_and_what_is_lost_without_it(fusion, lists):
    figures = fusion.figures
    assert list(figures["alone"]) == list(NAMES)
    assert list(figures["without"]) == ["good", "weak", "noise"]
    assert figures["fused"]["fitted"] == pytest.approx(ndcg(fusion, lists), abs=1e-6)
    assert figures["without"]["good"] < figures["without"]["weak"] < figures["fused"]["fitted"]


def test_probabilities_rise_with_the_score(fusion):
    scores = np.linspace(-12, 12, 101, dtype=np.float32)
    probability = fusion.probability(scores)
    assert probability.dtype == np.float32
    assert (np.diff(probability) >= 0).all()
    assert (np.diff(probability[30:70]) > 0).all()
    assert ((probability > 0) & (probability < 1)).all()


def test_probabilities_are_calibrated(fusion, lists):
    probability = fusion.probability(fusion.score(lists.features, lists.context))
    taken = lists.taken
    assert probability.mean() == pytest.approx(taken.mean(), rel=0.02)
    for low, high in ((0.0, 0.02), (0.02, 0.1), (0.1, 0.3)):
        inside = (probability > low) & (probability <= high)
        assert probability[inside].mean() == pytest.approx(taken[inside].mean(), rel=0.4, abs=0.01)


def test_lists_without_their_target_lower_the_probability(lists):
    half = lists.taken.copy()
    half[::2] = False
    fusion = fit_fusion(replace(lists, taken=half), NAMES)
    probability = fusion.probability(fusion.score(lists.features, lists.context))
    assert probability.mean() == pytest.approx(0.5 / 20, rel=0.05)


def test_a_target_that_is_always_right_is_likely_and_the_others_are_not():
    features = np.zeros((200, 10, 1), dtype=np.float32)
    features[:, 3] = 3
    rows, three = np.tile(np.arange(10), (200, 1)), np.full((200, 1), 3)
    lists = FusionLists.of(features, rows, three, np.zeros((200, 1), np.float32))
    fusion = fit_fusion(lists, ("sure_score",))
    probability = fusion.probability(fusion.score(features, lists.context))
    assert probability[:, 3].min() > 0.9
    assert np.delete(probability, 3, axis=1).max() < 0.05


@pytest.mark.parametrize("gap", [4.0, 8.0])
def test_validation_without_a_mistake_does_not_make_probabilities_extreme(gap):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 20, 2)).astype(np.float32)
    features[:, 0, 0] = features[:, :, 0].max(axis=1) + gap
    rows, first = np.tile(np.arange(20), (80, 1)), np.zeros((80, 1), np.int64)
    lists = FusionLists.of(features, rows, first, np.zeros((80, 1), np.float32))
    fusion = fit_fusion(lists, ("sure_score", "noise_told"))
    probability = fusion.probability(fusion.score(features, lists.context))
    assert probability[:, 0].mean() > 0.8
    assert probability.min() > 1e-9
    assert probability.max() < 1 - 1e-6


def test_probabilities_tell_apart_what_the_score_tells_apart():
    # A step of 12 in a feature that is always right, then small differences: the list still has an order.
    features = np.tile(np.array([6.0, 1.0, 0.5, 0.0, -2.0], dtype=np.float32)[None, :, None], (200, 1, 1))
    rows, first = np.tile(np.arange(5), (200, 1)), np.zeros((200, 1), np.int64)
    lists = FusionLists.of(features, rows, first, np.zeros((200, 1), np.float32))
    fusion = fit_fusion(lists, ("sure_score",))
    probability = fusion.probability(fusion.score(features[:1], lists.context[:1]))[0]
    assert (np.diff(probability) < 0).all()


def test_a_fusion_that_prefers_the_wrong_way_round_is_turned_round():
    lists = make_lists(np.array([-2.0, 0.0]))
    fusion = fit_fusion(lists, ("a_score", "b_score"))
    assert fusion.weights[0] < -1
    assert fusion.calibration[0] > 0


def test_padding_does_not_change_the_fit(lists, fusion):
    padded = FusionLists(
        np.pad(lists.features, ((0, 0), (0, 7), (0, 0))),
        np.pad(lists.rows, ((0, 0), (0, 7)), constant_values=-1),
        np.pad(lists.taken, ((0, 0), (0, 7))),
        lists.n_taken,
        lists.context,
    )
    again = fit_fusion(padded, NAMES)
    np.testing.assert_allclose(again.weights, fusion.weights, atol=1e-4)
    np.testing.assert_allclose(again.calibration, fusion.calibration, atol=1e-3)


def test_the_same_seed_fits_the_same_fusion(lists, fusion):
    again = fit_fusion(lists, NAMES)
    np.testing.assert_array_equal(again.weights, fusion.weights)
    assert again.calibration == fusion.calibration


def test_a_score_does_not_depend_on_the_other_lists(lists, fusion):
    together = fusion.score(lists.features[:9], lists.context[:9])
    alone = np.concatenate([fusion.score(lists.features[i : i + 1], lists.context[i : i + 1]) for i in range(9)])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_fusion_survives_json(fusion, lists):
    again = _fusion(json.loads(json.dumps(_fusion_dict(fusion))))
    np.testing.assert_array_equal(
        again.score(lists.features, lists.context), fusion.score(lists.features, lists.context)
    )
    assert (again.names, again.calibration, again.figures) == (fusion.names, fusion.calibration, fusion.figures)


def test_too_few_lists_with_their_target_are_refused():
    lists = make_lists(np.array([1.0]), n_lists=5)
    lists.taken[1:] = False
    with pytest.raises(ValueError, match=r"expected 2 or more validation users with .* got 1 of 5"):
        fit_fusion(lists, ("a_score",))


def test_beside_a_fusion_only_what_is_new_is_fitted():
    """800 lists have weighed two features; twelve others, which cannot weigh three, say what the third adds to them."""
    true = np.array([2.0, 0.7, 1.0])
    apart = make_lists(true, n_lists=800, seed=7)
    ahead, alone, without = [], [], []
    for seed in range(5):
        many, few = make_lists(true, n_lists=800, seed=20 + seed), make_lists(true, n_lists=12, seed=40 + seed)
        base = fit_fusion(replace(many, features=many.features[:, :, :2]), NAMES[:2])
        scores = base.score(few.features[:, :, :2], few.context)
        found = fit_fusion(few, NAMES, base=CrossFitted(base, scores))
        np.testing.assert_array_equal(found.context_mean, base.context_mean)
        np.testing.assert_array_equal(found.context_deviation, base.context_deviation)
        kept = found.weights.reshape(2, -1)[:, :2] / base.weights.reshape(2, -1)
        np.testing.assert_allclose(kept, kept[0, 0])
        ahead.append(ndcg(found, apart))
        alone.append(ndcg(fit_fusion(few, NAMES), apart))
        without.append(ndcg(base, replace(apart, features=apart.features[:, :, :2])))
    assert np.mean(ahead) > max(np.mean(alone), np.mean(without))


def test_a_base_counts_less_beside_what_orders_as_well():
    """Two noisy sights of one truth: the likeliest sum holds both alike, which at its full weight the base forbids."""
    truth = make_lists(np.array([3.0]), n_lists=600, seed=3)
    noise = np.random.default_rng(5).normal(size=(*truth.rows.shape, 2)).astype(np.float32)
    seen = replace(truth, features=truth.features + noise)
    names = ("a_score", "b_score")
    base = cross_fit(replace(seen, features=seen.features[:, :, :1]), names[:1])
    found = cross_fit(seen, names, base=base)
    first, second = found.fusion.weights.reshape(2, -1)[0]
    assert 0 < first < 0.8 * base.fusion.weights[0]
    assert second == pytest.approx(first, rel=0.25)
    assert ndcg(found.fusion, seen) > ndcg(base.fusion, replace(seen, features=seen.features[:, :, :1])) + 0.02
