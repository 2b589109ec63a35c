"""Fit the candidate sources on histories; `source_choice` chooses their few settings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from indexes import build_index
from retrieval.catalogue import Catalogue
from retrieval.encoder.heads import HeadConfig, RecallHead
from retrieval.encoder.seasons import Timing
from retrieval.encoder.steps import HeadTraining
from retrieval.encoder.train import TrainedHead, embed_items, embed_users, train_head
from retrieval.histories import Timeline
from retrieval.lending import lend_links, lend_residuals, lenders_of
from retrieval.sources import (
    ContentSource,
    DenseSource,
    FreshSource,
    HeadSource,
    ItemItemSource,
    LexicalSource,
    PopularSource,
    Queries,
    RecentSource,
    RepeatSource,
    Source,
)
from retrieval.sources.item_items import (
    cosine_matrix,
    ease_matrix,
    followers,
    transition_matrix,
    walk_matrix,
)
from retrieval.sources.popular import count_items

log = logging.getLogger(__name__)

# Settings are chosen on so many validation users at the most: differences that need more do not matter.
CHOOSING_USERS = 3_000
INDEX_QUERIES = 1_000


@dataclass(frozen=True)
class SourceSettings:
    """What validation chose for the sources.

    neighbours_content: weight of the items' text similarity beside their co-occurrence.
    transitions_*: see `transition_matrix`. walk_power: see `walk_matrix`.
    content_decay: of the history's items in the content source; 0 reads the history as one text.
    recent_share: see `RecentSource`.
    head_passes: how long the head is trained when it is fitted again on other data, and the further heads.
    later_visits: whether by time the head and the history model learn what is taken on later visits alone (see
        `HeadTraining.near`), or any later item.
    """

    neighbours_decay: float = 0.85
    neighbours_content: float = 0.1
    ease_decay: float = 0.85
    ease_regularisation: float = 100.0
    transitions_decay: float = 0.7
    transitions_back: float = 1.0
    transitions_source_power: float = 0.5
    transitions_target_power: float = 0.25
    walk_decay: float = 0.85
    walk_power: float = 0.5
    repeat_decay: float = 0.98
    content_decay: float = 0.7
    recent_share: float = 0.1
    head_passes: float = 8.0
    later_visits: bool = True


@dataclass(frozen=True)
class FurtherHead:
    """A head beside the recall head, for a `HeadSource` of this name; beside: see there."""

    name: str
    head: RecallHead
    beside: np.ndarray


@dataclass(frozen=True)
class Validation:
    """Histories (oldest first) and what was taken after each.

    taken: int64 rows, distinct, one or more after each history. keep_seen: seen items may be right. users: int64 (n,),
    whose history it is; a user may be there several times. visits: see `Queries`.
    """

    histories: list[np.ndarray]
    taken: list[np.ndarray]
    keep_seen: bool
    users: np.ndarray
    visits: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.taken)

    @cached_property
    def targets(self) -> np.ndarray:
        """The one item after each history: int64 (n,).

        Raises:
            ValueError: there are several after one (see `single`).
        """
        if any(len(taken) != 1 for taken in self.taken):
            raise ValueError("validation: expected one item after each history, got several; ask for single()")
        return np.concatenate([np.empty(0, dtype=np.int64), *self.taken])

    def single(self, per_user: int, *, seed: int) -> Validation:
        """Each history up to per_user times, with one item each of what was taken after it, at random."""
        rng = np.random.default_rng(seed)
        chosen = [rng.permutation(taken)[:per_user] for taken in self.taken]
        rows = self.take(np.repeat(np.arange(len(self)), [len(taken) for taken in chosen]))
        return replace(rows, taken=[taken[i : i + 1] for taken in chosen for i in range(len(taken))])

    def take(self, places: np.ndarray) -> Validation:
        """Some of them, in this order."""
        histories = [self.histories[place] for place in places]
        taken = [self.taken[place] for place in places]
        visits = None if self.visits is None else self.visits[places]
        return Validation(histories, taken, self.keep_seen, self.users[places], visits)

    def slice(self, n: int, seed: int) -> Validation:
        """n at random (all, if there are no more)."""
        if len(self) <= n:
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), n, replace=False)))


def transitions_of(following: sp.csr_matrix, counts: np.ndarray, settings: SourceSettings) -> sp.csr_matrix:
    """The transition matrix these settings ask for."""
    return transition_matrix(
        following,
        counts,
        back=settings.transitions_back,
        source_power=settings.transitions_source_power,
        target_power=settings.transitions_target_power,
    )


def fit_head(
    catalogue: Catalogue,
    histories: Sequence[np.ndarray],
    *,
    config: HeadConfig,
    training: HeadTraining,
    validation: Validation | None = None,
    passes: float | None = None,
    timing: Timing | None = None,
    device: str = "auto",
    progress: str | None = None,
) -> TrainedHead:
    """Train the recall head; with validation it stops early, without it trains `passes`."""
    small = validation.slice(CHOOSING_USERS, training.seed) if validation else None
    return train_head(
        histories,
        catalogue.text_vectors,
        config=config,
        training=training,
        validation=(small.histories, small.targets) if small else None,
        passes=passes,
        timing=timing,
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
    by_time: Timeline | None = None,
    further: Sequence[FurtherHead] = (),
    family: str = "auto",
    seed: int = 0,
    device: str = "auto",
) -> tuple[Source, ...]:
    """All sources, fitted on these histories.

    `repeat` is there only where seen items may come again, `recent` and `fresh` where it is told when items were taken
    (`by_time`).
    """
    n_items, histories = catalogue.n_items, list(histories)
    popular = PopularSource.fit(histories, n_items)
    # What was learned of an item nobody took is only that it was never right.
    lenders = lenders_of(catalogue, popular.untaken)
    head = lend_residuals(head, lenders, popular.untaken)
    vectors = embed_items(head, catalogue.text_vectors)
    neighbours = ItemItemSource.with_texts(
        "neighbours",
        lend_links(cosine_matrix(histories, n_items), lenders),
        decay=settings.neighbours_decay,
        text_weight=settings.neighbours_content,
        vectors=catalogue.text_vectors,
        index=catalogue.index,
    )
    ease = ease_matrix(histories, n_items, regularisation=settings.ease_regularisation)
    transitions = transitions_of(followers(histories, n_items), count_items(histories, n_items), settings)
    transitions = lend_links(transitions, lenders)
    walk = lend_links(walk_matrix(histories, n_items, target_power=settings.walk_power), lenders)
    # An approximate index is tuned on what it will be asked: users, who lie elsewhere than the items.
    some = sample_histories(histories, INDEX_QUERIES, seed=seed)
    asked = embed_users(head, vectors, some) if some else None
    index = build_index(vectors, family=family, seed=seed, device=device, queries=asked)
    sources: list[Source] = [
        DenseSource(head, index, vectors),
        neighbours,
        ItemItemSource("ease", ease, decay=settings.ease_decay),
        ItemItemSource("transitions", transitions, decay=settings.transitions_decay),
        ItemItemSource("walk", walk, decay=settings.walk_decay),
        ContentSource(catalogue.encoder, catalogue.index, catalogue.text_vectors, decay=settings.content_decay),
        LexicalSource(catalogue.texts),
        popular,
    ]
    if keep_seen:
        sources.append(RepeatSource(n_items, decay=settings.repeat_decay))
    if by_time is not None:
        sources.append(RecentSource.fit(by_time.items, n_items, share=settings.recent_share))
        sources.append(FreshSource.fit(by_time.items, by_time.times, n_items, newest=by_time.newest))
    for one in further:
        lent = lend_residuals(one.head, lenders, popular.untaken)
        sources.append(HeadSource.of(one.name, lent, catalogue.text_vectors, one.beside))
    return tuple(sources)


def sample_histories(histories: Sequence[np.ndarray], n: int, *, seed: int) -> list[np.ndarray]:
    """n histories at random of those that are not empty (all, if there are no more)."""
    known = [history for history in histories if len(history)]
    if len(known) <= n:
        return known
    chosen = np.random.default_rng(seed).choice(len(known), n, replace=False)
    return [known[place] for place in sorted(chosen.tolist())]


def in_batches(n: int, size: int) -> list[slice]:
    """Slices that cover 0..n-1 in order."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def sub_queries(queries: Queries, part: slice) -> Queries:
    """Some users of a batch."""
    visits = None if queries.visits is None else queries.visits[part]
    return Queries(queries.histories[part], queries.exclude[part], queries.texts[part], visits)
