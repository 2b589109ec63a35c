"""What became popular since a user was last here: how it is counted, whom it is told of, and that a bundle keeps it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from retrieval.candidates import feature_names, gather_candidates
from retrieval.histories import Timeline, last_visits
from retrieval.recommend import Recommender
from retrieval.sources import UNKNOWN_VISIT, FreshSource, PopularSource, Queries
from retrieval.storage import load_bundle, save_bundle
from retrieval.update import replace_catalogue
from tests.retrieval.test_held_out import table
from tests.world import make_items

_OLD, _STEADY, _YOUNG, _UNTAKEN = range(4)


def timeline() -> tuple[np.ndarray, np.ndarray]:
    """640 interactions, one a second: _OLD only in the first half, _YOUNG only in the second, _STEADY every other."""
    items = np.array([_STEADY if second % 2 else _OLD if second < 320 else _YOUNG for second in range(640)])
    return items, np.arange(640.0)


def queries(*visits: float) -> Queries:
    nothing = (np.empty(0, dtype=np.int64),) * len(visits)
    told = np.array([[1.0, newest] for newest in visits])
    return Queries((np.array([_OLD]),) * len(visits), nothing, ("",) * len(visits), told)


def source() -> FreshSource:
    return FreshSource.fit(*timeline(), 4, newest=np.array([0.0, 319.0, 600.0]))


def shares(*visits: float) -> np.ndarray:
    return source().scan(queries(*visits)).at(np.tile(np.arange(4), (len(visits), 1)))


def test_a_share_is_what_came_after_the_last_visit():
    """The visit's own bin of 20 interactions is not counted, and every item has ten more before the visit."""
    first, middle, last = shares(0.0, 319.0, 639.0)
    np.testing.assert_allclose(first, [150 / 170, 310 / 330, 160 / 170, 0], rtol=1e-6)
    np.testing.assert_allclose(middle, [0, 160 / 330, 160 / 170, 0], rtol=1e-6)
    assert last.tolist() == [0, 0, 0, 0]


def test_only_what_came_after_is_found():
    found = source().scan(queries(319.0, 639.0)).top(3)
    assert found.rows.tolist() == [[_YOUNG, _STEADY, -1], [-1, -1, -1]]


def test_an_unknown_visit_is_the_typical_one():
    np.testing.assert_array_equal(shares(np.nan), shares(319.0))
    asked = replace(queries(0.0), visits=None)
    np.testing.assert_array_equal(source().scan(asked).at(np.arange(4)[None]), shares(319.0))
    assert np.isnan(UNKNOWN_VISIT).all()


def test_a_visit_before_or_after_all_that_is_known_is_the_oldest_or_newest():
    np.testing.assert_array_equal(shares(-9e9, 9e9), shares(0.0, 639.0))


def test_at_one_time_nobody_missed_anything():
    one = FreshSource.fit(np.array([0, 1, 1]), np.full(3, 5.0), 2, newest=np.full(2, 5.0))
    assert not one.scan(queries(5.0)).at(np.array([[0, 1]])).any()
    empty = FreshSource.fit(np.empty(0, np.int64), np.empty(0), 2, newest=np.empty(0))
    assert not empty.scan(queries(5.0)).at(np.array([[0, 1]])).any()


def test_shares_are_told_as_they_are_and_of_new_items_as_the_average():
    """Deviations would make as much of the little that was missed yesterday as of a year."""
    counting = PopularSource(np.bincount(timeline()[0], minlength=4))
    found = gather_candidates((counting, source()), queries(319.0, 610.0), per_source=4)
    told = found.features[:, :, feature_names((counting, source())).index("fresh_score")]
    long, short = (
        dict(zip(rows.tolist(), own.tolist(), strict=True)) for rows, own in zip(found.rows, told, strict=True)
    )
    expected = shares(319.0, 610.0)
    for own, share in zip((long, short), expected, strict=True):
        assert own[_YOUNG] - own[_OLD] == pytest.approx(share[_YOUNG] - share[_OLD], abs=1e-6)
        assert own[_UNTAKEN] == pytest.approx((own[_OLD] + own[_STEADY] + own[_YOUNG]) / 3, abs=1e-6)
    assert 0 < short[_YOUNG] - short[_OLD] < 0.2 < long[_YOUNG] - long[_OLD]


def test_a_timeline_is_everybody_in_one_order():
    line = Timeline.of(table((0, 3, 5.0), (0, 1, 9.0), (2, 2, 7.0)))
    assert (line.items.tolist(), line.times.tolist()) == ([3, 2, 1], [5.0, 7.0, 9.0])
    assert line.newest.tolist() == [9.0, 7.0]  # user 1 was never here
    visits = last_visits(table((0, 3, 5.0), (0, 1, 9.0), (2, 2, 7.0)))
    np.testing.assert_array_equal(visits[:, 1], [9.0, np.nan, 7.0])


def fresh_of(recommender: Recommender) -> FreshSource:
    return next(source for source in recommender.model.sources if isinstance(source, FreshSource))


def test_a_fit_by_time_knows_it_and_a_fit_by_the_newest_item_does_not(by_time, interactions, fitted):
    line = Timeline.of(interactions)
    expected = FreshSource.fit(line.items, line.times, interactions.n_items, newest=line.newest)
    np.testing.assert_array_equal(fresh_of(by_time).shares, expected.shares)
    assert not any(isinstance(source, FreshSource) for source in fitted.model.sources)


def test_a_known_user_is_asked_with_the_last_visit(by_time, interactions):
    asked: list[np.ndarray | None] = []

    class Watched(FreshSource):
        def scan(self, queries):
            asked.append(queries.visits)
            return super().scan(queries)

    own = fresh_of(by_time)
    watched = Watched(own.edges, own.shares, own.typical)
    sources = tuple(watched if one is own else one for one in by_time.model.sources)
    replace(by_time, model=replace(by_time.model, sources=sources)).recommend(str(by_time.users.ids[3]))
    assert asked[0] is not None
    np.testing.assert_array_equal(asked[0], last_visits(interactions)[[3]])


def test_a_bundle_keeps_it(by_time, tmp_path):
    save_bundle(tmp_path, by_time)
    loaded = load_bundle(tmp_path, device="cpu")
    for part in ("edges", "shares", "typical"):
        np.testing.assert_array_equal(getattr(fresh_of(loaded), part), getattr(fresh_of(by_time), part))
    np.testing.assert_array_equal(loaded.visits, by_time.visits)


def test_a_new_catalogue_keeps_it(by_time):
    frame = by_time.model.catalogue.items.frame.iloc[::-1].reset_index(drop=True)
    frame.loc[len(frame)] = {**frame.iloc[0].to_dict(), "item_id": "brand-new", "title": "brand new"}
    changed = fresh_of(replace_catalogue(by_time, make_items(frame)))
    np.testing.assert_array_equal(changed.shares[:, :-1], fresh_of(by_time).shares[:, ::-1])
    assert not changed.shares[:, -1].any()
