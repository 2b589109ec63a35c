"""Where one wanted item stands in rows of scores."""

from __future__ import annotations

import numpy as np


def target_ranks(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Ranks from 1 of one column per row: (n, n_columns), int64 (n,) -> float64 (n,).

    Columns that score the same count half a rank each, so a constant score earns nothing by luck; a target of score
    -inf (masked) ranks last.
    """
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    better = (scores > own).sum(axis=1)
    equal = (scores == own).sum(axis=1) - 1
    rank = 1 + better + equal / 2
    return np.where(np.isneginf(own[:, 0]), float(scores.shape[1]), rank)
