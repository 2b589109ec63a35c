"""Parts, segments, differences and the oracle bound, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.significance import holm, sign_flip_p_value
from retrieval.stage_figures import compare, oracle_ndcg, part_figures, popularity_classes, segment_figures

# Four users, five items; each user has one target.
RANKED = {
    "final": np.array([[0, 1], [1, 0], [2, 0], [4, 3]]),
    "other": np.array([[1, 0], [0, 2], [2, 0], [0, 1]]),
}
TARGETS = [np.array([0]), np.array([1]), np.array([2]), np.array([3])]
COUNTS = np.array([6, 3, 2, 1, 0])
SECOND = 1 / np.log2(3)


def test_items_fall_into_thirds_of_what_was_taken():
    """12 were taken: item 0 holds half of them, so the third ends inside it; item 1 begins at a half."""
    classes = popularity_classes(COUNTS)
    assert {name: np.flatnonzero(rows).tolist() for name, rows in classes.items()} == {
        "head": [0],
        "mid": [1],
        "tail": [2, 3],
        "cold": [4],
    }


def test_every_item_is_in_one_class():
    counts = np.random.default_rng(0).integers(0, 5, size=200)
    assert (np.sum(list(popularity_classes(counts).values()), axis=0) == 1).all()


def test_nothing_taken_leaves_only_cold_items():
    assert popularity_classes(np.zeros(3, dtype=np.int64))["cold"].all()


def test_segments_hold_the_means_of_their_users():
    tables = segment_figures(RANKED, TARGETS, np.array([1, 2, 7, 30]), COUNTS, ["gold", "", "gold", "new"])
    assert {name: found["n_users"] for name, found in tables["history"].items()} == {"1-2": 2, "6-10": 1, "21+": 1}
    assert tables["history"]["1-2"]["stages"]["final"]["ndcg@10"] == 1
    assert tables["history"]["1-2"]["stages"]["other"]["ndcg@10"] == pytest.approx((SECOND + 0) / 2)
    assert tables["history"]["21+"]["stages"]["final"]["ndcg@10"] == pytest.approx(SECOND)
    assert {name: found["n_users"] for name, found in tables["popularity"].items()} == {"head": 1, "mid": 1, "tail": 2}
    assert tables["popularity"]["tail"]["stages"]["other"]["ndcg@10"] == pytest.approx((1 + 0) / 2)
    assert {name: found["n_users"] for name, found in tables["segment"].items()} == {"gold": 2, "new": 1}


def test_there_is_no_segment_table_without_labels():
    assert set(segment_figures(RANKED, TARGETS, np.array([1, 1, 1, 1]), COUNTS)) == {"history", "popularity"}


def test_a_part_asks_users_for_their_targets_in_it_only():
    targets = [np.array([0, 3]), np.array([1]), np.array([2]), np.array([1, 3])]
    part = part_figures(RANKED, targets, np.array([False, False, False, True, False]))
    assert part is not None
    assert part["n_users"] == 2  # the first and the last user
    assert part["stages"]["final"]["recall@10"] == (0 + 1) / 2
    assert part_figures(RANKED, targets, np.array([False] * 5)) is None


def test_p_values_are_corrected_for_the_number_of_stages():
    rng = np.random.default_rng(1)
    ndcg = {"final": rng.random(60) + 0.1, "one": rng.random(60), "two": rng.random(60)}
    found = compare(ndcg, seed=5)
    plain = {name: sign_flip_p_value(ndcg["final"], ndcg[name], seed=5) for name in ("one", "two")}
    assert {name: pair["p"] for name, pair in found.items()} == plain
    assert {name: pair["p_holm"] for name, pair in found.items()} == holm(plain)
    assert found["one"]["diff"] == pytest.approx(float((ndcg["final"] - ndcg["one"]).mean()))


def test_the_oracle_puts_found_targets_first():
    """One user's only target was found, another's one of two, a third's none."""
    found = oracle_ndcg(np.array([1.0, 0.5, 0.0]), [np.array([4]), np.array([1, 2]), np.array([3])])
    assert found == pytest.approx((1 + 1 / (1 + SECOND) + 0) / 3)


def test_the_oracle_of_many_targets_is_cut_at_ten():
    assert oracle_ndcg(np.array([0.5]), [np.arange(20)]) == 1
