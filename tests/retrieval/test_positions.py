"""What the reranker's lists are asked by the clock: at which moments, and what followed."""

from __future__ import annotations

import numpy as np

from retrieval import fit_lists
from retrieval.data import Impressions, time_split
from retrieval.histories import histories_of, shown_of, taken_after
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


def test_of_one_moment_s_sources_lists_are_asked_at_moments_until_the_next():
    """Eight interactions lie after 36: a list is asked before the first, third, fifth and seventh of them."""
    late = [(0, 36, 100.0), (1, 5, 101.0), (1, 6, 102.0), (0, 37, 103.0), (1, 7, 104.0), (0, 3, 105.0), (0, 38, 106.0)]
    shown = Impressions.of(np.array([0, 0]), np.array([20, 39]), np.array([5.0, 103.5]))
    whole = table(*early(36), *late, (1, 8, 107.0), negatives=shown)
    found = fit_lists.positions_from(whole, 36, keep_seen=False)
    assert [(len(p.history), int(p.history[-1]), p.targets.tolist(), p.shown.tolist()) for p in found] == [
        (36, 35, [36, 37, 38], []),  # user 1 has no history yet
        (37, 36, [37, 38], []),
        (1, 5, [6, 7, 8], []),
        (38, 37, [38], [39]),
        (2, 6, [7, 8], []),
        (39, 3, [38], [39]),
        (3, 7, [8], []),
    ]
    assert len(fit_lists.positions_from(whole, 43, keep_seen=False)) == 1
