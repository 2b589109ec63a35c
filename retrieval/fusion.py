"""Many scores of a candidate in, one calibrated score out: a conditional logit fitted on validation lists only.

The probability that candidate i of a list is the one taken is softmax(features @ weights)_i (`retrieval.logit`), with
an L2 penalty chosen by cross-validation (`retrieval.logit_folds`). A further, two-number fit (Platt 1999) turns the
score into the probability that the user takes the item.

Weights count only where held-out folds tell their gain from chance. Otherwise all sources count alike, which few lists
are not enough to better. (NDCG@10 of the fusion without GPT-2 on lists of other users, means of ten draws of 60, 150,
400 validation users of Amazon Scientific: .104, .109, .109, of 40, 100, 250 of MovieLens-1M by time: .120, .121, .128.
With the best penalty, unscaled features, and the best feature alone where it orders better: .088, .104, .106 and .110,
.118, .128. On all of them both ways are the same.)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from retrieval.logit import Lists, score_lists
from retrieval.logit_folds import Folds, beyond_chance, fit_scaled, scaled
from retrieval.ranks import lists_ndcg

log = logging.getLogger(__name__)

_FOLDS, _CLEAR = 4, 2.0
"""_CLEAR in standard errors: what comes beside a base costs time in serving, so it has to be clearly of use."""


@dataclass(frozen=True)
class FusionLists:
    """Lists to fit on: features float32 (n_lists, depth, n_features), rows int64 (n_lists, depth) with -1 at padding.
    taken: bool (n_lists, depth), the candidates that were taken. n_taken: int64 (n_lists,), how many items were taken,
    also such as the list does not hold.
    context: float32 (n_lists, n_contexts), what else may count (see `retrieval.two_stage.context_of`), nan where it is
    not known.
    users: int64 (n_lists,), whose list it is: all lists of a user are in one fold; None where everybody has one."""

    features: np.ndarray
    rows: np.ndarray
    taken: np.ndarray
    n_taken: np.ndarray
    context: np.ndarray
    users: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        features: np.ndarray,
        rows: np.ndarray,
        wanted: Sequence[np.ndarray] | np.ndarray,
        context: np.ndarray,
        users: np.ndarray | None = None,
    ) -> FusionLists:
        """Lists by what was taken, whether or not a list holds it: distinct item rows, int64, per list."""
        found = [np.isin(own, taken) & (own >= 0) for own, taken in zip(rows, wanted, strict=True)]
        n_taken = np.array([np.size(taken) for taken in wanted], dtype=np.int64)
        return cls(features, rows, np.array(found).reshape(rows.shape), n_taken, context, users)

    def __len__(self) -> int:
        return len(self.rows)

    def ndcg(self, scores: np.ndarray) -> np.ndarray:
        """NDCG@10 of every list by these scores: float64 (n_lists,)."""
        return lists_ndcg(scores, self.rows, self.taken, self.n_taken)

    def only(self, chosen: np.ndarray) -> FusionLists:
        """Some of the lists, bool (n_lists,)."""
        users = None if self.users is None else self.users[chosen]
        features, rows, context = self.features[chosen], self.rows[chosen], self.context[chosen]
        return FusionLists(features, rows, self.taken[chosen], self.n_taken[chosen], context, users)

    @property
    def owners(self) -> np.ndarray:
        """The user of every list, int64 (n_lists,)."""
        return np.arange(len(self)) if self.users is None else self.users

    def folds(self, n: int, seed: int) -> np.ndarray:
        """The fold of every list at random: int64 (n_lists,), from 0 to n - 1."""
        own = np.unique(self.owners, return_inverse=True)[1]
        return (np.random.default_rng(seed).permutation(int(own.max(initial=-1)) + 1) % n)[own]


@dataclass(frozen=True)
class Fusion:
    """A fitted fusion.

    weights: float64 ((1 + n_contexts) * n_features,): for the features, then for the features times each standardised
        context, so that a short history may trust other sources than a long one.
    context_mean, context_deviation: float64 (n_contexts,), of the contexts that count. One that is not known of a list
        is taken for the mean.
    calibration: slope and offset of the score's log-odds.
    figures: NDCG@10 on validation: the fusion on held-out folds, each feature alone, and without each part.
    """

    names: tuple[str, ...]
    weights: np.ndarray
    context_mean: np.ndarray
    context_deviation: np.ndarray
    calibration: tuple[float, float]
    figures: dict[str, dict[str, float]]

    @property
    def by_feature(self) -> np.ndarray:
        """The weights, a column per feature: float64 (1 + n_contexts, n_features)."""
        return self.weights.reshape(-1, len(self.names))

    @property
    def contributions(self) -> dict[str, float]:
        """What each part adds: validation NDCG@10 lost when its features are silenced."""
        return {part: self.figures["fused"]["fitted"] - value for part, value in self.figures["without"].items()}

    def score(self, features: np.ndarray, context: np.ndarray) -> np.ndarray:
        """The score, a log-odds up to a constant: (n_lists, depth, n_features), (n_lists, n_contexts or more) ->
        (n_lists, depth)."""
        return score_lists(features, _standard(context, self.context_mean, self.context_deviation), self.weights)

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """The calibrated score in (0, 1), float32: the probability that the user takes the item next."""
        slope, offset = self.calibration
        return (1 / (1 + np.exp(-np.clip(slope * scores.astype(np.float64) + offset, -60, 60)))).astype(np.float32)


def _standard(context: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The contexts that count in deviations from their mean: float64 (n_lists, n_contexts), 0 where not known."""
    return np.nan_to_num((context[:, : len(mean)] - mean) / deviation, nan=0.0)


