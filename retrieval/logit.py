"""The conditional logit (McFadden 1974): of the candidates of a list one is taken, with probability softmax(x @ w).

Maximum likelihood with an L2 penalty, by Newton's method: the problem is convex and has some hundred unknowns, so that
the exact second derivative costs less than the many steps of a first-order method (3,145 lists of 100 candidates
with 84 columns: 1.1 to 1.2 s where L-BFGS took 2.4 to 3.5 s, one thread, at the same optimum).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

_BLOCK = 256
"""Lists at a time: bounds the memory of the widened, double-precision features."""
_MAX_STEPS = 50
_TOLERANCE = 1e-9
_HALVINGS = 20


@dataclass(frozen=True)
class Lists:
    """Lists; those that are fitted on hold what was taken.

    features: float32 (n_lists, depth, n_features). context: float (n_lists, n_contexts), standardised. rows: int64
    (n_lists, depth), -1 at padding. place: int64 (n_lists,), where in its list the item stands that was taken.
    offset: float (n_lists, depth), a part of the logits that is not fitted; None where there is none.
    """

    features: np.ndarray
    context: np.ndarray
    rows: np.ndarray
    place: np.ndarray
    offset: np.ndarray | None = None

    def only(self, chosen: np.ndarray) -> Lists:
        """Some of the lists, bool (n_lists,)."""
        offset = None if self.offset is None else self.offset[chosen]
        return Lists(self.features[chosen], self.context[chosen], self.rows[chosen], self.place[chosen], offset)

    def first(self, n: int) -> Lists:
        """The lists with their first n features."""
        return replace(self, features=self.features[:, :, :n])

    @property
    def n_blocks(self) -> int:
        """How often every feature has a weight: once, and once more with each context."""
        return 1 + self.context.shape[1]

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Columns float64 (n, depth, n_blocks * n_features), the offset (n, depth) with -inf at padding, and place
        (n,), some lists at a time."""
        for start in range(0, len(self.place), _BLOCK):
            part = slice(start, start + _BLOCK)
            offset = 0.0 if self.offset is None else self.offset[part]
            offset = np.where(self.rows[part] < 0, -np.inf, offset)
            yield widen(self.features[part], self.context[part]), offset, self.place[part]


def widen(features: np.ndarray, context: np.ndarray) -> np.ndarray:
    """The features, and the features times each of the list's contexts, (n_lists, n_contexts):
    float64 (n_lists, depth, (1 + n_contexts) * n_features)."""
    times = [features * one[:, None, None] for one in context.T]
    return np.concatenate([features, *times], axis=2, dtype=np.float64)


def fit_logit(
    lists: Lists, penalty: float, start: np.ndarray | None = None, *, towards: np.ndarray | None = None
) -> np.ndarray:
    """The weights with the least negative log-likelihood plus penalty * |weights - towards|^2.

    Args:
        start: where the search begins. towards: zero, if not given.

    Returns:
        float64 (n_blocks * n_features,).
    """
    towards = np.zeros(lists.n_blocks * lists.features.shape[2]) if towards is None else towards
    weights = towards.copy() if start is None else start.copy()
    value = _value(lists, weights, penalty, towards)
    for _ in range(_MAX_STEPS):
        gradient, curvature = _derivatives(lists, weights, penalty, towards)
        step = np.linalg.solve(curvature, gradient)
        gain = float(gradient @ step)
        if gain <= _TOLERANCE * max(1, len(lists.place)):
            break
        length = 1.0
        for _ in range(_HALVINGS):  # a full step may jump over the minimum where the softmax saturates
            tried = weights - length * step
            new = _value(lists, tried, penalty, towards)
            if new <= value - 0.1 * length * gain:
                weights, value = tried, new
                break
            length /= 2
        else:
            break
    return weights


def _value(lists: Lists, weights: np.ndarray, penalty: float, towards: np.ndarray) -> float:
    total = penalty * float((weights - towards) @ (weights - towards))
    for columns, offset, place in lists.blocks():
        logits = columns @ weights + offset
        top = logits.max(axis=1)
        total += float((np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top).sum())
        total -= float(logits[np.arange(len(place)), place].sum())
    return total


def _derivatives(
    lists: Lists, weights: np.ndarray, penalty: float, towards: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient (n,) and second derivative (n, n) of `_value`."""
    gradient = 2 * penalty * (weights - towards)
    curvature = 2 * penalty * np.eye(len(weights))
    for columns, offset, place in lists.blocks():
        logits = columns @ weights + offset
        share = np.exp(logits - logits.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        mean = np.einsum("nd,ndf->nf", share, columns, optimize=True)
        gradient += mean.sum(axis=0) - columns[np.arange(len(place)), place].sum(axis=0)
        scaled = (columns * np.sqrt(share)[:, :, None]).reshape(-1, columns.shape[2])
        curvature += scaled.T @ scaled - mean.T @ mean
    return gradient, curvature
