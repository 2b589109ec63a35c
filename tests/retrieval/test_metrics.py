"""The metrics against hand arithmetic and ir-measures; the intervals against scipy and plain resampling."""

from __future__ import annotations

import doctest

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R, Success, nDCG
from scipy.stats import permutation_test

import retrieval.metrics as metrics
from retrieval.metrics import (
    METRIC_NAMES,
    coverage,
    holm,
    novelty,
    paired_bootstrap,
    per_user_metrics,
    sign_flip_p_value,
)

MEASURES = {
    "ndcg@10": nDCG @ 10,
    "recall@10": R @ 10,
    "recall@50": R @ 50,
    "recall@100": R @ 100,
    "mrr@10": RR @ 10,
    "hit@10": Success @ 10,
}


def random_world(seed: int, *, n_users: int = 25, n_items: int = 300, depth: int = 120):
    """Ranked lists of different lengths and one to thirty targets a user, more than k for some."""
    rng = np.random.default_rng(seed)
    ranked = np.full((n_users, depth), -1, dtype=np.int64)
    targets = []
    for user in range(n_users):
        length = int(rng.integers(0, depth + 1))
        ranked[user, :length] = rng.permutation(n_items)[:length]
        targets.append(rng.permutation(n_items)[: int(rng.integers(1, 31))])
    return ranked, targets


def by_ir_measures(ranked, targets) -> dict[str, np.ndarray]:
    qrels = {str(u): {str(i): 1 for i in rows} for u, rows in enumerate(targets)}
    run = {str(u): {str(i): float(-place) for place, i in enumerate(row) if i >= 0} for u, row in enumerate(ranked)}
    found = {name: np.zeros(len(ranked)) for name in MEASURES}
    names = {measure: name for name, measure in MEASURES.items()}
    for value in ir_measures.iter_calc(list(MEASURES.values()), qrels, run):
        found[names[value.measure]][int(value.query_id)] = value.value
    return found


@pytest.mark.parametrize("seed", range(6))
def test_metrics_equal_ir_measures_in_random_worlds(seed):
    ranked, targets = random_world(seed)
    ours, theirs = per_user_metrics(ranked, targets), by_ir_measures(ranked, targets)
    assert set(ours) == set(METRIC_NAMES) == set(MEASURES)
    for name in METRIC_NAMES:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-12, err_msg=name)


def test_one_target_in_third_place_by_hand():
    found = per_user_metrics(np.array([[5, 6, 7, -1]]), [np.array([7])])
    assert found["ndcg@10"][0] == pytest.approx((1 / np.log2(3 + 1)) / 1)
    assert found["mrr@10"][0] == pytest.approx(1 / 3)
    assert found["hit@10"][0] == found["recall@10"][0] == found["recall@100"][0] == 1


def test_ideal_list_is_truncated_at_ten():
    ranked = np.arange(10)[None, :]
    found = per_user_metrics(ranked, [np.arange(20)])
    assert found["ndcg@10"][0] == pytest.approx(1.0)
    assert found["recall@10"][0] == pytest.approx(10 / 20)


def test_a_hit_at_place_eleven_counts_for_recall_at_fifty_only():
    found = per_user_metrics(np.arange(60)[None, :], [np.array([10])])
    assert [found[name][0] for name in METRIC_NAMES] == [0, 0, 1, 1, 0, 0]


def test_padding_is_never_a_hit_and_empty_lists_score_zero():
    found = per_user_metrics(np.full((2, 5), -1), [np.array([0]), np.array([3])])
    assert all(not values.any() for values in found.values())
    assert not per_user_metrics(np.empty((1, 0), dtype=np.int64), [np.array([1])])["mrr@10"].any()


def test_repeated_targets_count_once():
    once = per_user_metrics(np.array([[1, 2]]), [np.array([2, 3])])
    twice = per_user_metrics(np.array([[1, 2]]), [np.array([3, 2, 2])])
    assert all(once[name] == twice[name] for name in METRIC_NAMES)


def test_blocks_of_users_do_not_change_the_figures(monkeypatch):
    ranked, targets = random_world(3)
    whole = per_user_metrics(ranked, targets)
    monkeypatch.setattr(metrics, "BLOCK_CELLS", 400)
    for name, values in per_user_metrics(ranked, targets).items():
        np.testing.assert_array_equal(values, whole[name])


def test_the_worked_example_of_the_docstring_runs():
    assert doctest.testmod(metrics).attempted > 0
    assert doctest.testmod(metrics).failed == 0


