"""The item-by-item matrices against their formulas, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from retrieval.sources.item_items import (
    content_matrix,
    cosine_matrix,
    ease_matrix,
    followers,
    history_matrix,
    keep_largest,
    transition_matrix,
    walk_matrix,
)


def rows(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_the_newest_interaction_weighs_1_and_each_older_one_decay_times_that():
    matrix = history_matrix([rows(4, 0, 2), rows(), rows(1)], 5, decay=0.5)
    assert matrix.toarray().tolist() == [[0.5, 0, 1, 0, 0.25], [0] * 5, [0, 1, 0, 0, 0]]


def test_an_item_taken_twice_has_the_sum_of_its_weights():
    assert history_matrix([rows(1, 0, 1)], 2, decay=0.5).toarray().tolist() == [[0.5, 1 + 0.25]]


def test_cosine_is_common_users_over_the_root_of_both_counts():
    # Item 0 has users a b c, item 1 has a b, item 2 has c, item 3 nobody.
    matrix = cosine_matrix([rows(0, 1), rows(1, 0, 0), rows(0, 2)], 4).toarray()
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 2 / np.sqrt(3 * 2)
    expected[0, 2] = expected[2, 0] = 1 / np.sqrt(3 * 1)
    np.testing.assert_allclose(matrix, expected, atol=1e-6)


def test_a_walk_goes_through_a_user_of_the_item_to_an_item_of_theirs():
    # Item 0 has users a b c, item 1 has a b, item 2 has c, item 3 nobody; every user took two items.
    histories = [rows(0, 1), rows(1, 0, 0), rows(0, 2)]
    walk = walk_matrix(histories, 4, target_power=0.0).toarray()
    # From item 0 one user in three, and from each user every other step; it may also end where it began (not kept).
    expected = [[0, 2 / 3 * 1 / 2, 1 / 3 * 1 / 2, 0], [1 / 2, 0, 0, 0], [1 / 2, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(walk, expected, atol=1e-6)
    tempered = walk_matrix(histories, 4, target_power=0.5).toarray()
    np.testing.assert_allclose(tempered, np.array(expected) / np.sqrt([3, 2, 1, 1]), atol=1e-6)


def test_a_walk_through_somebody_who_took_much_says_less():
    walk = walk_matrix([rows(0, 1), rows(0, 2, 3, 4)], 5, target_power=0.0).toarray()
    np.testing.assert_allclose(walk[0], [0, 1 / 2 * 1 / 2, *[1 / 2 * 1 / 4] * 3], atol=1e-6)
    assert walk_matrix([rows(0, 1), rows(0, 2, 3, 4)], 5, target_power=0.0, per_item=1).toarray()[0].tolist() == [
        0, 0.25, 0, 0, 0
    ]  # fmt: skip


def test_ease_is_the_dense_formula_of_its_paper():
    rng = np.random.default_rng(0)
    histories = [rng.choice(9, rng.integers(1, 6), replace=False) for _ in range(40)]
    taken = np.zeros((40, 9))
    for user, history in enumerate(histories):
        taken[user, history] = 1
    precision = np.linalg.inv(taken.T @ taken + 3.0 * np.eye(9))
    expected = np.eye(9) - precision / np.diag(precision)[None, :]
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(ease_matrix(histories, 9, regularisation=3.0).toarray(), expected, atol=1e-4)


def test_ease_keeps_the_largest_weights_of_every_row():
    histories = [rows(0, 1, 2, 3), rows(0, 1), rows(1, 2), rows(3, 0)]
    full, cut = (ease_matrix(histories, 4, regularisation=1.0, per_item=n).toarray() for n in (4, 2))
    for row in range(4):
        kept = np.flatnonzero(cut[row])
        assert set(kept) == set(np.argsort(-np.abs(full[row]))[:2])
        np.testing.assert_array_equal(cut[row, kept], full[row, kept])


def test_ease_without_any_interaction_is_empty():
    assert ease_matrix([rows(), rows()], 3, regularisation=1.0).nnz == 0


def test_items_nobody_took_have_no_ease_weights():
    matrix = ease_matrix([rows(0, 2), rows(2, 0)], 4, regularisation=1.0).toarray()
    assert not matrix[[1, 3]].any()
    assert not matrix[:, [1, 3]].any()
    assert matrix[0, 2] > 0


def test_keeping_the_largest_prefers_magnitude_then_the_lower_column():
    matrix = sp.csr_matrix(np.array([[1, -3, 2, 1], [0, 1, 1, 1], [0, 0, 0, 0]], dtype=np.float32))
    assert keep_largest(matrix, 2).toarray().tolist() == [[0, -3, 2, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_followers_count_less_the_further_apart_they_stand():
    found = followers([rows(0, 1, 2), rows(2, 1), rows(3), rows(0, 0)], 4, reach=2, closeness=0.5).toarray()
    np.testing.assert_allclose(found, [[0, 1, 0.5, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    near = followers([rows(0, 1, 2)], 4, reach=1).toarray()
    assert near[0, 2] == 0


def test_transitions_know_the_order_unless_told_to_forget_it():
    following = followers([rows(0, 1), rows(0, 1), rows(2, 1)], 3)
    counts = np.array([2, 3, 1])
    forward = transition_matrix(following, counts, back=0.0, source_power=1.0, target_power=0.0).toarray()
    np.testing.assert_allclose(forward, [[0, 1, 0], [0, 0, 0], [0, 1, 0]], atol=1e-6)
    both = transition_matrix(following, counts, back=1.0, source_power=0.5, target_power=0.5).toarray()
    np.testing.assert_allclose(both, both.T, atol=1e-6)
    assert both[0, 1] == pytest.approx(2 / 6**0.5)


def test_content_is_the_cosine_to_the_nearest_without_the_item_itself():
    vectors = np.array([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]], dtype=np.float32)
    matrix = content_matrix(vectors, per_item=2).toarray()
    assert not matrix.diagonal().any()
    np.testing.assert_allclose(matrix[0], [0, 0.6, 0, 0], atol=1e-6)
    np.testing.assert_allclose(matrix[1], [0.6, 0, 0.8, 0], atol=1e-6)
    assert (matrix >= 0).all()


def test_content_of_one_item_is_empty():
    assert content_matrix(np.ones((1, 2), np.float32)).shape == (1, 1)
