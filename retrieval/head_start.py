"""A head start for new items: as many log-odds as the lists can bear.

What is fitted by likelihood gives a new item the chance that its signals earn, and with few and weak signals that is
seldom a place among the first ten. Somewhat higher it costs known items little, new ones are found by half as many
users again, and only what is shown gathers the interactions that end its being new. So new items get the largest head
start that costs at most two percent of NDCG@10 over known and new targets together.

The cost is the one to expect by the fusion's own probabilities, which were fitted on these lists, and not the one that
is counted on what was taken there: of some 2,000 lists 80 hold a new item that was taken, and a count of the cost has a
standard error of 1 percent. On Amazon Scientific without its last item and without its last two, a tenth of the items
new, percent of NDCG@10 (on new items it is .069 / .090 without a head start, BERT content alone .070 in the first):

    head start                          .2            .4            .6            .8             1
    expected                       .1 / .1       .4 / .4     1.1 / 1.2     2.3 / 2.7     3.8 / 4.4
    counted on these lists       .1 / -1.0     1.3 / -.4       .9 / .5     1.4 / 1.1     3.1 / 2.3
    lost by 8,400 others          -.1 / .5       .2 / .8      .9 / 1.8     2.1 / 3.1     3.5 / 4.4
    NDCG@10 on new items       .077 / .096   .087 / .103   .097 / .110   .110 / .119   .120 / .127
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.special import softmax

from retrieval.fusion import Fusion, FusionLists
from retrieval.ranks import expected_ndcg

COLUMN = "new_item"
STEPS = tuple(step / 20 for step in range(21))
"""Rising. The most bounds what is told of items so rare that hardly anything is lost by them."""
MOST = 0.02
"""The share of NDCG@10 that a head start may cost at the most."""
FEWEST_LISTS = 200
"""With fewer the probabilities are those of chance."""
FEWEST_FOUND = 20
"""So many lists must hold a new item that was taken: with fewer the chance of new items is hardly known. (Held out by
the clock MovieLens-1M has 0 to 9, and .75 or 1 was chosen, at the cost of a hundredth of the candidates' recall.)"""


@dataclass(frozen=True)
class HeadStart:
    """log_odds: what a new item's score is raised by. cost: the share of NDCG@10 to be expected to be lost by it."""

    log_odds: float
    cost: float


def choose_head_start(fusion: Fusion, lists: FusionLists) -> HeadStart | None:
    """The largest within the bound, on lists with new items among targets and candidates.

    Args:
        lists: of worlds in which some items are new.

    Returns:
        None with fewer than FEWEST_LISTS, or FEWEST_FOUND that hold a target that is new.
    """
    if COLUMN not in fusion.names or len(lists) < FEWEST_LISTS:
        return None
    told = lists.only(np.any(lists.taken, axis=1))
    new = told.features[:, :, fusion.names.index(COLUMN)] > 0
    if (new & told.taken).any(axis=1).sum() < FEWEST_FOUND:
        return None
    scores = np.where(told.rows >= 0, fusion.score(told.features, told.context), -np.inf).astype(np.float64)
    probability = softmax(scores, axis=1)
    # The further from the order of the probabilities, the less: what a step costs rises with it.
    expected = np.array([expected_ndcg(scores + step * new, probability).mean() for step in STEPS])
    cost = 1 - expected / expected[0]
    chosen = int(np.flatnonzero(cost <= MOST)[-1])
    return HeadStart(STEPS[chosen], float(cost[chosen]))


def with_head_start(fusion: Fusion, start: HeadStart | None) -> Fusion:
    """The fusion with a higher weight of `new_item`, and the head start in its figures.

    Calibration stays: what is said of known items is still the probability, what is said of new ones is higher.
    """
    if start is None:
        return fusion
    weights = fusion.weights.copy()
    weights[fusion.names.index(COLUMN)] += start.log_odds
    return replace(fusion, weights=weights, figures={**fusion.figures, "head_start": asdict(start)})
