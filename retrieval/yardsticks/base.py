"""The seam of the yardsticks: training histories in, scores of all items for given users out.

A yardstick chooses its settings on the same held-out interactions as a fit (`retrieval.fit.hold_out`), is then fitted
on everything before the test targets, and is asked for its 100 best of all items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from retrieval.config import Config
from retrieval.data import Interactions
from retrieval.held_out import held_out_of
from retrieval.histories import histories_of
from retrieval.ranks import rank_gains, target_ranks
from retrieval.sources.base import largest_columns
from retrieval.stage_one import Validation

DEPTH = 100
BLOCK_CELLS = 16_000_000  # scores looked at together: 64 MB
Settings = dict[str, float]
Scorer = Callable[[np.ndarray, Sequence[np.ndarray]], np.ndarray]
"""User rows int64 (n,) and their histories -> float32 (n, n_items); an item without any evidence has -inf."""


@dataclass(frozen=True)
class Task:
    """What a yardstick may see.

    histories: per user row everything before the test targets, int64, oldest first.
    base: the same without the validation targets. validation: the held-out items.
    text_vectors: float32 (n_items, dim), length 1, for yardsticks that read; None where there are none.
    """

    histories: list[np.ndarray]
    base: list[np.ndarray]
    validation: Validation
    n_items: int
    text_vectors: np.ndarray | None = field(default=None, repr=False)
    seed: int = 0
    device: str = "auto"

    @property
    def keep_seen(self) -> bool:
        """Whether seen items may come again."""
        return self.validation.keep_seen


@dataclass(frozen=True)
class Tuned:
    """A yardstick fitted on all training histories; its settings and the NDCG@10 they had on validation."""

    scorer: Scorer
    settings: Settings
    validation_ndcg: float


@dataclass(frozen=True)
class Measurement:
    """What a yardstick found: rows int64 (n_users, 100), best first, -1 at padding."""

    rows: np.ndarray
    settings: Settings
    validation_ndcg: float
    fit_seconds: float
    rank_seconds: float


def make_task(
    interactions: Interactions, n_items: int, config: Config, *, text_vectors: np.ndarray | None = None
) -> Task:
    """The task of these training interactions, with the validation that `fit` holds out under the same configuration.

    Raises:
        ValueError: nothing can be held out (see `held_out_of`).
    """
    held = held_out_of(interactions, config)
    return Task(
        histories_of(interactions), held.base, held.validation, n_items, text_vectors, config.seed, config.device
    )


def measure_yardstick(
    fit: Callable[[Task], Tuned],
    task: Task,
    users: np.ndarray,
    histories: Sequence[np.ndarray],
    seen: Sequence[np.ndarray],
) -> Measurement:
    """Fit a yardstick and rank all items for these users; `seen` rows are left out."""
    started = time.monotonic()
    tuned = fit(task)
    fitted = time.monotonic()
    rows = rank(tuned.scorer, users, histories, seen, task.n_items)
    return Measurement(
        rows, tuned.settings, tuned.validation_ndcg, fitted - started, rank_seconds=time.monotonic() - fitted
    )


def rank(
    scorer: Scorer, users: np.ndarray, histories: Sequence[np.ndarray], seen: Sequence[np.ndarray], n_items: int
) -> np.ndarray:
    """The DEPTH best rows of each user: int64, equal scores by lower row, -1 where fewer have a score."""
    ranked = np.full((len(users), DEPTH), -1, dtype=np.int64)
    depth = min(DEPTH, n_items)
    for part in blocks(len(users), n_items):
        scores = scorer(users[part], histories[part])
        mask_rows(scores, seen[part])
        columns = largest_columns(scores, depth)
        values = np.take_along_axis(scores, columns, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        rows = np.take_along_axis(columns, order, axis=1)
        ranked[part, :depth] = np.where(np.isneginf(np.take_along_axis(values, order, axis=1)), -1, rows)
    return ranked


def validation_ndcg(scorer: Scorer, task: Task) -> float:
    """NDCG@10 of a scorer (fitted on `base`) on the validation targets, over all items."""
    figures = []
    for part in blocks(len(task.validation), task.n_items):
        histories = task.validation.histories[part]
        scores = scorer(task.validation.users[part], histories)
        if not task.keep_seen:
            mask_rows(scores, histories)
        figures.append(ndcg_at_10(scores, task.validation.targets[part]))
    return float(np.concatenate(figures).mean())


def sample_validation(task: Task, n_users: int) -> Task:
    """The same task with at most n_users of its validation users, at random (seeded)."""
    fewer = task.validation.slice(n_users, task.seed)
    return task if fewer is task.validation else replace(task, validation=fewer)


def ndcg_at_10(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """NDCG@10 per user with one target each; equal scores count half a rank, a target of score -inf is a miss."""
    return rank_gains(target_ranks(scores, targets))


def mask_rows(scores: np.ndarray, rows: Sequence[np.ndarray]) -> None:
    """Put each user's rows at -inf, in place."""
    for user, own in enumerate(rows):
        scores[user, own] = -np.inf


def blocks(n_users: int, n_items: int) -> list[slice]:
    """Slices of users whose scores fit in memory together."""
    size = max(1, BLOCK_CELLS // max(1, n_items))
    return [slice(start, min(start + size, n_users)) for start in range(0, n_users, size)]