def _moments(context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the contexts before the first of which nothing is known."""
    known = np.logical_and.accumulate(np.isfinite(context).any(axis=0))
    counting = context[:, known].astype(np.float64)
    return np.nanmean(counting, axis=0), np.maximum(np.nanstd(counting, axis=0), 1e-6)


def _calibrate(scores: np.ndarray, rows: np.ndarray, taken: np.ndarray) -> tuple[float, float]:
    """Platt scaling over all candidates of all lists: slope and offset of the log-odds.

    The labels are Platt's: not 1 and 0 but what so many examples can prove, so that validation lists without a single
    mistake do not give a slope without end, which would say 0 or 1 of everything.
    """
    real = rows >= 0
    x = torch.from_numpy(scores[real].astype(np.float64))
    y = torch.from_numpy(taken[real].astype(np.float64))
    if not 0 < float(y.mean()) < 1:
        return 1.0, 0.0
    n_taken, n_left = float(y.sum()), float((1 - y).sum())
    y = torch.where(y > 0, (n_taken + 1) / (n_taken + 2), 1 / (n_left + 2))
    parameters = torch.tensor([1.0, float(torch.logit(y.mean()))], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(parameters[0] * x + parameters[1], y)
        loss.backward()
        return loss

    optimiser.step(closure)  # pyright: ignore[reportArgumentType]
    slope, offset = (float(value) for value in parameters.detach())
    # A slope that is not positive would turn the order round; then there is nothing to calibrate.
    return (slope, offset) if slope > 0 else (1.0, offset)


@dataclass(frozen=True)
class CrossFitted:
    """A fusion, and what fits on the other folds score its lists: float32 (n_lists, depth).

    Beside scores of a fusion that saw the very lists, whatever is added would seem to add little.
    """

    fusion: Fusion
    scores: np.ndarray


@threadpool_limits.wrap(limits=1, user_api="blas")
def cross_fit(
    lists: FusionLists, names: Sequence[str], *, base: CrossFitted | None = None, seed: int = 0
) -> CrossFitted:
    """Fit on validation lists; penalties, and whether weights count at all, come from held-out folds.

    Args:
        base: a fusion of the first features, with scores of these lists; only what stands after them is fitted, and
            how much the base counts beside it. Where it makes what was taken not clearly likelier, or orders worse, the
            base's order stands.

    In one thread: where a core is busy with other things, those of many small products only wait for each other (on two
    cores, one of them busy, a small fit took more than five minutes instead of 5 s).

    Raises:
        ValueError: fewer than 2 lists hold something that was taken, so that nothing can be learned.
    """
    holds = np.any(lists.taken, axis=1)
    if holds.sum() < 2:
        raise ValueError(
            f"fusion: expected 2 or more validation users with something they took among their candidates, got "
            f"{int(holds.sum())} of {len(holds)}; give more users with 2 or more interactions, or deeper candidates"
        )
    given = None if base is None else base.fusion
    mean, deviation = _moments(lists.context) if given is None else (given.context_mean, given.context_deviation)
    standard = replace(lists, context=_standard(lists.context, mean, deviation))
    beside = _beside(base, standard)
    folds = Folds(beside, lists.n_taken, lists.folds(_FOLDS, seed))
    penalty, held_out = folds.best()
    told = beside.only(holds)
    found = _Weighed(_joined(given, fit_scaled(told, penalty)), held_out, lists.ndcg(held_out))
    before = _alike(standard, names, told) if base is None else _alone(base, standard)
    gain = found.ndcg - before.ndcg
    if not (beyond_chance(gain) if base is None else gain.mean() > 0 and _likelier(folds, held_out)):
        what = "%d validation lists tell no weights from chance (NDCG@10 %+.4f): "
        if base is None:
            log.warning(
                what + "all sources count alike; with more users better ones count more", len(gain), gain.mean()
            )
        else:
            log.info(what + "nothing counts beside the base", len(gain), gain.mean())
        found = before
    scores = score_lists(lists.features, standard.context, found.weights)
    figures = {
        "fused": {"held_out": float(found.ndcg.mean()), "fitted": float(lists.ndcg(scores).mean())},
        "alone": {name: float(lists.ndcg(lists.features[:, :, i]).mean()) for i, name in enumerate(names)},
        "without": _without(standard, found.weights, names),
    }
    calibration = _calibrate(scores, lists.rows, lists.taken)
    return CrossFitted(Fusion(tuple(names), found.weights, mean, deviation, calibration, figures), found.scores)


@dataclass(frozen=True)
class _Weighed:
    """Weights of all features, the lists' scores by fits that did not see them, and NDCG@10 of every list by these."""

    weights: np.ndarray
    scores: np.ndarray
    ndcg: np.ndarray


def _alike(lists: FusionLists, names: Sequence[str], told: Lists) -> _Weighed:
    """The sum of all sources' scores and ranks, each in its spread; told: the lists that hold what was taken."""
    weights = np.zeros((1 + lists.context.shape[1], len(names)))
    weights[0] = np.array([name.endswith(("_score", "_rank")) for name in names]) / told.spread
    weights = scaled(told, weights.ravel())
    scores = score_lists(lists.features, lists.context, weights)
    return _Weighed(weights, scores, lists.ndcg(scores))


def _likelier(beside: Folds, scores: np.ndarray) -> bool:
    """Whether what was taken is clearly likelier by these scores than by the base alone, however much that counts.

    NDCG@10 hears of ten places; the likelihood of every candidate, so that it tells a gain from chance by far fewer
    lists: +.0001 +- .0004 of NDCG@10 on Amazon Scientific is +.0082 +- .0025 of log-likelihood, +.0018 +- .0019 on
    MovieLens-1M is +.019 +- .007.
    """
    alone = replace(beside, lists=replace(beside.lists, features=beside.lists.features[:, :, :1])).best()[1]
    return beyond_chance(beside.log_likelihood(scores) - beside.log_likelihood(alone), errors=_CLEAR)


def _alone(base: CrossFitted, lists: FusionLists) -> _Weighed:
    """The base, where nothing counts beside it."""
    beside = lists.features.shape[2] - len(base.fusion.names)
    nothing = np.zeros(1 + (1 + lists.context.shape[1]) * beside)
    return _Weighed(_joined(base.fusion, nothing), base.scores, lists.ndcg(base.scores))


def _beside(base: CrossFitted | None, lists: FusionLists) -> Lists:
    """The features that are fitted: all; or beside a base, which is given, its own score once more, and what stands
    after its features, as it is and times each context.

    What comes beside a base mostly says a part of the same: where a history model orders as well as the base, the
    likeliest sum of both holds two thirds of it, and the whole of it leaves the model a third of its weight.
    """
    if base is None:
        return Lists(lists.features, lists.context, lists.rows, lists.taken)
    more = lists.features[:, :, len(base.fusion.names) :]
    times = [more * one[:, None, None] for one in lists.context.T]
    columns = np.concatenate([base.scores[:, :, None], more, *times], axis=2, dtype=np.float32)
    return Lists(columns, lists.context[:, :0], lists.rows, lists.taken, base.scores)


def _joined(base: Fusion | None, weights: np.ndarray) -> np.ndarray:
    """The base's weights and those fitted beside them (see `_beside`), as one fusion has them."""
    if base is None:
        return weights
    n_blocks = 1 + len(base.context_mean)
    own = (1 + weights[0]) * base.by_feature
    return np.concatenate([own, weights[1:].reshape(n_blocks, -1)], axis=1).ravel()


def _without(lists: FusionLists, weights: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """NDCG@10 with all features of one part set to zero; a part is what stands before the last underscore."""
    result = {}
    parts = [name.rsplit("_", 1)[0] for name in names]
    for part in dict.fromkeys(parts):
        silent = np.array([1.0 if name != part else 0.0 for name in parts])
        scores = score_lists(lists.features, lists.context, weights * np.tile(silent, 1 + lists.context.shape[1]))
        result[part] = float(lists.ndcg(scores).mean())
    return result
