"""Positions at a moment, and at those between it and now: who has one, what it knows and what it asks for."""

from __future__ import annotations

import numpy as np

from retrieval.data import Impressions, time_split
from retrieval.histories import histories_of, shown_of, taken_after
from retrieval.moments import positions_since
from retrieval.rerank_lists import positions_at_moment
from tests.retrieval.test_held_out import MOMENT, early, table


def test_a_position_at_a_moment_asks_for_all_that_follows():
    shown = Impressions.of(np.array([0, 0, 0, 0]), np.array([3, 38, 20, 30]), np.array([5.0, 6.0, 7.0, 103.0]))
    late = [(0, 38, MOMENT), (0, 39, 101.0), (0, 3, 102.0), (1, 5, 103.0)]
    parts = time_split(table(*early(36)[:15], *early(36)[15:], *late, negatives=shown))
    histories = histories_of(parts.train)
    (position,) = positions_at_moment(taken_after(parts, histories, keep_seen=False), shown_of(parts.train))
    assert position.history.tolist() == list(range(36))
    assert position.targets.tolist() == [38, 39]
    assert position.shown.tolist() == []  # 3, 20 and 38 were taken, 30 was shown later
    (again,) = positions_at_moment(taken_after(parts, histories, keep_seen=True), None)
    assert again.targets.tolist() == [3, 38, 39]


def test_whoever_takes_something_after_a_moment_has_a_position_at_a_later_one():
    """User 0 was there before and comes back twice; 1 comes back once; 2 comes only after the moment."""
    taken = [(0, 1, 10.0), (1, 2, 11.0), (0, 3, 100.0), (2, 4, 110.0), (2, 5, 120.0), (2, 6, 130.0), (1, 7, 140.0)]
    found = positions_since(table(*taken, (0, 8, 150.0), (0, 1, 160.0)), MOMENT, keep_seen=False)
    asked = [(position.history.tolist(), position.targets.tolist()) for position in found]
    assert asked == [
        ([1], [3, 8]),  # at the moment; what they had seen is not asked for
        ([2], [7]),
        ([1, 3], [8]),  # after user 0 took something, and 1 nothing new
        ([4], [5, 6]),
        ([4, 5], [6]),
    ]
    spans = [(MOMENT - 10, MOMENT - 10), (MOMENT - 11, MOMENT - 10), (10, 100), (10, 110), (10, 120)]
    away = [np.log1p(10_000 * since / span) for since, span in spans]
    newest = [10.0, 11.0, 100.0, 110.0, 120.0]
    visits = [position.visit for position in found if position.visit is not None]
    np.testing.assert_allclose(visits, np.stack([away, newest], axis=1), rtol=1e-6)
    assert positions_since(table(*taken), 150.0, keep_seen=False) == []


def test_a_position_after_a_moment_knows_what_was_shown_until_then():
    shown = Impressions.of(np.array([0, 0, 0]), np.array([9, 10, 3]), np.array([5.0, 115.0, 6.0]))
    taken = [(0, 1, 10.0), (0, 3, 110.0), (0, 8, 120.0)]
    found = positions_since(table(*taken, negatives=shown), MOMENT, keep_seen=False)
    assert [(position.targets.tolist(), position.shown.tolist()) for position in found] == [
        ([3, 8], [9]),
        ([8], [9, 10]),
    ]
