"""Train on the past, rank every item for every test user, and say what each stage is worth.

All items are ranked (no sampled negatives: Krichene and Rendle 2020), the same users and list depth for every
stage; differences come with paired bootstrap intervals over users.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieval.config import Config
from retrieval.data import Interactions, Items, Split, leave_last_out, time_split
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.fit import Fitted, fit, histories_of
from retrieval.metrics import coverage, novelty, paired_bootstrap, per_user_metrics
from retrieval.sources import Queries, Source
from retrieval.stage_one import in_batches, sub_queries
from retrieval.two_stage import batch_size

SPLITS = ("leave-last-out", "time")
# What the sources are called in a report; the rest keep their names.
_STAGE_OF_SOURCE = {"popular": "popularity"}
_DEPTH = 100


@dataclass(frozen=True)
class Rankings:
    """Ranked rows per stage: int64 (n_users, 100), best first, -1 at padding; in the order of the test users."""

    ranked: dict[str, np.ndarray]
    candidate_recall: np.ndarray
    seconds: dict[str, float]


def make_split(interactions: Interactions, name: str, *, at: float | None = None) -> Split:
    """`leave-last-out`: every user's newest interaction is the target. `time`: everything after one moment is.

    Raises:
        ValueError: an unknown name, or data that has no clock (see `retrieval.data.time_split`).
    """
    if name == "leave-last-out":
        return leave_last_out(interactions)
    if name == "time":
        return time_split(interactions, at=at)
    raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {name!r}")


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
    say: Callable[[str], None] = lambda message: None,
    progress: bool = False,
) -> tuple[dict[str, Any], Fitted]:
    """Fit on the training part of a split and measure every stage on the rest.

    Args:
        at: the moment of a time split; by default nine tenths of the interactions lie before it.
        max_users: measure on so many test users at random (seeded); None measures all.

    Returns:
        The evaluation (see the README for its keys) and what was fitted on the training part.
    """
    parts = make_split(interactions, split, at=at)
    started = time.monotonic()
    fitted = fit(items, parts.train, config, encoder=encoder, say=say, progress=progress)
    users, targets = np.asarray(parts.test_users), parts.targets
    if max_users is not None and len(users) > max_users:
        chosen = np.sort(np.random.default_rng(config.seed).choice(len(users), max_users, replace=False))
        users, targets = users[chosen], [targets[i] for i in chosen]
    histories = histories_of(parts.train)
    empty = np.empty(0, dtype=np.int64)
    test = [histories[user] for user in users]
    queries = fitted.model.catalogue.queries(test, exclude=[empty] * len(test) if config.keep_seen else None)
    say(f"rank all items for {len(users):,} test users")
    rankings = rank_stages(fitted, queries, targets)
    counts = count_takers(parts.train)
    result: dict[str, Any] = {
        "dataset": dataset,
        "split": split,
        "n_users": len(users),
        "n_items": len(items),
        "n_train_interactions": len(parts.train),
        "keep_seen": config.keep_seen,
        "encoder": fitted.model.catalogue.encoder.name,
        "reranker": None if fitted.model.reranker is None else fitted.model.reranker.config.model,
        **summarise(rankings, targets, counts, parts.train.n_users, seed=config.seed),
        "fusion": fitted.model.final_fusion.figures,
        "users_without_history": len(parts.no_history),
        "seconds": {**fitted.seconds, **rankings.seconds, "total": time.monotonic() - started},
        "fit": fitted.record,
    }
    return result, fitted


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


def summarise(
    rankings: Rankings, targets: list[np.ndarray], counts: np.ndarray, n_train_users: int, *, seed: int
) -> dict[str, Any]:
    """Means per stage, warm and cold targets apart, and final against every other stage.

    Args:
        counts: int64 (n_items,), how many users took each item in training; an item without one is cold.
    """
    values = {name: per_user_metrics(rows, targets) for name, rows in rankings.ranked.items()}
    stages: dict[str, dict[str, float]] = {}
    for name, rows in rankings.ranked.items():
        stages[name] = {metric: float(array.mean()) for metric, array in values[name].items()}
        stages[name]["coverage@10"] = coverage(rows, len(counts))
        stages[name]["novelty@10"] = novelty(rows, counts, n_train_users)
    final_vs = {}
    for name in rankings.ranked:
        if name != "final":
            interval = paired_bootstrap(values["final"]["ndcg@10"], values[name]["ndcg@10"], seed=seed)
            final_vs[name] = {"diff": interval.diff, "low": interval.low, "high": interval.high}
    result = {"stages": stages, "final_vs": final_vs, "ceiling": float(rankings.candidate_recall.mean())}
    for kind, is_kind in (("warm", counts > 0), ("cold", counts == 0)):
        own = [target[is_kind[target]] for target in targets]
        chosen = [user for user, rows in enumerate(own) if len(rows)]
        if chosen:
            picked = [own[user] for user in chosen]
            result[kind] = {
                "n_users": len(chosen),
                "stages": {
                    name: {m: float(a.mean()) for m, a in per_user_metrics(rows[chosen], picked).items()}
                    for name, rows in rankings.ranked.items()
                },
            }
    return result


def _fixed(rows: np.ndarray, depth: int) -> np.ndarray:
    """Exactly `depth` columns: cut, or padded with -1."""
    rows = rows[:, :depth]
    return np.pad(rows, ((0, 0), (0, depth - rows.shape[1])), constant_values=-1)
