"""Every candidate source keeps one contract; what each of them scores is checked against arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from indexes import build_index
from retrieval import stage_one
from retrieval.catalogue import Catalogue, make_catalogue
from retrieval.encoder.heads import HeadConfig, RecallHead
from retrieval.encoder.train import embed_items, embed_users
from retrieval.histories import histories_of
from retrieval.sources import (
    ContentSource,
    DenseSource,
    ItemItemSource,
    LexicalSource,
    PopularSource,
    Queries,
    RepeatSource,
    Source,
)
from retrieval.sources.base import MatrixScan, top_positive
from retrieval.sources.dense import pooled_users
from retrieval.sources.item_items import (
    cosine_matrix,
    ease_matrix,
    followers,
    walk_matrix,
)
from retrieval.sources.popular import count_items
from retrieval.stage_one import SourceSettings, sub_queries, transitions_of
from retrieval.text import TextConfig

SOURCES = ("dense", "neighbours", "ease", "transitions", "walk", "content", "lexical", "popular", "repeat")


def rows(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@pytest.fixture(scope="module")
def catalogue(items, encoder) -> Catalogue:
    return make_catalogue(items, encoder, text_config=TextConfig())


@pytest.fixture(scope="module")
def sources(catalogue, interactions) -> dict[str, Source]:
    n_items, histories = catalogue.n_items, histories_of(interactions)
    following, counts = followers(histories, n_items), count_items(histories, n_items)
    torch.manual_seed(0)
    head = RecallHead(HeadConfig(dim=16, n_layers=1, n_heads=2, history_items=8), text_dim=16, n_items=n_items).eval()
    vectors = embed_items(head, catalogue.text_vectors)
    made = (
        DenseSource(head, build_index(vectors), vectors),
        ItemItemSource("neighbours", cosine_matrix(histories, n_items), decay=0.8),
        ItemItemSource("ease", ease_matrix(histories, n_items, regularisation=10.0), decay=0.8),
        ItemItemSource("transitions", transitions_of(following, counts, SourceSettings()), decay=0.8),
        ItemItemSource("walk", walk_matrix(histories, n_items, target_power=0.5), decay=0.8),
        ContentSource(catalogue.encoder, catalogue.index, catalogue.text_vectors),
        LexicalSource(catalogue.texts),
        PopularSource.fit(histories, n_items),
        RepeatSource(n_items),
    )
    return {source.name: source for source in made}


@pytest.fixture(scope="module")
def queries(catalogue) -> Queries:
    """Users with three, one, no and eight items; nothing is excluded from the last one's list."""
    histories = [rows(0, 1, 2), rows(30), rows(), rows(*range(13, 21))]
    return catalogue.queries(histories, exclude=[*histories[:3], rows()])


