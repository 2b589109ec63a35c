"""The reranker's training lists are what stage one would have shown at moments of the past."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from retrieval.candidates import feature_names, gather_candidates
from retrieval.catalogue import Catalogue, make_catalogue
from retrieval.details import details_of
from retrieval.fusion import Fusion
from retrieval.histories import Shown
from retrieval.rerank_lists import LazyLists, Position, RerankList, choose_positions, make_lists
from retrieval.sources import ItemItemSource, PopularSource, Source
from retrieval.text import TextConfig
from retrieval.two_stage import Depths, TwoStage
from tests.world import RING


def rows(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@pytest.fixture(scope="module")
def catalogue(items, encoder) -> Catalogue:
    return make_catalogue(items, encoder, text_config=TextConfig())


@pytest.fixture(scope="module")
def sources(catalogue) -> tuple[Source, ...]:
    """The first ring by its rule: after n comes n + 1, then n + 2; and one popular item, row 40."""
    matrix = sp.lil_matrix((catalogue.n_items, catalogue.n_items), dtype=np.float32)
    for place in range(RING):
        matrix[place, (place + 1) % RING] = 1.0
        matrix[place, (place + 2) % RING] = 0.5
    counts = np.zeros(catalogue.n_items)
    counts[40] = 9
    return ItemItemSource("neighbours", sp.csr_matrix(matrix), decay=0.5), PopularSource(counts)


@pytest.fixture(scope="module")
def fusion(catalogue, sources) -> Fusion:
    """Neighbours first, popularity after; the details count nothing."""
    names = (*feature_names(sources), *details_of(catalogue, sources).names)
    weights = np.zeros(2 * len(names))
    weights[:2] = 1.0, 0.1
    return Fusion(names, weights, np.zeros(1), np.ones(1), (1.0, 0.0), {})


def lists_of(catalogue, sources, fusion, positions, **options) -> list[RerankList]:
    trained = np.eye(catalogue.n_items, 4, dtype=np.float32)
    options = {"per_source": 3, "depth": 5, "keep_seen": False, "trained_vectors": trained, **options}
    return make_lists(catalogue, sources, fusion, positions, **options)


def test_positions_are_moments_with_a_past_and_a_next_item():
    history = rows(5, 6, 7, 8)
    positions = choose_positions([history], np.array([0]), per_user=10, rng=np.random.default_rng(0))
    assert [(p.history.tolist(), p.targets.tolist()) for p in positions] == [
        ([5], [6]),
        ([5, 6], [7]),
        ([5, 6, 7], [8]),
    ]


def test_no_more_positions_than_asked_are_taken_of_a_user_and_none_twice():
    histories = [np.arange(30), np.arange(2), np.arange(1), np.arange(0)]
    positions = choose_positions(histories, np.arange(4), per_user=4, rng=np.random.default_rng(0))
    lengths = [len(position.history) for position in positions]
    assert len(positions) == 4 + 1
    assert len(set(lengths[:4])) == 4
    assert lengths[:4] == sorted(lengths[:4])


def test_positions_of_other_users_are_not_taken():
    positions = choose_positions(
        [np.arange(5), 10 + np.arange(5)], np.array([1]), per_user=9, rng=np.random.default_rng(0)
    )
    assert all(position.targets.min() >= 10 for position in positions)


def test_what_was_shown_by_then_and_never_taken_joins_a_position():
    # 3 is taken later, 30 was shown together with the first target, 31 after it, 32 after the last.
    shown = Shown(rows(3, 30, 31, 32), rows(0, 1, 2, 3))
    positions = choose_positions(
        [rows(1, 2, 3)], np.array([0]), per_user=9, shown=[shown], rng=np.random.default_rng(0)
    )
    assert [position.shown.tolist() for position in positions] == [[30], [30, 31]]


def test_a_list_holds_the_candidates_in_their_order_with_the_target_marked(catalogue, sources, fusion):
    (found,) = lists_of(catalogue, sources, fusion, [Position(rows(0, 1), rows(2), rows())])
    # After 0 and 1: item 2 scores 1 + 0.5 * 0.5, item 3 scores 0.5; 1 is seen; 40 is popular.
    assert found.rows.tolist()[:3] == [2, 3, 40]
    assert found.labels.tolist()[:3] == [1, 0, 0]
    assert found.labels.sum() == 1
    details = details_of(catalogue, sources)
    assert found.features.shape == (len(found.rows), 6 + len(details.names))
    assert found.history.tolist() == [0, 1]


def test_a_target_that_stage_one_does_not_find_gives_no_list(catalogue, sources, fusion):
    assert lists_of(catalogue, sources, fusion, [Position(rows(0), rows(30), rows())]) == []


def test_a_target_below_the_depth_gives_no_list(catalogue, sources, fusion):
    position = Position(rows(0), rows(2), rows())
    assert len(lists_of(catalogue, sources, fusion, [position], depth=2)) == 1
    assert lists_of(catalogue, sources, fusion, [position], depth=1) == []


def test_seen_items_are_in_no_list_unless_they_are_kept(catalogue, sources, fusion):
    position = Position(rows(1, 0), rows(2), rows())
    (masked,) = lists_of(catalogue, sources, fusion, [position])
    assert not np.isin(masked.rows, [0, 1]).any()
    (kept,) = lists_of(catalogue, sources, fusion, [position], keep_seen=True)
    assert 1 in kept.rows


def test_what_was_shown_is_in_the_list_however_low_it_ranks(catalogue, sources, fusion):
    (found,) = lists_of(catalogue, sources, fusion, [Position(rows(0), rows(1), rows(33, 34))], depth=3)
    assert {33, 34} < set(found.rows.tolist())
    assert found.labels[found.rows == 1].tolist() == [1]


def test_a_feed_that_shows_more_than_a_list_holds_leaves_room_for_what_was_taken(catalogue, sources, fusion):
    refused = np.arange(20, 39, dtype=np.int64)
    (found,) = lists_of(catalogue, sources, fusion, [Position(rows(0), rows(1), refused)], depth=4)
    assert np.isin(found.rows, refused).sum() == 2
    assert found.labels[found.rows == 1].tolist() == [1]
    assert 2 in found.rows  # and for what would be shown otherwise
    # What stage one ranks below the list is not told by what was shown beside it.
    assert lists_of(catalogue, sources, fusion, [Position(rows(0), rows(2), refused)], depth=1) == []


def test_no_more_lists_are_made_than_needed(catalogue, sources, fusion):
    positions = [Position(rows(0), rows(1), rows())] * 300
    assert len(lists_of(catalogue, sources, fusion, positions, max_lists=5)) <= 128
    assert lists_of(catalogue, sources, fusion, []) == []


def test_a_list_becomes_titles_and_vectors_when_it_is_read(catalogue, sources, fusion):
    positions = [Position(rows(0, 1), rows(2), rows()), Position(rows(4), rows(5), rows())]
    made = lists_of(catalogue, sources, fusion, positions)
    lazy = LazyLists(catalogue, made, history_items=10)
    first, second = lazy
    assert len(lazy) == 2
    assert first.input.context_texts == (catalogue.titles[1], catalogue.titles[0])  # newest first
    assert first.input.candidate_texts[0] == catalogue.titles[2]
    trained = np.eye(catalogue.n_items, 4, dtype=np.float32)
    both = np.concatenate([catalogue.text_vectors, trained], axis=1)
    np.testing.assert_array_equal(first.input.context_vectors, both[[1, 0]])
    np.testing.assert_array_equal(first.input.candidate_vectors, both[made[0].rows])
    assert first.input.candidate_features is not None
    np.testing.assert_array_equal(first.input.candidate_features[:, -1], made[0].scores)
    np.testing.assert_array_equal(first.labels, made[0].labels)
    rest = lazy[1:]
    assert isinstance(rest, LazyLists)
    (last,) = rest
    assert last.input.context_texts == second.input.context_texts == (catalogue.titles[4],)


def test_features_of_a_list_are_those_of_serving(catalogue, sources, fusion):
    depths, queries = Depths(per_source=3, rerank=2), catalogue.queries([rows(0, 1)])
    (found,) = lists_of(catalogue, sources, fusion, [Position(rows(0, 1), rows(2), rows())], depth=2)
    served = TwoStage(catalogue, sources, depths, fusion, None, fusion).recall(queries)
    assert found.rows.tolist() == served.rows[0].tolist()
    # In float16; and what lies below the depth is in the averages of both.
    np.testing.assert_allclose(found.features.astype(np.float32), served.features[0], atol=4e-3)
    np.testing.assert_allclose(found.scores, served.scores[0], atol=1e-5)
    pool = gather_candidates(sources, queries, per_source=3, details=details_of(catalogue, sources))
    assert pool.rows.shape[1] > 2
    place = {int(row): n for n, row in enumerate(pool.rows[0])}
    expected = pool.features[0, [place[int(row)] for row in found.rows]]
    np.testing.assert_array_equal(served.features[0], expected)


def test_what_was_shown_has_its_own_score_not_the_one_that_keeps_it_in_the_list(catalogue, sources, fusion):
    (found,) = lists_of(catalogue, sources, fusion, [Position(rows(0), rows(1), rows(33, 34))], depth=3)
    assert np.abs(found.scores).max() < 20
