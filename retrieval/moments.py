"""Earlier moments, where validation is by time: what stage one would have found then, and what users took later.

A moment parts what is known from what is asked for, as the one of validation does (a rolling origin, Tashman 2000).
The sources behind it saw everybody until then and nothing later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.catalogue import Catalogue
from retrieval.config import Config
from retrieval.data import Interactions, moment_at, time_split
from retrieval.encoder.train import can_learn
from retrieval.fit_lists import lists_at
from retrieval.fit_steps import sources_in_space
from retrieval.held_out import asked_after
from retrieval.histories import Timeline, histories_of, shown_of, taken_after
from retrieval.new_items import World, could_be_right
from retrieval.rerank_lists import Position, RerankList, positions_at_moment
from retrieval.stage_one import SourceSettings
from retrieval.two_stage import TwoStage

MOMENT_SHARE = 0.93
"""An earlier moment has so much of the interactions before the next one."""
_BETWEEN = 48


@dataclass(frozen=True)
class Moment:
    """A moment, in the unit of the times; the sources that saw everybody until then, and users with what they took
    later, for the fusions."""

    at: float
    world: World


def earlier_moments(
    catalogue: Catalogue,
    interactions: Interactions,
    settings: SourceSettings,
    config: Config,
    *,
    space: np.ndarray,
    ahead: float = np.inf,
    progress: bool = False,
) -> list[Moment]:
    """At most `config.lists.moments` of them, newest first, each with MOMENT_SHARE of what the one after it had.

    They ask for all that users took until what is held out, not only until the next moment: users come back so seldom
    that otherwise few lists are left. On MovieLens-1M's newest tenth, by a fusion that learned from four earlier
    moments, recall@100 is .348 where these ask until the next one, .371 where they ask for all that follows. But they
    ask no further ahead than validation does: what is popular of late says more of the next weeks than of the next
    months. On validation and an earlier moment of Online Retail II (44 days ahead) NDCG@10 of the candidates' order is
    .315 and .383 where two older moments ask as far, .307 and .375 where they ask for all that follows (94 and 133
    days), recall@100 .428 and .517 instead of .422 and .511.
    No item is made new to their sources: enough of them are, to what saw nothing later.

    Args:
        interactions: without what is held out. space: see `train_recall_head`. ahead: see `HeldOut`.
    """
    whole, n_moments, found = interactions, config.lists.moments, []
    allowed = could_be_right(histories_of(interactions), catalogue.n_items, new_items=config.lists.new_items)
    for number in range(n_moments):
        try:
            moment = moment_at(interactions, MOMENT_SHARE)
            parts = time_split(whole.take(whole.times <= moment + ahead), at=moment)
        except ValueError:  # Days or months as times: no moment has something before it any more.
            break
        interactions = parts.train
        histories = histories_of(interactions)
        asked = asked_after(
            taken_after(parts, histories, keep_seen=config.keep_seen),
            max_users=-(-config.lists.validation_users // n_moments),
            keep_seen=config.keep_seen,
            seed=config.seed + number,
        )
        if not len(asked) or not can_learn(histories):
            break
        label = f"moment {number + 1}/{n_moments}" if progress else None
        by_time = Timeline.of(interactions)
        sources = sources_in_space(catalogue, histories, settings, config, space=space, by_time=by_time, label=label)
        found.append(Moment(moment, World(sources, asked, allowed, has_new=True)))
    return found


def rolling_lists(
    moments: Sequence[Moment], interactions: Interactions, draft: TwoStage, config: Config, *, progress: bool = False
) -> list[RerankList]:
    """Lists by the sources of these moments, of what users took after them.

    Args:
        interactions: all that may be asked for. draft: see `cross_fitted_lists`.
    """
    rng, parts = np.random.default_rng(config.seed), len(moments)
    made: list[RerankList] = []
    for number, moment in enumerate(moments):
        label = f"moment {number + 1}/{parts}" if progress else None
        world, positions = moment.world, positions_since(interactions, moment.at, keep_seen=config.keep_seen)
        made += lists_at(world.sources, positions, world.allowed, draft, config, rng, label, n_parts=parts)
    rng.shuffle(made)  # pyright: ignore[reportArgumentType]
    return made


def positions_since(interactions: Interactions, moment: float, *, keep_seen: bool) -> list[Position]:
    """Everybody's position at a moment and, of those who took something in between, at _BETWEEN - 1 later ones.

    Few users are there at one moment, and who is there at a later one is asked in the same way: some go on with what
    they do, most come back after a while. On MovieLens-1M GPT-2 beside the fusion adds .0000 to NDCG@10 (+- .0006, 656
    users of two moments) by lists of the moments alone, .0033 (+- .0011) with these. Positions between any two
    interactions of a user would be more, but mostly seconds apart, as no position at a moment is: with twice as many of
    these besides it adds .0009 (+- .0016), without them .0027 (+- .0016).
    """
    positions, known = list[Position](), np.zeros(interactions.n_users, dtype=np.int64)
    whole = histories_of(interactions)  # once: positions keep parts of it
    times = interactions.times[interactions.times >= moment]
    later = np.quantile(times, np.arange(1, _BETWEEN) / _BETWEEN, method="higher") if len(times) else ()
    for at in np.unique([moment, *later]):
        try:
            parts = time_split(interactions, at=float(at))
        except ValueError:  # nothing before it
            continue
        counts = np.diff(parts.train.offsets)
        histories = [own[:count] for own, count in zip(whole, counts, strict=True)]
        changed = taken_after(parts, histories, keep_seen=keep_seen, only=counts > known)
        positions += positions_at_moment(changed, shown_of(parts.train))
        known = counts
    return positions
