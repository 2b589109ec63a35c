"""What the reranker's lists are asked by the clock: at which moments, and what followed."""

from __future__ import annotations

import numpy as np

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
