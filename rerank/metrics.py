"""NDCG@10 of scored lists, for early stopping; ties count against us, so a constant scorer gains nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ndcg_at_10(scores: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> float:
    """Mean of DCG / ideal DCG with gain = label and discount 1 / log2(rank + 1) (Järvelin and Kekäläinen 2002).

    Equal scores: the lower label first. A list with a score that is no number counts 0. Lists without a positive label
    are left out; nan if there is none left.
    """
    found = []
    for mine, truth in zip(scores, labels, strict=True):
        if truth.max(initial=0) <= 0:
            continue
        if np.isnan(mine).any():
            found.append(0.0)
            continue
        discounts = 1 / np.log2(np.arange(2, min(10, len(truth)) + 2))
        order = np.lexsort((truth, -mine))[:10]
        best = np.sort(truth)[::-1][:10]
        found.append(float((truth[order] * discounts).sum() / (best * discounts).sum()))
    return float(np.mean(found)) if found else float("nan")
