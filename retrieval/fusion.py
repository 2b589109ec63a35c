"""Many scores of a candidate in, one calibrated score out: a conditional logit fitted on validation lists only.

The probability that candidate i of a list is the one taken is softmax(features @ weights)_i (`retrieval.logit`), with
an L2 penalty chosen by cross-validation. A second, two-number fit (Platt 1999) turns the score
into the probability that the user takes the item next. If one feature alone orders validation better than the fit does
on held-out folds, by more than chance may, that feature alone is used.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from retrieval.logit import Lists, fit_logit
from retrieval.ranks import target_ranks

log = logging.getLogger(__name__)

_PENALTIES = (0.1, 1.0, 10.0, 100.0)
_FOLDS = 4


@dataclass(frozen=True)
class FusionLists:
    """Lists to fit on: features float32 (n_lists, depth, n_features), rows int64 (n_lists, depth) with -1 at padding,
    target int64 (n_lists,): the item row that was taken, whether or not the list holds it.
    context: float32 (n_lists,), the logarithm of 1 + history length."""

    features: np.ndarray
    rows: np.ndarray
    target: np.ndarray
    context: np.ndarray

    def after(self, n: int) -> FusionLists:
        """All lists but the first n."""
        return FusionLists(self.features[n:], self.rows[n:], self.target[n:], self.context[n:])


@dataclass(frozen=True)
class Fusion:
    """A fitted fusion.

    weights: float64 (2 * n_features,): for the features, then for the features times the standardised context, so that
        a short history may trust other sources than a long one.
    calibration: slope and offset of the score's log-odds.
    figures: NDCG@10 on validation: the fusion on held-out folds, each feature alone, and without each part.
    """

    names: tuple[str, ...]
    weights: np.ndarray
    context_mean: float
    context_deviation: float
    calibration: tuple[float, float]
    figures: dict[str, dict[str, float]]

    @property
    def contributions(self) -> dict[str, float]:
        """What each part adds: validation NDCG@10 lost when its features are silenced."""
        return {part: self.figures["fused"]["fitted"] - value for part, value in self.figures["without"].items()}

    def score(self, features: np.ndarray, context: np.ndarray) -> np.ndarray:
        """The score, a log-odds up to a constant: (n_lists, depth, n_features), (n_lists,) -> (n_lists, depth)."""
        return _score(features, (context - self.context_mean) / self.context_deviation, self.weights)

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """The calibrated score in (0, 1), float32: the probability that the user takes the item next."""
        slope, offset = self.calibration
        return (1 / (1 + np.exp(-np.clip(slope * scores.astype(np.float64) + offset, -60, 60)))).astype(np.float32)


def _score(features: np.ndarray, context: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`widen(features, context) @ weights` as float32, without the wide copy."""
    both = features.astype(np.float64) @ weights.reshape(2, -1).T
    return (both[:, :, 0] + np.asarray(context)[:, None] * both[:, :, 1]).astype(np.float32)


def list_ndcg(scores: np.ndarray, rows: np.ndarray, target: np.ndarray, k: int = 10) -> np.ndarray:
    """NDCG@k per list with one relevant item: 1 / log2(1 + rank), 0 where the target is missing or ranked below k.

    Candidates that score the same as the target count as half a rank each, so a constant score earns nothing by luck.
    """
    is_target = rows == target[:, None]
    rank = target_ranks(np.where(rows >= 0, scores, -np.inf), is_target.argmax(axis=1))
    return np.where(is_target.any(axis=1) & (rank <= k), 1 / np.log2(1 + rank), 0.0)


