"""Train on the past, rank every item for every test user, and say what each stage is worth.

All items are ranked (no sampled negatives: Krichene and Rendle 2020), the same users and list depth for every
stage; differences come with paired bootstrap intervals over users.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retrieval.config import Config
from retrieval.data import Interactions, Items, Split, cold_items, leave_last_out, require_split, time_split
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.fit import Fitted, fit
from retrieval.histories import histories_of, last_visits
from retrieval.sources import Queries, Source
from retrieval.stage_figures import Rankings, segment_figures, summarise
from retrieval.stage_one import in_batches, sub_queries
from retrieval.two_stage import batch_size

# What the sources are called in a report; the rest keep their names.
_STAGE_OF_SOURCE = {"popular": "popularity"}
_DEPTH = 100
Say = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """What is trained on, and who is asked for what.

    users: int64 (n_test_users,), user rows of `train`. histories: per test user the item rows of `train`, oldest first.
    seen: per test user the rows that must not come again (empty where they may); they may hold a cold item, which left
    the history with all its interactions. targets: per test user distinct rows. cold_rows: the items that were made
    cold. n_without_history: users who have targets and nothing in `train`; nobody asks them. visits: the last of
    each test user (see `Queries`) where one moment parts train from targets; None where every user has its own,
    as nobody but the user knows when the newest item will be taken.
    """

    train: Interactions
    users: np.ndarray
    histories: list[np.ndarray]
    seen: list[np.ndarray]
    targets: list[np.ndarray]
    cold_rows: np.ndarray
    n_without_history: int
    visits: np.ndarray | None = None


def make_split(interactions: Interactions, name: str, *, at: float | None = None) -> Split:
    """`leave-last-out`: every user's newest interaction is the target. `time`: everything after one moment is.

    Raises:
        ValueError: an unknown name, or data that has no clock (see `retrieval.data.time_split`).
    """
    if require_split(name) == "time":
        return time_split(interactions, at=at)
    return leave_last_out(interactions)


def validated_as(config: Config, split: str) -> Config:
    """The configuration with `lists.validation=auto` replaced: a fit chooses by what this split will ask."""
    if config.lists.validation != "auto":
        return config
    return replace(config, lists=replace(config.lists, validation="time" if split == "time" else "last"))


def make_trial(
    interactions: Interactions,
    split: str,
    *,
    at: float | None = None,
    cold_share: float = 0.0,
    keep_seen: bool = False,
    max_users: int | None = None,
    seed: int = 0,
) -> Trial:
    """Split, make a share of the items cold, and take at most max_users test users (both at random, seeded).

    Raises:
        ValueError: see `make_split` and `retrieval.data.cold_items`; or nobody is left to ask.
    """
    parts = make_split(interactions, split, at=at)
    whole, train, cold_rows = histories_of(parts.train), parts.train, np.empty(0, dtype=np.int64)
    if cold_share:
        cold = cold_items(parts.train, share=cold_share, seed=seed)
        train, cold_rows = cold.train, cold.item_rows
    histories = histories_of(train)
    users, targets = np.asarray(parts.test_users, dtype=np.int64), parts.targets
    known = np.flatnonzero([len(histories[user]) > 0 for user in users])
    if not len(known):
        raise ValueError(
            f"evaluate: nobody who is asked by --split {split} has an earlier interaction"
            f"{' with an item that is not cold' if cold_share else ''}; give more interactions, or split otherwise"
        )
    if max_users is not None and len(known) > max_users:
        known = known[np.sort(np.random.default_rng(seed).choice(len(known), max_users, replace=False))]
    chosen = users[known]
    empty = np.empty(0, dtype=np.int64)
    return Trial(
        train=train,
        users=chosen,
        histories=[histories[user] for user in chosen],
        seen=[empty if keep_seen else whole[user] for user in chosen],
        targets=[targets[place] for place in known],
        cold_rows=cold_rows,
        n_without_history=len(parts.no_history) + sum(not len(histories[user]) for user in users),
        visits=None if parts.moment is None else last_visits(train, at=parts.moment)[chosen],
    )


def evaluate(
    items: Items,
    interactions: Interactions,
    config: Config,
    *,
    dataset: str,
    split: str = "leave-last-out",
    at: float | None = None,
    encoder: TextEncoder | None = None,
    max_users: int | None = None,
    cold_share: float = 0.0,
    segments: Mapping[str, str] | None = None,
    data_seed: int | None = None,
    say: Say = lambda message: None,
    progress: bool = False,
) -> tuple[dict[str, Any], Fitted]:
    """Fit on the training part of a split and measure every stage on the rest.

    Args:
        at: the moment of a time split; by default nine tenths of the interactions lie before it.
        max_users: measure on so many test users at random (seeded); None measures all.
        cold_share: this share of the items (at random, seeded) loses all its training interactions; see `cold`.
        segments: outside user id -> segment, for a table of its own.
        data_seed: of whom is measured and which items are cold; by default the configuration's.

    Returns:
        The evaluation (see the README for its keys) and what was fitted on the training part.
    """
    config = validated_as(config, split)
    trial = make_trial(
        interactions,
        split,
        at=at,
        cold_share=cold_share,
        keep_seen=config.keep_seen,
        max_users=max_users,
        seed=config.seed if data_seed is None else data_seed,
    )
    started = time.monotonic()
    rankings, facts, fitted = rank_trial(items, trial, config, encoder=encoder, say=say, progress=progress)
    result = {
        "dataset": dataset,
        "split": split,
        **figures_of(trial, rankings, segments=segments, seed=config.seed),
        **facts,
    }
    result["seconds"]["total"] = time.monotonic() - started
    return result, fitted


def rank_trial(
    items: Items,
    trial: Trial,
    config: Config,
    *,
    encoder: TextEncoder | None = None,
    say: Say = lambda message: None,
    progress: bool = False,
) -> tuple[Rankings, dict[str, Any], Fitted]:
    """Fit on a trial's training part and rank all items for its users: the lists, facts about the fit, what was fitted.

    The facts are the keys of an evaluation that do not follow from the lists.
    """
    fitted = fit(items, trial.train, config, encoder=encoder, say=say, progress=progress)
    queries = fitted.model.catalogue.queries(trial.histories, exclude=trial.seen, visits=trial.visits)
    say(f"rank all items for {len(trial.users):,} test users")
    rankings = rank_stages(fitted, queries, trial.targets)
    facts = {
        "n_items": len(items),
        "keep_seen": config.keep_seen,
        "encoder": fitted.model.catalogue.encoder.name,
        "reranker": None if fitted.model.reranker is None else fitted.model.reranker.config.model,
        "fusion": fitted.model.final_fusion.figures,
        "seconds": {**fitted.seconds, **rankings.seconds},
        "ms_per_user": {
            name.removeprefix("rank_"): 1000 * seconds / len(trial.users) for name, seconds in rankings.seconds.items()
        },
        "fit": fitted.record,
    }
    return rankings, facts, fitted


def figures_of(
    trial: Trial, rankings: Rankings, *, segments: Mapping[str, str] | None = None, seed: int = 0
) -> dict[str, Any]:
    """What the lists of a trial are worth: all keys of an evaluation that follow from the lists.

    Args:
        segments: outside user id -> segment. seed: of the intervals and p-values.
    """
    counts = count_takers(trial.train)
    lengths = np.array([len(history) for history in trial.histories], dtype=np.int64)
    labels = None if segments is None else [segments.get(str(u), "") for u in trial.train.users.ids[trial.users]]
    result = {
        "n_users": len(trial.users),
        "n_train_interactions": len(trial.train),
        "users_without_history": trial.n_without_history,
        **summarise(rankings, trial.targets, counts, trial.train.n_users, seed=seed),
        "segments": segment_figures(rankings.ranked, trial.targets, lengths, counts, labels),
    }
    if len(trial.cold_rows):
        taken = np.isin(trial.cold_rows, np.concatenate(trial.targets))
        result["cold_items"] = {"n_items": len(trial.cold_rows), "n_targets": int(taken.sum())}
    return result


def rank_stages(fitted: Fitted, queries: Queries, targets: Sequence[np.ndarray]) -> Rankings:
    """Every stage's list for these users: each source alone, the candidate set, the fusion without GPT-2, the final."""
    model = fitted.model
    lists: dict[str, list[np.ndarray]] = {}
    seconds: dict[str, float] = {}
    ceiling = []

    def keep(name: str, rows: np.ndarray, started: float) -> None:
        seconds[f"rank_{name}"] = seconds.get(f"rank_{name}", 0.0) + time.monotonic() - started
        lists.setdefault(name, []).append(_fixed(rows, _DEPTH))

    for part in in_batches(len(queries), batch_size(model.catalogue.n_items)):
        batch = sub_queries(queries, part)
        for source in model.sources:
            started = time.monotonic()
            keep(stage_name(source), source.scan(batch).top(_DEPTH).rows, started)
        started = time.monotonic()
        candidates = model.recall(batch)
        keep("recall", candidates.rows, started)
        ceiling += [np.isin(t, rows).mean() for t, rows in zip(targets[part], candidates.rows, strict=True)]
        started = time.monotonic()
        plain = fitted.model_without_rerank
        scores = plain.fuse(batch, candidates, np.full(candidates.rows.shape, np.nan, dtype=np.float32))
        keep("fusion", candidates.ordered(scores).rows, started)
        started = time.monotonic()
        scores = model.fuse(batch, candidates, model.rerank(batch, candidates))
        keep("final", candidates.ordered(scores).rows, started)
    return Rankings({name: np.concatenate(rows) for name, rows in lists.items()}, np.array(ceiling), seconds)


def count_takers(interactions: Interactions) -> np.ndarray:
    """How many different users took each item: int64 (n_items,)."""
    pairs = np.unique(interactions.user_rows.astype(np.int64) * interactions.n_items + interactions.item_rows)
    return np.bincount(pairs % interactions.n_items, minlength=interactions.n_items)


def stage_name(source: Source) -> str:
    """A source's name in reports."""
    return _STAGE_OF_SOURCE.get(source.name, source.name)


def _fixed(rows: np.ndarray, depth: int) -> np.ndarray:
    """Exactly `depth` columns: cut, or padded with -1."""
    rows = rows[:, :depth]
    return np.pad(rows, ((0, 0), (0, depth - rows.shape[1])), constant_values=-1)
