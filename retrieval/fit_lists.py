"""The reranker's training lists: each made by sources that were fitted without what the list asks for.

Where everybody's newest item is held out, users are dealt into folds, and the sources behind a fold's lists never saw
its users. Where a moment parts what is held out, earlier moments do so again: see `retrieval.moments`.
"""

from __future__ import annotations

import numpy as np

from retrieval.config import Config
from retrieval.encoder.train import can_learn
from retrieval.fit_steps import sources_in_space
from retrieval.histories import Shown
from retrieval.new_items import choose_new, could_be_right, forget, positions_among
from retrieval.rerank_lists import Position, RerankList, choose_positions, make_lists
from retrieval.sources import Source
from retrieval.stage_one import SourceSettings
from retrieval.two_stage import TwoStage, trained_vectors_of

_MORE = 4
_EMPTY = np.empty(0, dtype=np.int64)


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

    As long as these are less than half of `lists.max_lists`, users are dealt anew, at most `lists.rounds` times.

    Args:
        draft: whose recall fusion orders the lists, and in the space of whose item vectors they are written.
    """
    catalogue, rng = draft.catalogue, np.random.default_rng(config.seed)
    n_folds, space = config.lists.folds, draft.trained_vectors
    allowed = could_be_right(histories, catalogue.n_items, new_items=config.lists.new_items)
    per_user = _positions_per_user(histories, config)
    made: list[RerankList] = []
    for turn in range(config.lists.rounds):
        if turn and 2 * len(made) >= config.lists.max_lists:
            break
        fold = rng.permutation(len(histories)) % n_folds
        for number in range(n_folds):
            # What a fold's sources have not seen: its users, and some items that are new to them.
            new = choose_new(catalogue.n_items, config.lists.new_items, config.seed + 1 + turn * n_folds + number)
            others = [history if fold[user] != number else _EMPTY for user, history in enumerate(histories)]
            known = forget(others, new)
            if not can_learn(known):  # all of the few who took several items are in this fold
                continue
            label = f"round {turn + 1}, fold {number + 1}/{n_folds}" if progress else None
            sources = sources_in_space(catalogue, known, settings, config, space=space, label=label)
            users = np.flatnonzero(fold == number)
            positions = choose_positions(histories, users, per_user=per_user, shown=shown, rng=rng)
            positions = positions_among(positions, new)
            made += lists_at(sources, positions, allowed, draft, config, rng, label, n_parts=n_folds)
    rng.shuffle(made)  # pyright: ignore[reportArgumentType]
    return made


def _positions_per_user(histories: list[np.ndarray], config: Config) -> int:
    """`config.lists.per_user`, or up to _MORE times as many where so few users would give too few lists.

    About half of the positions give one: a target of the others is not found.
    """
    n_users = sum(len(history) > 1 for history in histories)
    wanted = -(-2 * config.lists.max_lists // max(1, n_users))
    return min(max(config.lists.per_user, wanted), _MORE * config.lists.per_user)


def lists_at(
    sources: tuple[Source, ...],
    positions: list[Position],
    allowed: np.ndarray,
    draft: TwoStage,
    config: Config,
    rng: np.random.Generator,
    label: str | None,
    *,
    n_parts: int,
) -> list[RerankList]:
    """The lists of one of n_parts folds or moments: of so many positions that enough of them give one."""
    # In no order of users, as the last ones are left out where there are more than are wanted.
    positions = [positions[i] for i in rng.permutation(len(positions))[: 3 * config.lists.max_lists // n_parts]]
    return make_lists(
        draft.catalogue,
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