def _calibrate(scores: np.ndarray, rows: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Platt scaling over all candidates of all lists: slope and offset of the log-odds.

    The labels are Platt's: not 1 and 0 but what so many examples can prove, so that validation lists without a single
    mistake do not give a slope without end, which would say 0 or 1 of everything.
    """
    real = rows >= 0
    x = torch.from_numpy(scores[real].astype(np.float64))
    y = torch.from_numpy((rows == target[:, None])[real].astype(np.float64))
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


def fit_fusion(lists: FusionLists, names: Sequence[str], *, seed: int = 0) -> Fusion:
    """Fit on validation lists; the penalty and the choice against single features come from held-out folds.

    Raises:
        ValueError: fewer than 2 lists hold their target, so that nothing can be learned.
    """
    is_target = lists.rows == lists.target[:, None]
    holds = is_target.any(axis=1)
    if holds.sum() < 2:
        raise ValueError(
            f"fit_fusion: expected 2 or more lists that hold their target, got {int(holds.sum())} of {len(holds)}; "
            "give more validation users or a larger candidate depth"
        )
    mean, deviation = float(lists.context.mean()), float(max(lists.context.std(), 1e-6))
    everyone = Lists(lists.features, (lists.context - mean) / deviation, lists.rows, is_target.argmax(axis=1))
    fold = np.random.default_rng(seed).permutation(len(lists.target)) % _FOLDS
    apart = _held_out(everyone, holds, fold)
    held_out = {penalty: float(list_ndcg(found, lists.rows, lists.target).mean()) for penalty, found in apart.items()}
    penalty = max(held_out, key=lambda value: held_out[value])
    by_feature = {
        name: list_ndcg(lists.features[:, :, column], lists.rows, lists.target) for column, name in enumerate(names)
    }
    alone = {name: float(found.mean()) for name, found in by_feature.items()}
    best = max(alone, key=lambda name: alone[name])
    weights = fit_logit(everyone.only(holds), penalty)
    scores = _score(lists.features, everyone.context, weights)
    # Likelihood is not NDCG: with few lists even the fit on all of them can order them worse than one feature does. On
    # held-out folds the best of many features is ahead by chance, so there a standard error is asked for.
    gain = by_feature[best] - list_ndcg(apart[penalty], lists.rows, lists.target)
    fitted = float(list_ndcg(scores, lists.rows, lists.target).mean())
    if alone[best] > fitted or gain.mean() > gain.std() / np.sqrt(len(gain)):
        log.warning(
            "%d validation lists are too few to weigh %d features: %s alone orders better and is the whole fusion; "
            "with more users the others would count too",
            len(lists.target),
            len(names),
            best,
        )
        weights = np.zeros(2 * len(names))
        weights[list(names).index(best)] = 1.0
        scores = _score(lists.features, everyone.context, weights)
    figures = {
        "fused": {
            "held_out": held_out[penalty],
            "fitted": float(list_ndcg(scores, lists.rows, lists.target).mean()),
        },
        "alone": alone,
        "without": _without(everyone, weights, names, lists.target),
    }
    calibration = _calibrate(scores, lists.rows, lists.target)
    return Fusion(tuple(names), weights, mean, deviation, calibration, figures)


def _held_out(lists: Lists, holds: np.ndarray, fold: np.ndarray) -> dict[float, np.ndarray]:
    """Scores of folds that were not fitted on, by penalty; each fit begins where that of the next penalty ended."""
    scores = {penalty: np.zeros(lists.rows.shape, dtype=np.float32) for penalty in _PENALTIES}
    for part in range(_FOLDS):
        test = fold == part
        if not ((holds & ~test).any() and test.any()):
            continue
        fitted, train = None, lists.only(holds & ~test)
        for penalty in sorted(_PENALTIES, reverse=True):
            fitted = fit_logit(train, penalty, fitted)
            scores[penalty][test] = _score(lists.features[test], lists.context[test], fitted)
    return scores


def _without(lists: Lists, weights: np.ndarray, names: Sequence[str], target: np.ndarray) -> dict[str, float]:
    """NDCG@10 with all features of one part set to zero; a part is what stands before the last underscore."""
    result = {}
    parts = [name.rsplit("_", 1)[0] for name in names]
    for part in dict.fromkeys(parts):
        silent = np.array([1.0 if name != part else 0.0 for name in parts])
        scores = _score(lists.features, lists.context, weights * np.concatenate([silent, silent]))
        result[part] = float(list_ndcg(scores, lists.rows, target).mean())
    return result
