"""A conditional logit in one step or two, its penalties chosen on held-out folds.

Many features at once need many lists. In two steps the first features (what stage one knows) are fitted alone, then
all of them, pulled towards what the first have found: with few lists, what is added does no harm. On MovieLens-1M held
out by the clock (450 validation users) NDCG@10 on held-out folds fell from .047 to .043 when 28 details were fitted at
once. The pull is the strongest that folds cannot tell from the best one (the one-standard-error rule of Breiman et al.
1984): folds lie at the same moments and do not show what changes from one moment to the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.logit import Lists, fit_logit
from retrieval.ranks import target_ranks

PENALTIES = (0.1, 1.0, 10.0, 100.0)
PULLS = (*PENALTIES, 1_000.0, math.inf)
"""Penalties of the second step; the last leaves what the first features have found."""
Penalties = tuple[tuple[int, float], ...]
"""Per step how many features, from the first on, are fitted and how strongly they are pulled to the step before."""


@dataclass(frozen=True)
class Steps:
    """Penalties step by step, each with the highest NDCG@10 on folds that were not fitted on.

    holds: bool (n_lists,), the lists that hold their target, which alone can be fitted on. target: int64 (n_lists,),
    see `FusionLists`. fold: int64 (n_lists,), from 0 to n_folds - 1. users: int64 (n_lists,), whose list it is.
    """

    lists: Lists
    holds: np.ndarray
    target: np.ndarray
    fold: np.ndarray
    n_folds: int
    users: np.ndarray

    def penalties(self, n_first: int) -> Penalties:
        """Of one step, or of two where some features come first."""
        n_features = self.lists.features.shape[2]
        if not 0 < n_first < n_features:
            return self._best((), n_features, PENALTIES)
        return self._best(self._best((), n_first, PENALTIES), n_features, PULLS, as_good=True)

    def held_out(self, penalties: Penalties) -> np.ndarray:
        """Scores of every fold by what was fitted on the others: float32 (n_lists, depth)."""
        return self._tried(penalties[:-1], *penalties[-1:])[penalties[-1][1]]

    def _best(
        self, before: Penalties, n_features: int, choices: Sequence[float], *, as_good: bool = False
    ) -> Penalties:
        """A further step with the best penalty, or the highest one that is as good as that."""
        scores = self._tried(before, *((n_features, penalty) for penalty in choices))
        found = {penalty: list_ndcg(tried, self.lists.rows, self.target) for penalty, tried in scores.items()}
        best = max(found, key=lambda penalty: found[penalty].mean())
        if as_good:
            best = max(penalty for penalty in choices if self._lost_by_chance(found[best] - found[penalty]))
        return (*before, (n_features, best))

    def _lost_by_chance(self, lost: np.ndarray) -> bool:
        """Whether the mean is at most one standard error above zero; the lists of a user go together."""
        own = np.unique(self.users, return_inverse=True)[1]
        apart = np.bincount(own, lost - lost.mean())
        return bool(lost.sum() <= np.sqrt((apart**2).sum()))

    def _tried(self, before: Penalties, *choices: tuple[int, float]) -> dict[float, np.ndarray]:
        """Held-out scores by the penalty of the last step; each fit begins where that of the next penalty ended."""
        scores = {penalty: np.zeros(self.lists.rows.shape, dtype=np.float32) for _, penalty in choices}
        for part in range(self.n_folds):
            test = self.fold == part
            if not ((self.holds & ~test).any() and test.any()):
                continue
            train = self.lists.only(self.holds & ~test)
            towards, weights = fit_steps(train, before), None
            for n_features, penalty in sorted(choices, key=lambda choice: -choice[1]):
                weights = _fit_step(train, n_features, penalty, towards, weights)
                features = self.lists.features[test, :, :n_features]
                scores[penalty][test] = score_lists(features, self.lists.context[test], weights)
                if self.lists.offset is not None:
                    scores[penalty][test] += self.lists.offset[test]
        return scores


def fit_steps(lists: Lists, penalties: Penalties) -> np.ndarray:
    """The weights after all steps: float64 (n_blocks * n_features,)."""
    weights = np.empty(0)
    for n_features, penalty in penalties:
        weights = _fit_step(lists, n_features, penalty, weights)
    return weights


def _fit_step(
    lists: Lists, n_features: int, penalty: float, before: np.ndarray, start: np.ndarray | None = None
) -> np.ndarray:
    """One step: n_features are pulled to the weights of the step before, what is new among them to zero."""
    towards = np.zeros((lists.n_blocks, n_features))
    towards[:, : len(before) // lists.n_blocks] = before.reshape(lists.n_blocks, -1)
    if math.isinf(penalty):
        return towards.ravel()
    return fit_logit(lists.first(n_features), penalty, start, towards=towards.ravel())


def score_lists(features: np.ndarray, context: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`widen(features, context) @ weights` as float32, without the wide copy."""
    parts = features.astype(np.float64) @ weights.reshape(1 + context.shape[1], -1).T
    return (parts[:, :, 0] + (context[:, None] * parts[:, :, 1:]).sum(axis=2)).astype(np.float32)


def list_ndcg(scores: np.ndarray, rows: np.ndarray, target: np.ndarray, k: int = 10) -> np.ndarray:
    """NDCG@k per list with one relevant item: 1 / log2(1 + rank), 0 where the target is missing or ranked below k.

    Candidates that score the same as the target count as half a rank each, so a constant score earns nothing by luck.
    """
    is_target = rows == target[:, None]
    rank = target_ranks(np.where(rows >= 0, scores, -np.inf), is_target.argmax(axis=1))
    return np.where(is_target.any(axis=1) & (rank <= k), 1 / np.log2(1 + rank), 0.0)
