"""A head start for new items: as many log-odds as the lists can bear.

What is fitted by likelihood gives a new item the chance that its signals earn, and with few and weak signals that is
seldom a place among the first ten. Somewhat higher it costs known items next to nothing, new ones are found by half as
many users again, and only what is shown gathers the interactions that end its being new. So new items get the largest
head start that validation cannot tell from the best one (the one-standard-error rule of Breiman et al. 1984).

On Amazon Scientific's training part, a tenth of the items new, without GPT-2: .5 is chosen; then NDCG@10 is .1041 on
all items (.1039 without), .116 on new ones instead of .090, and 1.0 would give .102 and .140.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from retrieval.fusion import Fusion, FusionLists
from retrieval.logit_steps import list_ndcg

COLUMN = "new_item"
STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MOST = 0.01
"""The share of NDCG@10 that a head start may cost at the most, however wide the standard error is."""
FEWEST_LISTS = 200
"""With fewer a loss that matters may not show at all."""
FEWEST_FOUND = 20
"""So many lists must hold a new item that was taken: with fewer there is nothing to win that could be seen. (Held out
by the clock MovieLens-1M has 0 to 9, and .75 or 1 was chosen, at the cost of a hundredth of the candidates' recall.)"""


def give_head_start(fusion: Fusion, lists: FusionLists) -> Fusion:
    """The fusion with a higher weight of `new_item`, chosen on lists with new items among targets and candidates.

    Calibration stays: what is said of known items is still the probability, what is said of new ones is higher.

    Args:
        lists: of worlds in which some items are new; with fewer than FEWEST_LISTS, or FEWEST_FOUND that hold a target
            that is new, the fusion stays as it is.
    """
    if COLUMN not in fusion.names or len(lists.target) < FEWEST_LISTS:
        return fusion
    column = fusion.names.index(COLUMN)
    new = lists.features[:, :, column] > 0
    if (new & (lists.rows == lists.target[:, None])).sum() < FEWEST_FOUND:
        return fusion
    scores = fusion.score(lists.features, lists.context)
    tried = {step: list_ndcg(scores + step * new, lists.rows, lists.target) for step in STEPS}
    best = max(STEPS, key=lambda step: tried[step].mean())
    chosen = max(step for step in STEPS if _as_good(tried[step], tried[best]))
    weights = fusion.weights.copy()
    weights[column] += chosen
    return replace(fusion, weights=weights, figures={**fusion.figures, "head_start": {"log_odds": chosen}})


def _as_good(figures: np.ndarray, best: np.ndarray) -> bool:
    """Whether the mean is at most a standard error of the difference, and at most a share _MOST, below the best."""
    lost = best - figures
    error = lost.std() / np.sqrt(len(lost))
    return bool(lost.mean() <= min(error, _MOST * best.mean()))