@pytest.mark.parametrize("name", SOURCES)
class TestContract:
    """What `retrieval.sources.base` promises, for every source."""

    def test_the_best_come_first_and_missing_ones_last(self, sources, queries, name):
        hits = sources[name].scan(queries).top(10)
        assert hits.rows.dtype == np.int64
        assert hits.scores.dtype == np.float32
        assert hits.rows.shape == hits.scores.shape == (len(queries), 10)
        assert (hits.scores[:, :-1] >= hits.scores[:, 1:]).all()
        np.testing.assert_array_equal(hits.rows < 0, np.isneginf(hits.scores))
        assert (hits.rows >= -1).all()

    def test_equal_scores_stand_by_lower_row(self, sources, queries, name):
        hits = sources[name].scan(queries).top(60)
        tied = (hits.scores[:, :-1] == hits.scores[:, 1:]) & (hits.rows[:, 1:] >= 0)
        assert (hits.rows[:, :-1] < hits.rows[:, 1:])[tied].all()

    def test_a_shorter_list_is_the_beginning_of_a_longer_one(self, sources, queries, name):
        scan = sources[name].scan(queries)
        long = scan.top(60)
        for k in (1, 3, 7, 20):
            np.testing.assert_array_equal(scan.top(k).rows, long.rows[:, :k])

    def test_no_item_stands_twice(self, sources, queries, name):
        for line in sources[name].scan(queries).top(60).rows:
            found = line[line >= 0]
            assert len(np.unique(found)) == len(found)

    def test_excluded_items_are_not_recommended(self, sources, queries, name):
        hits = sources[name].scan(queries).top(60)
        for line, excluded in zip(hits.rows, queries.exclude, strict=True):
            assert not np.isin(line, excluded).any()

    def test_only_allowed_items_are_recommended(self, sources, queries, name, catalogue):
        allowed = np.zeros(catalogue.n_items, dtype=bool)
        allowed[[1, 5, 14, 15, 16, 31, 40]] = True
        hits = sources[name].scan(queries).top(60, allowed=allowed)
        assert np.isin(hits.rows[hits.rows >= 0], np.flatnonzero(allowed)).all()

    def test_nothing_is_found_where_nothing_is_allowed(self, sources, queries, name, catalogue):
        hits = sources[name].scan(queries).top(5, allowed=np.zeros(catalogue.n_items, dtype=bool))
        assert (hits.rows == -1).all()

    def test_a_list_longer_than_the_catalogue_is_padded(self, sources, queries, name, catalogue):
        hits = sources[name].scan(queries).top(catalogue.n_items + 5)
        assert hits.rows.shape == (len(queries), catalogue.n_items + 5)
        assert (hits.rows[:, -5:] == -1).all()

    def test_single_scores_agree_with_the_best(self, sources, queries, name):
        scan = sources[name].scan(queries)
        hits = scan.top(10)
        found = scan.at(hits.rows)
        assert found.dtype == np.float32
        real = hits.rows >= 0
        np.testing.assert_allclose(found[real], hits.scores[real], atol=1e-5)
        assert not found[~real].any()

    def test_excluded_items_can_still_be_scored(self, sources, queries, name):
        scan = sources[name].scan(queries)
        assert np.isfinite(scan.at(np.tile(np.arange(20), (len(queries), 1)))).all()

    def test_an_empty_history_finds_nothing_unless_it_is_the_popular_list(self, sources, queries, name):
        line = sources[name].scan(queries).top(10).rows[2]
        assert (line >= 0).all() if name == "popular" else (line == -1).all()

    def test_a_user_alone_gets_what_they_get_among_others(self, sources, queries, name):
        together = sources[name].scan(queries).top(10)
        for user in range(len(queries)):
            one = sub_queries(queries, slice(user, user + 1))
            alone = sources[name].scan(one).top(10)
            np.testing.assert_array_equal(alone.rows[0], together.rows[user])
            np.testing.assert_allclose(alone.scores[0], together.scores[user], atol=1e-6)

    def test_a_scan_changes_nothing(self, sources, queries, name):
        first = sources[name].scan(queries)
        before = first.top(10)
        first.top(3, allowed=np.zeros(first.at(np.zeros((4, 1), np.int64)).size + 48, dtype=bool))
        np.testing.assert_array_equal(first.top(10).rows, before.rows)
        np.testing.assert_array_equal(sources[name].scan(queries).top(10).scores, before.scores)

    def test_nobody_gets_no_list(self, sources, name):
        hits = sources[name].scan(Queries((), (), ())).top(5)
        assert hits.rows.shape == hits.scores.shape == (0, 5)


def test_queries_of_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match=r"as many exclude lists and texts as histories \(1\), got 0 and 1"):
        Queries((rows(1),), (), ("a",))


def test_ties_at_the_end_of_a_list_go_to_the_lower_rows():
    scores = np.array([[1, 2, 1, 1, 3, 1]], dtype=np.float32)
    hits = top_positive(np.repeat(scores, 3, axis=0), 4)
    assert hits.rows.tolist() == [[4, 1, 0, 2]] * 3


def test_items_that_score_nothing_or_less_are_not_found():
    hits = top_positive(np.array([[0, -1, 2, np.nan, -np.inf]], dtype=np.float32), 5)
    assert hits.rows.tolist() == [[2, -1, -1, -1, -1]]


def test_a_longer_exclude_list_of_somebody_else_changes_nothing(catalogue, sources):
    one = catalogue.queries([rows(3, 4)])
    two = catalogue.queries([rows(3, 4), rows(*range(45))])
    for name in SOURCES:
        alone, together = sources[name].scan(one).top(4), sources[name].scan(two).top(4)
        np.testing.assert_array_equal(alone.rows[0], together.rows[0])


def test_a_matrix_of_scores_is_not_changed_by_what_is_excluded():
    scores = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)
    scan = MatrixScan(scores, [rows(2)])
    assert scan.top(3).rows.tolist() == [[1, 0, -1]]
    assert scan.at(rows(2, -1)[None]).tolist() == [[3.0, 0.0]]


