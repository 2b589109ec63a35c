"""Training lists for the reranker: stage one's own candidates at past positions, scored by sources that never saw them.

Users are dealt into folds. The sources that make the lists of one fold are fitted on the other folds only, so a list's
features are as honest as they will be when serving; and every position lies before the held-out interactions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm.auto import tqdm

from rerank import TrainingList
from retrieval.candidates import Candidates, gather_candidates
from retrieval.catalogue import Catalogue
from retrieval.details import details_of
from retrieval.fusion import Fusion
from retrieval.histories import Followed, Shown
from retrieval.sources import ContentSource, Queries, Source, visits_of
from retrieval.two_stage import batch_size, context_of, rerank_features, rerank_input

_SHOWN_SHARE = 0.5
"""Of a list, so much at most is there because it was shown."""


@dataclass(frozen=True)
class Position:
    """One moment of one user: what came before (rows, oldest first), what was taken next, or in the time after (int64
    rows), what was shown and not taken. visit: the last one before, float64 (2,), see `Queries`; None: not known."""

    history: np.ndarray
    targets: np.ndarray
    shown: np.ndarray
    visit: np.ndarray | None = None


@dataclass(frozen=True)
class RerankList:
    """A position with its candidates: rows int32 (n,), features float16 (n, n_features), labels float32 (n,).

    scores: float32 (n,), the recall scores.
    trained_vectors: float32 (n_items, dim), the item vectors of the recall head that found them; lists share them.
    """

    history: np.ndarray
    rows: np.ndarray
    features: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    trained_vectors: np.ndarray


class LazyLists(Sequence[TrainingList]):
    """Lists that become texts and vectors only when read: a list in waiting takes a few kB instead of 200."""

    def __init__(self, catalogue: Catalogue, lists: Sequence[RerankList], *, history_items: int) -> None:
        self._catalogue = catalogue
        self._lists = lists
        self._history_items = history_items

    def __len__(self) -> int:
        return len(self._lists)

    def __getitem__(self, index):  # a slice gives LazyLists, a position gives a TrainingList
        if isinstance(index, slice):
            return LazyLists(self._catalogue, self._lists[index], history_items=self._history_items)
        item = self._lists[index]
        source = rerank_input(
            self._catalogue,
            item.trained_vectors,
            item.history,
            item.rows.astype(np.int64),
            rerank_features(item.features, item.scores),
            history_items=self._history_items,
        )
        return TrainingList(input=source, labels=item.labels)


def choose_positions(
    histories: Sequence[np.ndarray],
    users: np.ndarray,
    *,
    per_user: int,
    shown: Sequence[Shown] | None = None,
    rng: np.random.Generator,
) -> list[Position]:
    """At most per_user random positions of each user, every one with at least one item before it.

    Args:
        shown: per user what was shown and not taken. What was shown up to a position's moment joins its list as certain
            negatives, except what the user took before or after: that is no certain negative.
    """
    positions = []
    for user in users:
        history = histories[user]
        if len(history) < 2:
            continue
        places = np.arange(1, len(history))
        if len(places) > per_user:
            places = np.sort(rng.choice(places, per_user, replace=False))
        seen = shown[user] if shown is not None else Shown(np.empty(0, np.int64), np.empty(0, np.int64))
        certain = ~np.isin(seen.rows, history)
        for place in places:
            refused = np.unique(seen.rows[certain & (seen.after <= place)])
            positions.append(Position(history[:place], history[place : place + 1], refused))
    return positions


def positions_at_moment(followed: Sequence[Followed], shown: Sequence[Shown] | None) -> list[Position]:
    """One position of every user, at the moment (see `taken_after`); shown: see `choose_positions`."""
    positions = []
    for one in followed:
        seen = np.empty(0, np.int64) if shown is None else shown[one.user].rows
        certain = np.unique(seen[~np.isin(seen, one.history) & ~np.isin(seen, one.taken)])
        positions.append(Position(one.history, one.taken, certain, one.visit))
    return positions


def make_lists(
    catalogue: Catalogue,
    sources: tuple[Source, ...],
    recall_fusion: Fusion,
    positions: Sequence[Position],
    *,
    trained_vectors: np.ndarray,
    allowed: np.ndarray | None = None,
    per_source: int,
    depth: int,
    keep_seen: bool,
    max_lists: int | None = None,
    progress: str | None = None,
) -> list[RerankList]:
    """Lists of stage one's candidates at these positions; a position no target of which stage one finds gives none.

    In serving such a target cannot be reached either, and a target put in by hand would be told by its features.

    Args:
        allowed: bool (n_items,), the items that may be candidates.
        trained_vectors: the item vectors of the sources' recall head (see `RerankList`).
    """
    lists, details = [], details_of(catalogue, sources)
    size = batch_size(catalogue.n_items)
    for start in tqdm(
        range(0, len(positions), size),
        desc=progress or "",
        unit="batch",
        disable=progress is None,
        mininterval=2,
    ):
        if max_lists is not None and len(lists) >= max_lists:
            break
        batch = _found(catalogue, sources, positions[start : start + size], per_source, keep_seen, allowed)
        if not batch:
            continue
        queries = _queries(catalogue, batch, keep_seen)
        context = context_of(queries)
        shown = [position.shown for position in batch]
        pool = gather_candidates(sources, queries, per_source=per_source, details=details, allowed=allowed, extra=shown)
        order = recall_fusion.score(pool.features, context)
        for user, position in enumerate(batch):
            order[user, _certain(pool.rows[user], order[user], position, depth)] += 1e6
        ranked = pool.ordered(order, depth=depth)
        ranked = replace(ranked, scores=recall_fusion.score(ranked.features, context))
        for user, position in enumerate(batch):
            if np.isin(position.targets, ranked.rows[user]).any():
                lists.append(list_of(ranked, user, position.history, position.targets, trained_vectors))
    return lists


def _certain(rows: np.ndarray, scores: np.ndarray, position: Position, depth: int) -> np.ndarray:
    """The places of a pool that a list of `depth` holds in any case, int64: what was shown, however low stage one ranks
    it, but the best of it and no more than _SHOWN_SHARE; and what was taken, where stage one has it in so long a list.

    A feed shows more than a list is long: nothing else would be left in it, not even what was taken.
    """
    if not len(position.shown):
        return np.empty(0, dtype=np.int64)
    real = np.flatnonzero(rows >= 0)
    best = real[np.argsort(-scores[real], kind="stable")]
    shown = best[np.isin(rows[best], position.shown)][: math.ceil(_SHOWN_SHARE * depth)]
    taken = best[:depth][np.isin(rows[best[:depth]], position.targets)]
    return np.union1d(shown, taken) if len(shown) else shown


def list_of(
    candidates: Candidates, user: int, history: np.ndarray, targets: np.ndarray, trained_vectors: np.ndarray
) -> RerankList:
    """One user's candidates as a list in which the targets (item rows) alone are wanted."""
    real = candidates.rows[user] >= 0
    rows = candidates.rows[user][real]
    return RerankList(
        history=history,
        rows=rows.astype(np.int32),
        features=candidates.features[user][real].astype(np.float16),
        scores=candidates.scores[user][real],
        labels=np.isin(rows, targets).astype(np.float32),
        trained_vectors=trained_vectors,
    )


def _found(
    catalogue: Catalogue,
    sources: tuple[Source, ...],
    positions: Sequence[Position],
    per_source: int,
    keep_seen: bool,
    allowed: np.ndarray | None,
) -> list[Position]:
    """The positions a target of which a cheap source finds: encoding the others' history texts would be for nothing.

    Content that reads the history as one text costs more than all others together, and finds little that they do not.
    """
    cheap = [source for source in sources if not (isinstance(source, ContentSource) and not source.decay)]
    queries = _queries(catalogue, positions, keep_seen)
    found = np.zeros(len(positions), dtype=bool)
    for source in cheap:
        rows = source.scan(queries).top(per_source, allowed=allowed).rows
        found |= [np.isin(position.targets, own).any() for position, own in zip(positions, rows, strict=True)]
    return [position for position, hit in zip(positions, found, strict=True) if hit]


def _queries(catalogue: Catalogue, positions: Sequence[Position], keep_seen: bool) -> Queries:
    """A seen target (bought again) can only be found where seen items are not excluded."""
    visits = visits_of([one.visit for one in positions])
    return catalogue.queries([one.history for one in positions], keep_seen=keep_seen, visits=visits)
