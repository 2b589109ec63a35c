"""The reranker's training lists: each made by sources that were fitted without what the list asks for.

Where everybody's newest item is held out, users are dealt into folds, and the sources behind a fold's lists never saw
its users. Where a moment parts what is held out, earlier moments do so again (a rolling origin, Tashman 2000): the
sources saw everybody until then, and the lists ask for what users took between that moment and the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from retrieval.config import Config
from retrieval.data import Interactions, time_split
from retrieval.fit_steps import sources_on, train_recall_head
from retrieval.histories import Shown, histories_of, items_by_time, shown_of
from retrieval.new_items import choose_new, could_be_right, forget, positions_among
from retrieval.rerank_lists import Position, RerankList, choose_positions, make_lists, positions_at_moment
from retrieval.stage_one import SourceSettings
from retrieval.two_stage import TwoStage, trained_vectors_of

_EMPTY = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class _Part:
    """Lists that share their sources: what these may learn from (see `sources_on`), and the moments they are asked at.

    new: bool (n_items,), the items that are new to them.
    """

    histories: list[np.ndarray]
    by_time: np.ndarray | None
    new: np.ndarray
    positions: list[Position]


def cross_fitted_lists(
    histories: list[np.ndarray],
    shown: list[Shown] | None,
    draft: TwoStage,
    settings: SourceSettings,
    config: Config,
    *,
    progress: bool = False,
) -> list[RerankList]:
    """Lists at any moments of these histories (validation targets are not in them), by folds of users.

    Args:
        draft: whose recall fusion orders the lists, and in the space of whose item vectors they are written.
    """
    rng = np.random.default_rng(config.seed)
    allowed = could_be_right(histories, draft.catalogue.n_items, new_items=config.lists.new_items)
    parts = _folds(histories, shown, draft.catalogue.n_items, config, rng)
    return _lists(parts, allowed, draft, settings, config, rng, progress=progress)


def rolling_lists(
    interactions: Interactions, draft: TwoStage, settings: SourceSettings, config: Config, *, progress: bool = False
) -> list[RerankList]:
    """Lists at some moments of everybody, `config.lists.folds` at the most; draft: see `cross_fitted_lists`."""
    rng, n_items = np.random.default_rng(config.seed), draft.catalogue.n_items
    allowed = could_be_right(histories_of(interactions), n_items, new_items=config.lists.new_items)
    parts = _moments(interactions, n_items, config)
    return _lists(parts, allowed, draft, settings, config, rng, progress=progress)


def _folds(
    histories: list[np.ndarray], shown: list[Shown] | None, n_items: int, config: Config, rng: np.random.Generator
) -> Iterator[_Part]:
    fold = rng.permutation(len(histories)) % config.lists.folds
    for number in range(config.lists.folds):
        new = _new_to(number, n_items, config)
        others = [history if fold[user] != number else _EMPTY for user, history in enumerate(histories)]
        users = np.flatnonzero(fold == number)
        positions = choose_positions(histories, users, per_user=config.lists.per_user, shown=shown, rng=rng)
        yield _Part(forget(others, new), None, new, positions)


def _moments(interactions: Interactions, n_items: int, config: Config) -> Iterator[_Part]:
    """From the newest moment back, each with nine tenths of what the one after it had."""
    for number in range(config.lists.folds):
        parts = time_split(interactions)
        interactions = parts.train
        new, by_time = _new_to(number, n_items, config), items_by_time(interactions)
        positions = positions_at_moment(parts, shown_of(interactions), keep_seen=config.keep_seen)
        if not positions:
            return
        yield _Part(forget(histories_of(interactions), new), by_time[~new[by_time]], new, positions)


def _new_to(number: int, n_items: int, config: Config) -> np.ndarray:
    """Some items that a part's sources have not seen either: bool (n_items,)."""
    return choose_new(n_items, config.lists.new_items, config.seed + 1 + number)


def _lists(
    parts: Iterator[_Part],
    allowed: np.ndarray,
    draft: TwoStage,
    settings: SourceSettings,
    config: Config,
    rng: np.random.Generator,
    *,
    progress: bool,
) -> list[RerankList]:
    """The lists of all parts, shuffled."""
    catalogue, n_parts = draft.catalogue, config.lists.folds
    made: list[RerankList] = []
    for number, part in enumerate(parts):
        label = f"fold {number + 1}/{n_parts}" if progress else None
        head = train_recall_head(
            catalogue,
            part.histories,
            config,
            passes=settings.head_passes,
            space=draft.trained_vectors,
            progress=label and f"{label} head",
        )
        sources = sources_on(catalogue, part.histories, head.head, settings, config, by_time=part.by_time)
        positions, limit = positions_among(part.positions, part.new), 3 * config.lists.max_lists // n_parts
        if len(positions) > limit:
            positions = [positions[i] for i in np.sort(rng.choice(len(positions), limit, replace=False))]
        made += make_lists(
            catalogue,
            sources,
            draft.recall_fusion,
            positions,
            trained_vectors=trained_vectors_of(sources),
            allowed=allowed,
            per_source=config.depths.per_source,
            depth=config.depths.rerank,
            keep_seen=config.keep_seen,
            max_lists=-(-config.lists.max_lists // n_parts),
            progress=label and f"{label} lists",
        )
    rng.shuffle(made)  # pyright: ignore[reportArgumentType]
    return made