def test_content_weighs_the_newest_item_most_and_not_what_all_items_share():
    vectors = np.array([[9, 1, 0], [9, 0, 1], [9, -1, 0], [9, 0, -1]], dtype=np.float32)
    users = pooled_users(vectors, [rows(0, 1), rows(1, 0), rows(2), rows(), rows(0, 2)], 0.5)
    np.testing.assert_allclose(users[:3] * 5**0.5, [[0, 1, 2], [0, 2, 1], [0, -(5**0.5), 0]], atol=1e-6)
    assert not users[3].any()
    np.testing.assert_allclose(users[4], [0, -1, 0], atol=1e-6)  # opposite items: the newer one decides


def test_a_history_is_read_as_one_text_where_no_decay_is_set(catalogue, queries):
    source = ContentSource(catalogue.encoder, catalogue.index, catalogue.text_vectors, decay=0.0)
    encoded = catalogue.encoder.encode([queries.texts[0]])
    every = np.arange(catalogue.n_items)[None]
    one = sub_queries(queries, slice(0, 1))
    np.testing.assert_allclose(source.scan(one).at(every), encoded @ catalogue.text_vectors.T, atol=1e-5)


def test_neighbours_score_the_weighted_history_times_the_matrix():
    matrix = sp.csr_matrix(np.array([[0, 1, 2], [4, 0, 8], [0, 0, 0]], dtype=np.float32))
    scan = ItemItemSource("neighbours", matrix, decay=0.5).scan(Queries((rows(0, 1),), (rows(),), ("",)))
    assert scan.scores.tolist() == [[4.0, 0.5, 0.5 * 2 + 8]]


def test_repeat_scores_how_often_and_how_lately():
    scan = RepeatSource(3, decay=0.5).scan(Queries((rows(1, 0, 1),), (rows(),), ("",)))
    assert scan.top(3).rows.tolist() == [[1, 0, -1]]


def test_popularity_counts_interactions_and_reaches_every_item():
    source = PopularSource.fit([rows(2, 2), rows(0), rows()], 4)
    np.testing.assert_allclose(source.scores, np.log1p([1, 0, 2, 0]), atol=1e-5)
    assert source.scan(Queries((rows(),), (rows(),), ("",))).top(4).rows.tolist() == [[2, 0, 1, 3]]
    assert count_items([], 3).tolist() == [0, 0, 0]


def test_words_in_common_are_found_and_rare_ones_count_more():
    source = LexicalSource(["red cat", "red dog", "red tree", "blue car"])
    scan = source.scan(Queries((rows(1),), (rows(),), ("red dog",)))
    assert scan.top(4).rows.tolist() == [[1, 0, 2, -1]]


def test_words_nobody_knows_find_nothing():
    scan = LexicalSource(["red cat"]).scan(Queries((rows(0),), (rows(),), ("zebra quagga",)))
    assert (scan.top(1).rows == -1).all()


def test_a_catalogue_without_words_can_be_searched():
    scan = LexicalSource(["", "?"]).scan(Queries((rows(0),), (rows(),), ("red cat",)))
    assert (scan.top(1).rows == -1).all()


def test_a_catalogue_whose_template_names_no_column_is_refused(items, encoder):
    with pytest.raises(ValueError, match=r"item_template: expected a column of the items .* got \['nonsense'\]"):
        make_catalogue(items, encoder, text_config=TextConfig(item_template="{nonsense}"))


def test_an_item_without_any_text_stands_under_its_id(items, encoder):
    frame = items.frame.assign(title="", description="", category="", brand="")
    texts = make_catalogue(type(items)(items.ids, frame), encoder, text_config=TextConfig()).texts
    assert texts == list(items.ids.ids)


def test_an_index_of_trained_vectors_is_tuned_on_users(fitted, interactions, config, monkeypatch):
    """Users lie elsewhere than items; an approximate index that knows only items is tuned for other questions."""
    asked = []
    real = stage_one.build_index

    def spy(vectors, *, queries=None, **options):
        asked.append(queries)
        return real(vectors, queries=queries, **options)

    monkeypatch.setattr(stage_one, "build_index", spy)
    monkeypatch.setattr(stage_one, "INDEX_QUERIES", 7)
    histories = [*histories_of(interactions), np.empty(0, dtype=np.int64)]
    dense = next(source for source in fitted.model.sources if isinstance(source, DenseSource))
    stage_one.fit_sources(fitted.model.catalogue, histories, dense.head, fitted.settings, keep_seen=False)
    (queries,) = asked
    assert queries.shape == (7, dense.item_vectors.shape[1])
    everybody = embed_users(dense.head, dense.item_vectors, histories[:-1])
    assert all(np.isclose(everybody @ one, 1, atol=1e-5).any() for one in queries)
    assert len(stage_one.sample_histories(histories, 1_000, seed=0)) == len(histories) - 1
