"""Two paired per-user figures in, the interval and the p-value of their mean difference out.

Both work on the distinct values of the difference and how often each occurs, which is the same distribution
as drawing users one by one: a rank metric has few distinct values, so a million users cost as much as a
thousand, and memory stays within a few times BLOCK_CELLS numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK_CELLS = 2_000_000  # 16 MB of int64 counts at a time
DECIMALS = 12  # merges differences that differ only by float rounding


@dataclass(frozen=True)
class Interval:
    """A mean difference with its percentile interval: almost always `low <= diff <= high`."""

    diff: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True where the whole interval lies on one side of zero."""
        return self.low > 0.0 or self.high < 0.0


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, *, n_resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The mean of `a - b` over users, with its percentile bootstrap interval.

    Users are the unit that is resampled, with replacement, the same draw for both systems (Efron &
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; paired, for retrieval: Sakai, SIGIR 2006).
    The same seed gives the same interval.

    Args:
        a, b: float (n_users,), one metric of two systems, user by user in the same order.
        level: the coverage aimed at, between 0 and 1.

    Raises:
        ValueError: lengths differ, nothing to compare, or a value that is not finite.
    """
    values, counts = _distinct_differences(a, b)
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples!r}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}")
    n_users = int(counts.sum())
    rng = np.random.default_rng(seed)
    means = np.empty(n_resamples)
    step = max(1, BLOCK_CELLS // len(values))
    for start in range(0, n_resamples, step):
        stop = min(start + step, n_resamples)
        drawn = rng.multinomial(n_users, counts / n_users, size=stop - start)  # (block, n_values)
        means[start:stop] = drawn @ values / n_users
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(diff=float(values @ counts / n_users), low=float(low), high=float(high))


def sign_flip_p_value(a: ArrayLike, b: ArrayLike, *, n_resamples: int = 10_000, seed: int = 0) -> float:
    """The two-sided p-value of "a and b are exchangeable user by user" (Fisher's paired randomisation test).

    Each user's difference keeps its size and gets a random sign; the p-value is the share of such worlds
    whose mean is at least as far from zero, (1 + extreme) / (1 + n_resamples), so never 0 (Phipson & Smyth
    2010). The test of choice for rankings: Smucker, Allan & Carterette, CIKM 2007.

    Raises:
        ValueError: as `paired_bootstrap`.
    """
    values, counts = _distinct_differences(a, b)
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples!r}")
    observed = abs(float(values @ counts))
    sizes, where = np.unique(np.abs(values), return_inverse=True)
    size_counts = np.bincount(where, weights=counts, minlength=len(sizes)).astype(np.int64)
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK_CELLS // len(sizes))
    extreme = 0
    for start in range(0, n_resamples, step):
        block = min(step, n_resamples - start)
        plus = rng.binomial(size_counts, 0.5, size=(block, len(sizes)))
        sums = (2 * plus - size_counts) @ sizes
        extreme += int((np.abs(sums) >= observed - 1e-9 * max(1.0, observed)).sum())
    return (1 + extreme) / (1 + n_resamples)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p-values, under the same names and in the same order as given.

    Sorted p(1) <= ... <= p(m) become max over j <= i of min(1, (m - j + 1) p(j)); reject where the result is
    at most the level wanted for the whole family (Holm, Scandinavian Journal of Statistics 6, 1979).

    Raises:
        ValueError: a p-value outside 0 to 1.
    """
    for name, p in p_values.items():
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"p-values must lie between 0 and 1, got {p!r} for {name!r}")
    adjusted: dict[str, float] = {}
    worst = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        worst = max(worst, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = worst
    return {name: adjusted[name] for name in p_values}


def _distinct_differences(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The distinct values of a - b, rising, and how many users have each."""
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.ndim != 1 or left.shape != right.shape or not left.size:
        raise ValueError(
            "expected two arrays (n_users,) of the same users with n_users > 0, "
            f"got shapes {left.shape} and {right.shape}"
        )
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise ValueError("expected finite per-user figures, got NaN or infinity; leave such users out of both")
    values, counts = np.unique(np.round(left - right, DECIMALS), return_counts=True)
    return values, counts
