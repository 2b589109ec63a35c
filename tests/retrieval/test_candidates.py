"""The union of the sources with features that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.candidates import Candidates, feature_names, gather_candidates, standardise
from retrieval.sources import PopularSource, Queries
from retrieval.sources.base import MatrixScan


class Table:
    """A source that scores from a table, one line per user."""

    def __init__(self, name: str, scores: list[list[float]]) -> None:
        self._name = name
        self.scores = np.array(scores, dtype=np.float32)

    @property
    def name(self) -> str:
        return self._name

    def scan(self, queries: Queries) -> MatrixScan:
        return MatrixScan(self.scores, queries.exclude)


def rows(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def queries(*exclude: np.ndarray) -> Queries:
    return Queries(tuple(rows(0) for _ in exclude), tuple(exclude), tuple("" for _ in exclude))


# Six items, two users; the second user is known to one source only.
FIRST = Table("first", [[6, 5, 4, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
SECOND = Table("second", [[0, 0, 7, 0, 8, 9], [1, 2, 0, 0, 0, 0]])


def test_candidates_are_the_union_of_what_the_sources_find():
    found = gather_candidates([FIRST, SECOND], queries(rows(), rows()), per_source=2)
    assert found.rows.tolist() == [[0, 1, 4, 5], [0, 1, -1, -1]]
    assert found.rows.dtype == np.int64
    assert found.features.dtype == found.scores.dtype == np.float32


def test_bits_tell_which_source_found_an_item():
    found = gather_candidates([FIRST, SECOND], queries(rows(), rows()), per_source=3)
    assert found.rows.tolist() == [[0, 1, 2, 4, 5], [0, 1, -1, -1, -1]]
    assert found.found_by.tolist() == [[1, 1, 1 | 2, 2, 2], [2, 2, 0, 0, 0]]
    assert found.found_by.dtype == np.uint32


def test_excluded_and_forbidden_items_are_no_candidates():
    allowed = np.array([True, True, True, True, True, False])
    found = gather_candidates([FIRST, SECOND], queries(rows(0), rows()), per_source=9, allowed=allowed)
    assert found.rows.tolist() == [[1, 2, 4], [0, 1, -1]]


def test_further_items_are_scored_even_if_excluded_and_nobody_found_them():
    found = gather_candidates([FIRST, SECOND], queries(rows(3), rows()), per_source=1, extra=[rows(3, 5), rows()])
    assert found.rows.tolist() == [[0, 3, 5], [1, -1, -1]]
    assert found.found_by.tolist() == [[1, 0, 2], [2, 0, 0]]


def features_by_row(found: Candidates, user: int = 0) -> dict[int, list[float]]:
    pairs = zip(found.rows[user].tolist(), found.features[user].tolist(), strict=True)
    return {row: features for row, features in pairs if row >= 0}


@pytest.mark.parametrize("options", [{"only": np.arange(6) % 2 == 0}, {"n_best": 1}, {"n_best": 6}])
def test_what_is_left_out_or_comes_beside_it_changes_nothing_about_a_candidate(options):
    whole = features_by_row(gather_candidates([FIRST, SECOND], queries(rows(), rows()), per_source=2))
    assert set(whole) == {0, 1, 4, 5}
    found = gather_candidates([FIRST, SECOND], queries(rows(), rows()), per_source=2, **options)
    some = features_by_row(found)
    assert (
        set(some)
        == {"only": {0, 2, 4}, "n_best": {1: {0, 5}, 6: {0, 1, 2, 4, 5}}.get(options.get("n_best"))}[
            next(iter(options))
        ]
    )
    assert all(some[row] == whole[row] for row in set(some) & set(whole))
    assert not found.features[found.rows < 0].any()
    assert not found.found_by[found.rows < 0].any()


def test_further_items_are_measured_among_the_others_and_change_nothing_about_them():
    whole = features_by_row(gather_candidates([FIRST, SECOND], queries(rows(), rows()), per_source=2))
    more = features_by_row(
        gather_candidates([FIRST, SECOND], queries(rows(), rows()), per_source=2, extra=[rows(2, 3), rows()])
    )
    assert set(more) == {*whole, 2, 3}
    assert all(more[row] == whole[row] for row in whole)
    # Of 6, 5, 0 and 0 the mean is 2.75; 4 is the third best beside them.
    deviation = np.sqrt(((6 - 2.75) ** 2 + (5 - 2.75) ** 2 + 2 * 2.75**2) / 4)
    np.testing.assert_allclose(more[2][0], (4 - 2.75) / deviation, rtol=1e-5)
    np.testing.assert_allclose(more[2][2], 1 - np.log2(3) / np.log2(6), rtol=1e-5)


def test_features_are_named_scores_then_ranks():
    assert feature_names([FIRST, SECOND]) == ["first_score", "second_score", "first_rank", "second_rank"]


def test_features_are_zero_at_padding():
    found = gather_candidates([FIRST, SECOND], queries(rows(), rows()), per_source=3)
    assert not found.features[1, 2:].any()
    assert found.features[1, :2].any()


def test_scores_become_deviations_from_the_mean_of_the_candidates():
    raw = np.array([[[1.0], [2.0], [6.0], [99.0]]], dtype=np.float32)
    features = standardise(raw, rows(4, 5, 6, -1)[None])
    deviation = np.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 3)
    np.testing.assert_allclose(features[0, :3, 0], [(1 - 3) / deviation, (2 - 3) / deviation, (6 - 3) / deviation])
    assert features[0, 3].tolist() == [0, 0]


def test_ranks_fall_by_the_logarithm_and_equal_scores_share_one():
    raw = np.array([[[5.0], [9.0], [5.0], [1.0]]], dtype=np.float32)
    features = standardise(raw, rows(0, 1, 2, 3)[None])
    place = np.array([1, 0, 1, 3])  # how many are better
    np.testing.assert_allclose(features[0, :, 1], 1 - np.log2(1 + place) / np.log2(2 + 4), rtol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 3e-8])
def test_a_source_that_says_the_same_of_all_candidates_says_nothing(noise):
    raw = np.full((1, 6, 1), 0.5, dtype=np.float32)
    raw[0, ::2, 0] += np.float32(noise)  # what rounding in float32 leaves
    assert not standardise(raw, rows(0, 1, 2, 3, 4, 5)[None]).any()


def test_a_small_scale_is_not_taken_for_rounding():
    raw = np.array([[[1e-6], [3e-6]]], dtype=np.float32)
    np.testing.assert_allclose(standardise(raw, rows(0, 1)[None])[0, :, 0], [-1, 1], rtol=1e-5)


def test_features_of_one_user_do_not_depend_on_the_others():
    raw = np.random.default_rng(0).normal(size=(5, 8, 3)).astype(np.float32)
    ids = np.tile(np.arange(8), (5, 1))
    ids[2, 5:] = -1
    together = standardise(raw, ids)
    alone = standardise(raw[2:3, :5], ids[2:3, :5])
    np.testing.assert_allclose(together[2, :5], alone[0], atol=1e-6)


def test_an_outlier_is_held_to_eight_deviations():
    raw = np.zeros((1, 200, 1), dtype=np.float32)
    raw[0, 0] = 1
    assert standardise(raw, np.arange(200)[None])[0, :, 0].max() == 8


def test_reordering_takes_everything_along_and_keeps_ties_as_they_stood():
    found = gather_candidates([FIRST, SECOND], queries(rows(), rows()), per_source=3)
    scores = np.array([[1, 5, 5, 2, 9], [3, 4, 99, 99, 99]], dtype=np.float32)
    ordered = found.ordered(scores)
    assert ordered.rows.tolist() == [[5, 1, 2, 4, 0], [1, 0, -1, -1, -1]]
    assert ordered.scores.tolist() == [[9, 5, 5, 2, 1], [4, 3, -np.inf, -np.inf, -np.inf]]
    np.testing.assert_array_equal(ordered.features[0], found.features[0, [4, 1, 2, 3, 0]])
    np.testing.assert_array_equal(ordered.found_by[0], found.found_by[0, [4, 1, 2, 3, 0]])


def test_reordering_can_cut():
    found = gather_candidates([FIRST, SECOND], queries(rows(), rows()), per_source=3)
    cut = found.ordered(np.zeros(found.rows.shape), depth=2)
    assert cut.rows.tolist() == [[0, 1], [0, 1]]
    assert cut.features.shape == (2, 2, 4)


def test_nothing_allowed_gives_no_candidates():
    found = gather_candidates([FIRST, SECOND], queries(rows(), rows()), per_source=3, allowed=np.zeros(6, dtype=bool))
    assert found.rows.shape == (2, 0)
    assert found.features.shape == (2, 0, 4)


def test_no_users_give_no_candidates():
    empty = Table("first", []), Table("second", [])
    for table in empty:
        table.scores = np.empty((0, 6), dtype=np.float32)
    found = gather_candidates(empty, Queries((), (), ()), per_source=3)
    assert isinstance(found, Candidates)
    assert len(found.rows) == 0


def test_an_item_nobody_took_is_told_with_what_its_text_says():
    dense = Table("dense", [[3, 2, 1, 0, 0, 0]])
    popular = PopularSource(np.array([5, 0, 1, 0, 0, 0]))
    assert feature_names([dense, popular])[4:] == ["new_item", "new_dense"]
    found = gather_candidates([dense, popular], queries(rows()), per_source=3)
    new, told = found.features[0, :, 4], found.features[0, :, 5]
    assert dict(zip(found.rows[0].tolist(), new.tolist(), strict=True)) == {0: 0, 1: 1, 2: 0}
    np.testing.assert_array_equal(told, new * found.features[0, :, 0])
