"""A head start for new items: as many log-odds as the lists can bear.

What is fitted by likelihood gives a new item the chance that its signals earn, and with few and weak signals that is
seldom a place among the first ten. Somewhat higher it costs known items next to nothing, new ones are found by half as
many users again, and only what is shown gathers the interactions that end its being new. So new items get the largest
head start that costs at most one percent of NDCG@10 over known and new targets together.

On Amazon Scientific's training part, a tenth of the items new: a head start of 0, .25, .5, .75, 1 gives NDCG@10 .1023,
.1021, .1014, .1000, .0983 on all targets and .0685, .0803, .0956, .1097, .1244 on new ones (BERT content: .0707). The
largest one that validation cannot tell from the best (one standard error) is .25 there; but an error shrinks with the
number of users, and what it is worth to show new items does not.
"""

from __future__ import annotations

from dataclasses import replace

from retrieval.fusion import Fusion, FusionLists

COLUMN = "new_item"
STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MOST = 0.01
"""The share of NDCG@10 that a head start may cost at the most."""
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
    if COLUMN not in fusion.names or len(lists) < FEWEST_LISTS:
        return fusion
    column = fusion.names.index(COLUMN)
    new = lists.features[:, :, column] > 0
    if (new & lists.taken).any(axis=1).sum() < FEWEST_FOUND:
        return fusion
    scores = fusion.score(lists.features, lists.context)
    tried = {step: lists.ndcg(scores + step * new).mean() for step in STEPS}
    chosen = max(step for step in STEPS if tried[step] >= (1 - _MOST) * max(tried.values()))
    weights = fusion.weights.copy()
    weights[column] += chosen
    return replace(fusion, weights=weights, figures={**fusion.figures, "head_start": {"log_odds": chosen}})
