"""Matrix factorisation by the `implicit` library: ALS and BPR with settings climbed to on validation."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from retrieval.sources.item_items import history_matrix
from retrieval.yardsticks.base import Scorer, Settings, Task, Tuned, validation_ndcg

try:
    from implicit.als import AlternatingLeastSquares  # pyright: ignore[reportMissingImports]
    from implicit.bpr import BayesianPersonalizedRanking  # pyright: ignore[reportMissingImports]
    from implicit.recommender_base import ModelFitError  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ImportError('the yardsticks ALS and BPR need implicit: pip install ".[yardsticks]"') from error

# The search takes the best start and climbs: its moves are factors of the settings, tried up and down. The best of ALS
# lies far apart from one data set to the next, along a ridge where confidence and regularisation grow together.
ALS_STARTS = [{"factors": 128.0, "alpha": a, "regularization": a * r} for a in (10.0, 80.0) for r in (0.3, 1.2, 5.0)]
ALS_MOVES = ({"alpha": 3.0, "regularization": 3.0}, {"alpha": 1.5}, {"factors": 2.0})
BPR_STARTS = [{"factors": 128.0, "learning_rate": a, "regularization": 0.01} for a in (0.03, 0.2)]
BPR_MOVES = ({"learning_rate": 2.0}, {"regularization": 3.0}, {"factors": 2.0})
MAX_FACTORS, MAX_TRIES = 256.0, 24
ALS_ITERATIONS, BPR_ITERATIONS = 15, 100
Make = Callable[[Settings], Any]


def fit_als(task: Task) -> Tuned:
    """Alternating least squares on confidences alpha * count (Hu, Koren and Volinsky 2008)."""

    def make(settings: Settings) -> Any:
        return AlternatingLeastSquares(
            factors=int(settings["factors"]),
            alpha=settings["alpha"],
            regularization=settings["regularization"],
            iterations=ALS_ITERATIONS,
            random_state=task.seed,
            use_gpu=False,
            num_threads=int(os.environ.get("OMP_NUM_THREADS", "0")),
        )

    return _climb(task, make, ALS_STARTS, ALS_MOVES)


def fit_bpr(task: Task) -> Tuned:
    """Bayesian personalised ranking (Rendle et al. 2009), in one thread, so that a seed gives one result."""

    def make(settings: Settings) -> Any:
        return BayesianPersonalizedRanking(
            factors=int(settings["factors"]),
            learning_rate=settings["learning_rate"],
            regularization=settings["regularization"],
            iterations=BPR_ITERATIONS,
            random_state=task.seed,
            use_gpu=False,
            num_threads=1,
        )

    return _climb(task, make, BPR_STARTS, BPR_MOVES)


def _climb(task: Task, make: Make, starts: Sequence[Settings], moves: Sequence[Settings]) -> Tuned:
    """From the best start, one move at a time as long as validation NDCG@10 rises; MAX_TRIES fits at the most."""
    found: dict[tuple[float, ...], float] = {}

    def figure(settings: Settings) -> float:
        key = tuple(settings.values())
        if key not in found:
            if len(found) >= MAX_TRIES or settings["factors"] > MAX_FACTORS:
                return -1.0
            try:
                found[key] = validation_ndcg(_factors(make(settings), task.base, task.n_items), task)
            except ModelFitError:  # too large a step: the factors are not finite
                found[key] = 0.0
        return found[key]

    best, risen = max(starts, key=figure), True
    while risen:
        risen = False
        for move in moves:
            for sign in (1, -1):
                while figure(moved := _moved(best, move, sign)) > figure(best):
                    best, risen = moved, True
    return Tuned(_factors(make(best), task.histories, task.n_items), best, figure(best))


def _moved(settings: Settings, move: Settings, sign: int) -> Settings:
    return {name: value * move.get(name, 1.0) ** sign for name, value in settings.items()}


def _factors(model: Any, histories: Sequence[np.ndarray], n_items: int) -> Scorer:
    """Fit a model of implicit on these histories; the scorer knows users by their row."""
    taken = sp.csr_matrix(history_matrix(histories, n_items))
    # Threads of BLAS under the library's own threads would only fight.
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(taken, show_progress=False)
    users = np.asarray(model.user_factors, dtype=np.float32)
    items = np.asarray(model.item_factors, dtype=np.float32)

    def score(rows: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
        return users[rows] @ items.T

    return score
