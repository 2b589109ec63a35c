"""The choice of family and parameters: what is promised, what it costs, what is reported."""

import json
from pathlib import Path

import numpy as np
import pytest

from indexes import (
    FAMILIES,
    build_exact,
    build_index,
    build_with_report,
    choose_family,
    estimate_bytes,
    exact_hits,
    recall,
    save_index,
)
from indexes.hits import Hits
from indexes.tuning import expected_recall
from tests.indexes.contract import make_queries, make_vectors


def test_small_catalogues_are_searched_exactly_and_large_ones_by_codes() -> None:
    assert choose_family(50_000, 384) == "exact"
    assert choose_family(50_001, 384) == "ivf_pq"
    assert choose_family(50_000, 384, memory_budget_bytes=40_000_000) == "ivf_pq"
    assert choose_family(50_000, 384, memory_budget_bytes=18_000_000) == "ivf_rabitq"
    # A higher recall needs longer codes.
    assert choose_family(50_000, 384, memory_budget_bytes=21_000_000) == "ivf_pq"
    assert choose_family(50_000, 384, memory_budget_bytes=23_000_000, recall_target=0.97) == "ivf_rabitq"
    assert build_index(make_vectors(300, 8)).family == "exact"


def test_a_budget_that_nothing_fits_is_refused() -> None:
    with pytest.raises(ValueError, match=r"memory_budget_bytes: expected at least \d+ for 1000 items .* got 1000"):
        build_index(make_vectors(1_000, 16), memory_budget_bytes=1_000)


