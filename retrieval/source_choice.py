"""The sources' few settings, chosen on validation targets: each has the highest NDCG@10 of a small grid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np
import scipy.sparse as sp

from retrieval.catalogue import Catalogue
from retrieval.histories import Timeline
from retrieval.ranks import list_ndcg
from retrieval.sources.dense import mean_of, pooled_users
from retrieval.sources.item_items import (
    content_matrix,
    cosine_matrix,
    dense_product,
    ease_matrix,
    followers,
    history_matrix,
    walk_matrix,
)
from retrieval.sources.popular import count_items
from retrieval.sources.recent import recent_counts
from retrieval.stage_one import CHOOSING_USERS, SourceSettings, Validation, transitions_of

log = logging.getLogger(__name__)

DECAYS = (0.5, 0.7, 0.85, 0.95, 1.0)
CONTENT_WEIGHTS = (0.0, 0.1, 0.3)
REGULARISATIONS = (20.0, 100.0, 500.0, 2_000.0)
REPEAT_DECAYS = (0.9, 0.98, 1.0)
RECENT_SHARES = (0.01, 0.03, 0.1, 0.3)
CONTENT_DECAYS = (0.5, 0.7, 0.85, 0.95)
BACKS = (0.3, 1.0)
TARGET_POWERS = (0.0, 0.25, 0.5)
SOURCE_POWERS = (0.5, 0.8)
WALK_POWERS = (0.2, 0.5, 0.8)


def _figure(matrix: sp.csr_matrix, decay: float, validation: Validation, n_items: int) -> float:
    """NDCG@10 of one item-item matrix on validation."""
    return _ndcg(lambda histories: dense_product(history_matrix(histories, n_items, decay=decay), matrix), validation)


def _content_figure(catalogue: Catalogue, decay: float, validation: Validation) -> float:
    """NDCG@10 of the pooled text vectors on validation, by exact search."""
    vectors = catalogue.text_vectors
    mean = mean_of(vectors)
    return _ndcg(lambda histories: pooled_users(vectors, histories, decay, mean=mean) @ vectors.T, validation)


def _ndcg(score: Callable[[list[np.ndarray]], np.ndarray], validation: Validation) -> float:
    """NDCG@10 of scores (n_users, n_items) over all items, in blocks of users."""
    total = 0.0
    for start in range(0, len(validation), 512):
        histories = validation.histories[start : start + 512]
        scores = score(histories)
        if not validation.keep_seen:
            for user, history in enumerate(histories):
                scores[user, history] = -np.inf
        rows = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        total += float(list_ndcg(scores, rows, validation.targets[start : start + 512]).sum())
    return total / max(1, len(validation))


def choose_settings(
    catalogue: Catalogue,
    histories: Sequence[np.ndarray],
    validation: Validation,
    *,
    by_time: Timeline | None = None,
    finetuned: bool = False,
    seed: int = 0,
) -> SourceSettings:
    """Decays, regularisation and content weight with the highest NDCG@10 on validation.

    Args:
        histories: training only. by_time: see `fit_sources`.
        finetuned: the text encoder was trained on histories as one text, and shall read them so.
    """
    n_items = catalogue.n_items
    small = validation.slice(CHOOSING_USERS, seed)
    cosine = cosine_matrix(histories, n_items)
    content = content_matrix(catalogue.text_vectors, index=catalogue.index)
    neighbours = {
        (decay, weight): _figure((cosine + weight * content).tocsr(), decay, small, n_items)
        for weight in CONTENT_WEIGHTS
        for decay in DECAYS
    }
    ease_decay, ease_regularisation = _choose_matrix(
        "ease",
        REGULARISATIONS,
        lambda regularisation: ease_matrix(histories, n_items, regularisation=regularisation),
        small,
        n_items,
    )
    walk_decay, walk_power = _choose_matrix(
        "walk", WALK_POWERS, lambda power: walk_matrix(histories, n_items, target_power=power), small, n_items
    )
    identity = sp.csr_matrix(sp.identity(n_items), dtype=np.float32)
    repeat = {decay: _figure(identity, decay, small, n_items) for decay in REPEAT_DECAYS}
    pooled = {} if finetuned else {decay: _content_figure(catalogue, decay, small) for decay in CONTENT_DECAYS}
    best_neighbours = max(neighbours, key=lambda key: neighbours[key])
    log.info("neighbours %s ndcg@10 %.4f", best_neighbours, neighbours[best_neighbours])
    return replace(
        _choose_transitions(histories, small, n_items),
        neighbours_decay=best_neighbours[0],
        neighbours_content=best_neighbours[1],
        ease_decay=ease_decay,
        ease_regularisation=ease_regularisation,
        walk_decay=walk_decay,
        walk_power=walk_power,
        repeat_decay=max(repeat, key=lambda key: repeat[key]),
        content_decay=max(pooled, key=lambda key: pooled[key], default=0.0),
        recent_share=_choose_recent(by_time, small, n_items),
    )


def _choose_recent(by_time: Timeline | None, validation: Validation, n_items: int) -> float:
    if by_time is None:
        return SourceSettings.recent_share
    found = {}
    for share in RECENT_SHARES:
        counts = recent_counts(by_time.items, n_items, share=share).astype(np.float32)
        found[share] = _ndcg(partial(_same_for_all, counts), validation)
    return max(found, key=lambda share: found[share])


def _same_for_all(scores: np.ndarray, histories: list[np.ndarray]) -> np.ndarray:
    return np.tile(scores, (len(histories), 1))


def _choose_matrix(
    name: str,
    values: Sequence[float],
    make: Callable[[float], sp.csr_matrix],
    validation: Validation,
    n_items: int,
) -> tuple[float, float]:
    """Decay, and the value that the matrix is made with."""
    found = {}
    for value in values:
        matrix = make(value)
        for decay in DECAYS:
            found[decay, value] = _figure(matrix, decay, validation, n_items)
    best = max(found, key=lambda key: found[key])
    log.info("%s %s ndcg@10 %.4f", name, best, found[best])
    return best


def _choose_transitions(histories: Sequence[np.ndarray], validation: Validation, n_items: int) -> SourceSettings:
    """Order and popularity together, then the source's power, then the decay: a third of the trials of a full grid."""
    following, counts = followers(histories, n_items), count_items(histories, n_items)

    @cache
    def figure(settings: SourceSettings) -> float:
        matrix = transitions_of(following, counts, settings)
        return _figure(matrix, settings.transitions_decay, validation, n_items)

    best = SourceSettings()
    for choices in (
        [{"transitions_back": b, "transitions_target_power": t} for b in BACKS for t in TARGET_POWERS],
        [{"transitions_source_power": power} for power in SOURCE_POWERS],
        [{"transitions_decay": decay} for decay in DECAYS],
    ):
        best = max((replace(best, **choice) for choice in choices), key=figure)
    log.info("%s: transitions ndcg@10 %.4f", best, figure(best))
    return best
