"""The penalty of a conditional logit, chosen on held-out folds.

All features are weighed at once. (First what the sources say, then all of them pulled towards that, did better by time
as long as five items of every user were learned from: .1708 against .1634 on an earlier moment of MovieLens-1M. With
all of them it is .1706 against .1815.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from retrieval.logit import Lists, fit_logit, score_lists
from retrieval.ranks import lists_ndcg

PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
_SCALE_PENALTY = 1.0
"""Only where lists hold no mistake does it matter: there likelihood alone knows no end."""
_LEAST_SCALE = 0.01
"""Of scores in deviations: what was weighed is never turned round."""


@dataclass(frozen=True)
class Folds:
    """Lists in folds, on the others of which something is fitted.

    n_taken: see `FusionLists`. fold: int64 (n_lists,).
    """

    lists: Lists
    n_taken: np.ndarray
    fold: np.ndarray

    def best(self) -> tuple[float, np.ndarray]:
        """The penalty by what was not fitted on, and these scores: float32 (n_lists, depth).

        Of those whose NDCG@10 cannot be told from the best it is the likeliest one. Where lists are few or all easy,
        the best NDCG is so by chance, and a small penalty lets what is rare in them, as new items are, weigh what it
        likes; the likelihood hears of every candidate. Beside an offset it is the likeliest of all.
        """
        scores = self.held_out()
        equal = list(scores)
        if self.lists.offset is None:
            found = {penalty: self.ndcg(tried) for penalty, tried in scores.items()}
            best = max(found.values(), key=np.mean)
            equal = [penalty for penalty, ndcg in found.items() if not beyond_chance(best - ndcg)]
        chosen = max(equal, key=lambda penalty: self.log_likelihood(scores[penalty]).sum())
        return chosen, scores[chosen]

    def log_likelihood(self, scores: np.ndarray) -> np.ndarray:
        """By these scores, of every list that holds something that was taken: float64 (n,)."""
        logits = np.where(self.lists.rows < 0, -np.inf, scores.astype(np.float64))
        holds = np.any(self.lists.taken, axis=1)
        bare = replace(self.lists, features=self.lists.features[:, :, :0])  # they are most of the memory
        return bare.only(holds).log_likelihood(logits[holds])

    def ndcg(self, scores: np.ndarray) -> np.ndarray:
        """NDCG@10 of every list by these scores: float64 (n_lists,)."""
        return lists_ndcg(scores, self.lists.rows, self.lists.taken, self.n_taken)

    def held_out(self) -> dict[float, np.ndarray]:
        """Scores of every fold by what was fitted on the others, by penalty: float32 (n_lists, depth).

        Only lists that hold something that was taken can be fitted on.
        """
        holds = self.lists.taken.any(axis=1)
        scores = {penalty: np.zeros(self.lists.rows.shape, dtype=np.float32) for penalty in PENALTIES}
        for part in np.unique(self.fold):
            test = self.fold == part
            if not (holds & ~test).any():
                continue
            train, weights = self.lists.only(holds & ~test), None
            for penalty in sorted(PENALTIES, reverse=True):  # each fit begins where that of the next penalty ended
                weights = fit_logit(train, penalty, weights)
                used = scaled(train, weights)
                scores[penalty][test] = score_lists(self.lists.features[test], self.lists.context[test], used)
                if self.lists.offset is not None:
                    scores[penalty][test] += self.lists.offset[test]
        return scores


def beyond_chance(gain: np.ndarray, *, errors: float = 1.0) -> bool:
    """Whether the mean of a gain per list is above so many of its standard errors."""
    return bool(gain.mean() > errors * gain.std() / np.sqrt(len(gain)))


def fit_scaled(lists: Lists, penalty: float) -> np.ndarray:
    """The weights of `fit_logit`, `scaled`."""
    return scaled(lists, fit_logit(lists, penalty))


def scaled(lists: Lists, weights: np.ndarray) -> np.ndarray:
    """The weights, as large as is likeliest for these lists: a penalty makes them smaller than that.

    How they stand to each other stays, so a large penalty, which few lists need, costs no confidence (as in the relaxed
    lasso of Meinshausen 2007). Beside an offset they stay as they are: how much they count is what was fitted.
    """
    if lists.offset is not None:
        return weights
    scores = score_lists(lists.features, lists.context, weights)
    spread = max(float(scores[lists.rows >= 0].std()), 1e-12)
    summed = Lists((scores / spread)[:, :, None], np.empty((len(scores), 0)), lists.rows, lists.taken)
    return weights * max(float(fit_logit(summed, _SCALE_PENALTY)[0]), _LEAST_SCALE) / spread