@pytest.mark.parametrize(
    ("ranked", "targets", "message"),
    [
        (np.array([[1, 1]]), [np.array([1])], "twice in list 0"),
        (np.array([[1, 2]]), [np.array([], dtype=np.int64)], "at least one target row"),
        (np.array([[1, 2]]), [np.array([-1])], "at least one target row"),
        (np.array([[1, 2]]), [], "one target array per ranked list, got 0 for 1"),
        (np.array([1, 2]), [np.array([1])], "got int64 of shape"),
        (np.array([[1.0, 2.0]]), [np.array([1])], "got float64"),
    ],
)
def test_bad_lists_and_targets_are_refused(ranked, targets, message):
    with pytest.raises(ValueError, match=message):
        per_user_metrics(ranked, targets)


def test_coverage_counts_different_items_in_the_top_k():
    ranked = np.array([[0, 1, 2], [1, 0, -1]])
    assert coverage(ranked, n_items=8, k=2) == 2 / 8
    assert coverage(ranked, n_items=8) == 3 / 8
    with pytest.raises(ValueError, match="below n_items = 2, got row 2"):
        coverage(ranked, n_items=2)


def test_novelty_is_mean_self_information_in_bits():
    counts = np.array([8, 4, 1, 0])
    bits = (0 + 1 + 3 + 3) / 4  # -log2 of 8/8, 4/8, 1/8 and, for the item nobody took, 1/8
    assert novelty(np.array([[0, 1], [2, 3]]), counts, 8) == pytest.approx(bits)
    assert novelty(np.full((1, 3), -1), counts, 8) == 0.0
    with pytest.raises(ValueError, match="different users"):
        novelty(np.array([[0]]), counts, 7)


def test_interval_agrees_with_resampling_users_one_by_one():
    rng = np.random.default_rng(1)
    a, b = rng.choice([0.0, 0.5, 1.0], 400), rng.choice([0.0, 0.5, 1.0], 400, p=[0.5, 0.3, 0.2])
    ours = paired_bootstrap(a, b, n_resamples=8000)
    means = (a - b)[rng.integers(0, 400, size=(8000, 400))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    assert ours.diff == pytest.approx((a - b).mean())
    assert (ours.low, ours.high) == (pytest.approx(low, abs=0.006), pytest.approx(high, abs=0.006))
    assert ours.excludes_zero


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        interval = paired_bootstrap(rng.normal(0.3, 1, 80), np.zeros(80), n_resamples=400)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_intervals_depend_on_the_seed_only(monkeypatch):
    rng = np.random.default_rng(3)
    a, b = rng.random(50), rng.random(50)
    assert paired_bootstrap(a, b, seed=4) == paired_bootstrap(a, b, seed=4)
    assert paired_bootstrap(a, b, seed=4) != paired_bootstrap(a, b, seed=5)
    whole = paired_bootstrap(a, b)
    monkeypatch.setattr("retrieval.significance.BLOCK_CELLS", 500)
    assert paired_bootstrap(a, b) == whole


def test_equal_systems_have_an_interval_of_zero():
    interval = paired_bootstrap(np.ones(5), np.ones(5))
    assert (interval.diff, interval.low, interval.high) == (0.0, 0.0, 0.0)
    assert not interval.excludes_zero


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, 2.0], [1.0], "same users"),
        ([], [], "n_users > 0"),
        ([np.nan], [1.0], "finite"),
    ],
)
def test_uncomparable_figures_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(a, b)
    with pytest.raises(ValueError, match=message):
        sign_flip_p_value(a, b)


def test_sign_flip_p_value_agrees_with_scipy():
    rng = np.random.default_rng(5)
    a = rng.choice([0.0, 0.5, 1.0], 60)
    b = rng.choice([0.0, 0.5, 1.0], 60, p=[0.45, 0.3, 0.25])
    theirs = permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=4000, rng=6)
    assert sign_flip_p_value(a, b) == pytest.approx(theirs.pvalue, abs=0.03)
    assert sign_flip_p_value(a, a) == 1.0


def test_holm_by_hand():
    adjusted = holm({"x": 0.04, "y": 0.01, "z": 0.03})
    assert adjusted == {"x": pytest.approx(0.06), "y": pytest.approx(3 * 0.01), "z": pytest.approx(2 * 0.03)}
    assert list(adjusted) == ["x", "y", "z"]
    assert holm({"only": 0.7, "other": 0.9}) == {"only": 1.0, "other": 1.0}
    with pytest.raises(ValueError, match=r"got 1\.5 for 'x'"):
        holm({"x": 1.5})