@pytest.mark.parametrize("dim", [16, 384])
def test_the_least_budget_that_is_named_is_enough(dim: int) -> None:
    with pytest.raises(ValueError, match="memory_budget_bytes") as refused:
        choose_family(60_000, dim, memory_budget_bytes=1)
    least = int(str(refused.value).split("at least ")[1].split()[0])
    assert choose_family(60_000, dim, memory_budget_bytes=least) in ("ivf_pq", "ivf_rabitq")
    with pytest.raises(ValueError, match="memory_budget_bytes"):
        choose_family(60_000, dim, memory_budget_bytes=least - 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_of_memory_is_right_within_a_tenth(family: str, tmp_path: Path) -> None:
    vectors = make_vectors(4_000, 128)
    save_index(build_index(vectors, family=family), tmp_path / "index")
    size = (tmp_path / "index" / "index.faiss").stat().st_size
    assert estimate_bytes(family, *vectors.shape) == pytest.approx(size, rel=0.1)


@pytest.mark.parametrize("family", ["ivf_pq", "ivf_rabitq", "hnsw_sq8"])
@pytest.mark.parametrize("target", [0.8, 0.97])
def test_the_recall_target_is_reached_for_queries_not_tuned_on(family: str, target: float) -> None:
    vectors = make_vectors(5_000, 32)
    index, report = build_with_report(
        vectors, family=family, recall_target=target, queries=make_queries(vectors, 400, seed=2)
    )
    queries = make_queries(vectors, 400, seed=3)
    assert report.reached
    assert recall(index.search(queries, 100), build_exact(vectors).search(queries, 100)) >= target - 0.005


def test_a_lower_target_compares_fewer_rows() -> None:
    vectors = make_vectors(5_000, 32)
    probes = [
        int(build_index(vectors, family="ivf_sq8", recall_target=target).params["n_probe"])
        for target in (0.7, 0.9, 0.99)
    ]
    assert probes[0] < probes[1] < probes[2]


def test_a_target_out_of_reach_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    vectors = make_vectors(500, 32)
    build_index(vectors, family="ivf_sq8", recall_target=0.5)
    assert caplog.messages == []
    build_index(vectors, family="ivf_sq8", recall_target=1.0)
    (message,) = caplog.messages
    assert message.startswith("ivf_sq8 index: expected a recall of 1, the most thorough setting has 0.9")


def test_a_target_out_of_reach_is_reported() -> None:
    _, report = build_with_report(make_vectors(3_000, 32), family="ivf_sq8", recall_target=1.0)
    assert not report.reached
    assert report.recall < 1.0


def test_the_report_holds_the_curve_as_json_and_as_a_plot(tmp_path: Path) -> None:
    index, report = build_with_report(make_vectors(2_000, 16), family="ivf_pq")
    content = json.loads(json.dumps(report.to_json()))
    assert content["chosen"] == dict(index.params)
    assert {trial["filter"] for trial in content["trials"]} == {
        "",
        "random 0.5",
        "random 0.1",
        "random 0.02",
        "side 0.35",
    }
    report.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_exact_hits_by_blocks_equal_exact_search(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = make_vectors(1_000, 16)
    queries = make_queries(vectors, 30)
    allowed = np.arange(1_000) % 3 == 0
    index = build_exact(vectors)
    monkeypatch.setattr("indexes.vectors.BLOCK_ROWS", 64)
    for mask in (None, allowed):
        found = exact_hits(vectors, queries, 20, allowed=mask)
        expected = index.search(queries, 20, allowed=mask)
        np.testing.assert_array_equal(found.rows, expected.rows)


def test_exact_hits_among_no_rows_or_for_no_queries_are_none() -> None:
    vectors = make_vectors(50, 8)
    assert exact_hits(vectors, vectors[:3], 4, allowed=np.zeros(50, dtype=bool)).rows.tolist() == [[-1] * 4] * 3
    assert exact_hits(vectors, vectors[:0], 4).rows.shape == (0, 4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.zeros((3, 9), np.float32), r"queries: expected shape \(n_queries, 8\), got \(3, 9\)"),
        (np.zeros(8, np.float32), r"queries: expected shape \(n_queries, 8\), got \(8,\)"),
        (np.full((3, 8), np.nan, np.float32), "queries: expected finite numbers, got NaN or infinity in row 0"),
    ],
)
def test_queries_that_nothing_can_be_tuned_on_are_refused(family: str, queries: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_index(make_vectors(100, 8), family=family, queries=queries)


def test_without_a_query_the_vectors_are_tuned_on() -> None:
    vectors = make_vectors(400, 8)
    (_, expected), (_, found) = (
        build_with_report(vectors, family="ivf", queries=queries) for queries in (None, vectors[:0])
    )
    assert found == expected
    assert found.n_queries == 400


@pytest.mark.parametrize("family", FAMILIES)
def test_any_seed_will_do(family: str) -> None:
    assert build_index(make_vectors(100, 8), family=family, seed=2**64).n_items == 100


def test_the_expected_recall_is_the_mean_less_its_standard_error() -> None:
    truth = Hits(np.zeros((2, 2), np.float32), np.array([[1, 2], [3, 4]]))
    found = Hits(np.zeros((2, 2), np.float32), np.array([[1, 2], [3, 9]]))
    assert recall(found, truth) == (1 + 0.5) / 2
    assert expected_recall(found, truth) == pytest.approx(0.75 - 0.25 / 2**0.5)  # deviation 0.25, two queries


def test_a_row_that_ties_with_the_last_true_one_counts_as_found() -> None:
    vectors = np.array([[3, 0], [1, 0], [1, 9], [0, 9]], dtype=np.float32)  # scores 3, 1, 1, 0
    queries = np.array([[1, 0], [1, 0], [1, 0]], dtype=np.float32)
    truth = exact_hits(vectors, queries, 2)
    found = Hits(np.zeros((3, 3), np.float32), np.array([[0, 1, -1], [0, 2, 1], [2, 3, -1]]))
    assert truth.rows.tolist() == [[0, 1]] * 3
    assert recall(found, truth, queries=queries, vectors=vectors) == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert recall(found, truth) == pytest.approx((1 + 1 + 0) / 3)


@pytest.mark.parametrize("family", ["ivf_sq8", "ivf_pq"])
def test_many_equal_vectors_cost_no_more_than_others(family: str) -> None:
    vectors = make_vectors(6_000, 32)
    same = vectors.copy()
    same[np.random.default_rng(0).permutation(6_000)[:1_200]] = vectors[0]
    (_, alone), (_, shared) = (build_with_report(given, family=family) for given in (vectors, same))
    assert alone.reached
    assert shared.reached
    assert float(shared.chosen["n_probe"]) <= 2 * float(alone.chosen["n_probe"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "annoy"}, "family: expected 'auto' or one of exact, .* got 'annoy'"),
        ({"recall_target": 0.0}, "recall_target: expected a share over 0 and at most 1, got 0.0"),
        ({"recall_target": 95}, "recall_target: expected a share over 0 and at most 1, got 95"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_index(make_vectors(100, 8), **options)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.empty((0, 4), np.float32), r"expected at least one item and one dimension, got shape \(0, 4\)"),
        (np.zeros(4, np.float32), r"expected an array of shape \(n_items, dim\), got \(4,\)"),
        (np.zeros((4, 4), np.int64), "expected float32, got int64"),
    ],
)
def test_vectors_that_make_no_sense_are_refused(vectors: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_index(vectors)
