"""Fit the candidate sources on histories, with their few settings chosen on validation targets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from indexes import build_index
from retrieval.catalogue import Catalogue
from retrieval.encoder.heads import HeadConfig, RecallHead
from retrieval.encoder.steps import HeadTraining
from retrieval.encoder.train import TrainedHead, embed_items, train_head
from retrieval.fusion import list_ndcg
from retrieval.sources import (
    ContentSource,
    DenseSource,
    ItemItemSource,
    LexicalSource,
    PopularSource,
    Queries,
    RepeatSource,
    Source,
)
from retrieval.sources.dense import pooled_users
from retrieval.sources.item_items import content_matrix, cosine_matrix, dense_product, ease_matrix, history_matrix

log = logging.getLogger(__name__)

DECAYS = (0.5, 0.7, 0.85, 0.95, 1.0)
CONTENT_WEIGHTS = (0.0, 0.1, 0.3)
REGULARISATIONS = (20.0, 100.0, 500.0, 2_000.0)
REPEAT_DECAYS = (0.9, 0.98, 1.0)
CONTENT_DECAYS = (0.5, 0.7, 0.85, 0.95)
# Settings are chosen on so many validation users at the most: differences that need more do not matter.
_CHOOSING_USERS = 3_000


@dataclass(frozen=True)
class SourceSettings:
    """What validation chose for the sources.

    neighbours_content: weight of the items' text similarity beside their co-occurrence.
    content_decay: of the history's items in the content source; 0 reads the history as one text.
    head_passes: how long the head is trained when it is fitted again on other data.
    """

    neighbours_decay: float = 0.85
    neighbours_content: float = 0.1
    ease_decay: float = 0.85
    ease_regularisation: float = 100.0
    repeat_decay: float = 0.98
    content_decay: float = 0.7
    head_passes: float = 8.0


@dataclass(frozen=True)
class Validation:
    """Histories (oldest first) and the one item row each user took next. keep_seen: seen items may be right."""

    histories: list[np.ndarray]
    targets: np.ndarray
    keep_seen: bool

    def slice(self, n: int, seed: int) -> Validation:
        """n users at random (all, if there are no more)."""
        if len(self.targets) <= n:
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self.targets), n, replace=False))
        return Validation([self.histories[user] for user in chosen], self.targets[chosen], self.keep_seen)


def _figure(matrix: sp.csr_matrix, decay: float, validation: Validation, n_items: int) -> float:
    """NDCG@10 of one item-item matrix on validation."""
    return _ndcg(lambda histories: dense_product(history_matrix(histories, n_items, decay=decay), matrix), validation)


def _content_figure(catalogue: Catalogue, decay: float, validation: Validation) -> float:
    """NDCG@10 of the pooled text vectors on validation, by exact search."""
    vectors = catalogue.text_vectors
    return _ndcg(lambda histories: pooled_users(vectors, histories, decay) @ vectors.T, validation)


def _ndcg(score: Callable[[list[np.ndarray]], np.ndarray], validation: Validation) -> float:
    """NDCG@10 of scores (n_users, n_items) over all items, in blocks of users."""
    total = 0.0
    for start in range(0, len(validation.targets), 512):
        histories = validation.histories[start : start + 512]
        scores = score(histories)
        if not validation.keep_seen:
            for user, history in enumerate(histories):
                scores[user, history] = -np.inf
        rows = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
        total += float(list_ndcg(scores, rows, validation.targets[start : start + 512]).sum())
    return total / max(1, len(validation.targets))


def choose_settings(
    catalogue: Catalogue,
    histories: Sequence[np.ndarray],
    validation: Validation,
    *,
    finetuned: bool = False,
    seed: int = 0,
) -> SourceSettings:
    """Decays, regularisation and content weight with the highest NDCG@10 on validation.

    Args:
        histories: training only.
        finetuned: the text encoder was trained on histories as one text, and shall read them so.
    """
    n_items = catalogue.n_items
    small = validation.slice(_CHOOSING_USERS, seed)
    cosine = cosine_matrix(histories, n_items)
    content = content_matrix(catalogue.text_vectors, index=catalogue.index)
    neighbours = {
        (decay, weight): _figure((cosine + weight * content).tocsr(), decay, small, n_items)
        for weight in CONTENT_WEIGHTS
        for decay in DECAYS
    }
    ease = {}
    for regularisation in REGULARISATIONS:
        matrix = ease_matrix(histories, n_items, regularisation=regularisation)
        for decay in DECAYS:
            ease[decay, regularisation] = _figure(matrix, decay, small, n_items)
    identity = sp.csr_matrix(sp.identity(n_items), dtype=np.float32)
    repeat = {decay: _figure(identity, decay, small, n_items) for decay in REPEAT_DECAYS}
    pooled = {} if finetuned else {decay: _content_figure(catalogue, decay, small) for decay in CONTENT_DECAYS}
    best_neighbours = max(neighbours, key=lambda key: neighbours[key])
    best_ease = max(ease, key=lambda key: ease[key])
    log.info(
        "neighbours %s ndcg@10 %.4f; ease %s %.4f",
        best_neighbours,
        neighbours[best_neighbours],
        best_ease,
        ease[best_ease],
    )
    return SourceSettings(
        neighbours_decay=best_neighbours[0],
        neighbours_content=best_neighbours[1],
        ease_decay=best_ease[0],
        ease_regularisation=best_ease[1],
        repeat_decay=max(repeat, key=lambda key: repeat[key]),
        content_decay=max(pooled, key=lambda key: pooled[key], default=0.0),
    )


def fit_head(
    catalogue: Catalogue,
    histories: Sequence[np.ndarray],
    *,
    config: HeadConfig,
    training: HeadTraining,
    validation: Validation | None = None,
    passes: float | None = None,
    device: str = "auto",
    progress: str | None = None,
) -> TrainedHead:
    """Train the recall head; with validation it stops early, without it trains `passes`."""
    small = validation.slice(_CHOOSING_USERS, training.seed) if validation else None
    return train_head(
        histories,
        catalogue.text_vectors,
        config=config,
        training=training,
        validation=(small.histories, small.targets) if small else None,
        passes=passes,
        keep_seen=small.keep_seen if small else False,
        device=device,
        progress=progress,
    )


def fit_sources(
    catalogue: Catalogue,
    histories: Sequence[np.ndarray],
    head: RecallHead,
    settings: SourceSettings,
    *,
    keep_seen: bool,
    family: str = "auto",
    seed: int = 0,
) -> tuple[Source, ...]:
    """All sources, fitted on these histories. `repeat` is among them only where seen items may come again."""
    n_items = catalogue.n_items
    histories = list(histories)
    vectors = embed_items(head, catalogue.text_vectors)
    neighbours = cosine_matrix(histories, n_items)
    if settings.neighbours_content:
        neighbours = (
            neighbours + settings.neighbours_content * content_matrix(catalogue.text_vectors, index=catalogue.index)
        ).tocsr()
    ease = ease_matrix(histories, n_items, regularisation=settings.ease_regularisation)
    sources: list[Source] = [
        DenseSource(head, build_index(vectors, family=family, seed=seed), vectors),
        ItemItemSource(
            "neighbours", neighbours, decay=settings.neighbours_decay, text_weight=settings.neighbours_content
        ),
        ItemItemSource("ease", ease, decay=settings.ease_decay),
        ContentSource(catalogue.encoder, catalogue.index, catalogue.text_vectors, decay=settings.content_decay),
        LexicalSource(catalogue.texts),
        PopularSource.fit(histories, n_items),
    ]
    if keep_seen:
        sources.append(RepeatSource(n_items, decay=settings.repeat_decay))
    return tuple(sources)


def in_batches(n: int, size: int) -> list[slice]:
    """Slices that cover 0..n-1 in order."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def sub_queries(queries: Queries, part: slice) -> Queries:
    """Some users of a batch."""
    return Queries(queries.histories[part], queries.exclude[part], queries.texts[part])
