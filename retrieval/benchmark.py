"""Data folders in, one line of figures per data set out: every stage and every yardstick, over several seeds.

The lists of every run and yardstick are kept on disk as soon as it ends (see `retrieval.kept_lists`).
"""

from __future__ import annotations

import functools
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.benchmark_line import cold_figures, line_of
from retrieval.budget import within_budget
from retrieval.catalogue import render_items
from retrieval.config import Config
from retrieval.data import Interactions, Items, read_interactions, read_items, read_users, repeat_share
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.evaluate import Trial, figures_of, make_split, make_trial, rank_trial, validated_as
from retrieval.fit_steps import load_encoder
from retrieval.kept_lists import Made, kept_or_made
from retrieval.metrics import per_user_metrics
from retrieval.stage_figures import Rankings
from retrieval.yardsticks import fitter, make_task, measure_yardstick
from retrieval.yardsticks.sasrec import PUBLISHED

Say = Callable[[str], None]
Encoder = Callable[[], TextEncoder]
# Where one newest item in twenty was taken before, masking what was seen costs more than it saves.
REPEATS_MATTER = 0.05


@dataclass(frozen=True)
class DataSet:
    """A data folder as it is read: items.parquet, interactions.parquet, and users.parquet where there is one."""

    name: str
    items: Items
    interactions: Interactions
    segments: dict[str, str] | None = None


@dataclass(frozen=True)
class Options:
    """What is measured, and how.

    cold_share: above 0, a further run in which so many items have no training interaction gives the cold figures.
    n_seeds: runs with the seeds config.seed, config.seed + 1, ...; the split and the cold items stay the same.
    keep_seen: yes, no, or auto (see `repeats_matter`). minutes: see `retrieval.budget`.
    out: where lists and figures are kept; None keeps nothing.
    """

    split: str = "leave-last-out"
    cold_share: float = 0.0
    n_seeds: int = 1
    keep_seen: str = "auto"
    minutes: float | None = None
    max_users: int | None = None
    yardsticks: tuple[str, ...] = ()
    out: Path | None = None
    progress: bool = False


def read_folder(folder: Path) -> DataSet:
    """Read a data folder; a users table with a segment column gives the segments.

    Raises:
        FileNotFoundError: a table is missing. ValueError: see `retrieval.data`.
    """
    items = read_items(table_in(folder, "items"))
    taken = read_interactions(table_in(folder, "interactions"), items=items)
    try:
        users = table_in(folder, "users")
    except FileNotFoundError:
        return DataSet(folder.resolve().name, items, taken, None)
    return DataSet(folder.resolve().name, items, taken, segments_of(users))


def table_in(folder: Path, name: str) -> Path:
    """The file of a table in a folder: parquet before CSV before JSON lines.

    Raises:
        FileNotFoundError: there is none.
    """
    for suffix in (".parquet", ".csv", ".jsonl"):
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise FileNotFoundError(f"--data: expected {name}.parquet (or .csv, .jsonl) in {str(folder)!r}, found none")


def segments_of(path: Path, column: str = "segment") -> dict[str, str]:
    """Outside user id -> segment, from a users table.

    Raises:
        ValueError: the table has no such column.
    """
    frame = read_users(path).frame
    if column not in frame.columns:
        raise ValueError(f"users: expected a column {column!r} in {str(path)!r}, got {', '.join(frame.columns)}")
    return dict(zip(frame["user_id"].astype(str), frame[column].astype("str").fillna(""), strict=True))


def repeats_matter(interactions: Interactions, split: str) -> bool:
    """Whether people take items again: asked of the training part's newest items, never of the test."""
    return repeat_share(make_split(interactions, split).train) >= REPEATS_MATTER


def benchmark(data: DataSet, config: Config, options: Options, say: Say = lambda message: None) -> dict[str, Any]:
    """All runs of one data set, and their line: see the README for its keys.

    Raises:
        ValueError: see `retrieval.evaluate.make_trial` and `retrieval.fit.fit`.
    """
    started = time.monotonic()
    if options.keep_seen == "auto":
        keep_seen = repeats_matter(data.interactions, options.split)
        say(f"{data.name}: seen items {'may come again' if keep_seen else 'are masked'}")
    else:
        keep_seen = options.keep_seen == "yes"
    config = replace(validated_as(config, options.split), keep_seen=keep_seen)
    if options.minutes is not None:
        config = within_budget(config, len(data.interactions), len(data.items), options.minutes)
    encoder = functools.cache(lambda: load_encoder(config))  # when the first run needs it; its cache serves all of them
    trial = _trial(data, config, options, cold_share=0.0)
    made = {name: run_yardstick(name, data, trial, config, options, encoder, say) for name in options.yardsticks}
    lists = {name: rows for rankings, _ in made.values() for name, rows in rankings.ranked.items()}
    runs = []
    for seed in range(config.seed, config.seed + options.n_seeds):
        rankings, facts = _run(data, trial, replace(config, seed=seed), options, encoder, f"seed {seed}", say)
        rankings = replace(rankings, ranked={**lists, **rankings.ranked})
        figures = figures_of(trial, rankings, segments=data.segments, seed=config.seed)
        runs.append((rankings, {**facts, **figures}))
    cold = None
    if options.cold_share:
        cold_trial = _trial(data, config, options, cold_share=options.cold_share)
        rankings, _ = _run(data, cold_trial, config, options, encoder, f"cold {options.cold_share:g}", say)
        cold = figures_of(cold_trial, rankings, seed=config.seed)
    line = {"dataset": data.name, "split": options.split, **line_of(trial, runs, seed=config.seed)}
    if cold is not None and "cold" in cold:
        line["cold"] = {"share": options.cold_share, **cold_figures(cold)}
    line["yardsticks"] = {name: facts for name, (_, facts) in made.items()}
    line["seconds"]["benchmark"] = time.monotonic() - started
    return line


def _trial(data: DataSet, config: Config, options: Options, *, cold_share: float) -> Trial:
    return make_trial(
        data.interactions,
        options.split,
        cold_share=cold_share,
        keep_seen=config.keep_seen,
        max_users=options.max_users,
        seed=config.seed,
    )


def _run(
    data: DataSet,
    trial: Trial,
    config: Config,
    options: Options,
    encoder: Encoder,
    label: str,
    say: Say,
) -> Made:
    """The lists of Tandem's own stages in one run."""

    def make() -> Made:
        told(f"train on {len(trial.train):,} interactions, {len(trial.users):,} test users")
        return rank_trial(data.items, trial, config, encoder=encoder(), say=told, progress=options.progress)[:2]

    def told(message: str) -> None:
        say(f"{data.name}, {label}: {message}")

    key = {"config": config.to_dict(), "data": _digest(data, trial)}
    name = f"{options.split}-{label.replace(' ', '-')}"
    return kept_or_made(_folder(data, options), name, key, make, told)


def run_yardstick(
    name: str, data: DataSet, trial: Trial, config: Config, options: Options, encoder: Encoder, say: Say
) -> Made:
    """The lists of one yardstick (under its name), and how it was fitted; no list where its library is missing."""

    def make() -> Made:
        told("fit on validation, then on everything")
        try:
            fit = fitter(name)
        except ImportError as error:
            told(f"left out: {error}")
            return Rankings({}, np.empty(0), {}), {"absent": str(error)}
        vectors = encoder().encode(render_items(data.items, config.text)[0]) if name == "neighbours_tuned" else None
        task = make_task(trial.train, len(data.items), config, text_vectors=vectors)
        found = measure_yardstick(fit, task, trial.users, trial.histories, trial.seen)
        told(f"validation NDCG@10 {found.validation_ndcg:.4f} with {found.settings}, {found.fit_seconds:.0f} s")
        facts = {name: value for name, value in vars(found).items() if name != "rows"}
        return Rankings({name: found.rows}, np.empty(0), {"fit": found.fit_seconds, "rank": found.rank_seconds}), facts

    def told(message: str) -> None:
        say(f"{data.name}, yardstick {name}: {message}")

    key = {
        "data": _digest(data, trial),
        "seed": config.seed,
        "keep_seen": config.keep_seen,
        # More than there are changes nothing: a larger budget finds the same lists again.
        "validation_users": min(config.lists.validation_users, trial.train.n_users),
        **({"validation": "time"} if config.lists.by_time else {}),
        **({"encoder": config.encoder.name, "text": config.to_dict()["text"]} if name == "neighbours_tuned" else {}),
    }
    return kept_or_made(_folder(data, options), f"{options.split}-{name}", key, make, told)


def check_sasrec(data: DataSet, config: Config, options: Options, say: Say = lambda message: None) -> dict[str, Any]:
    """SASRec alone under the protocol of the papers, beside the figure published on this data where one is known."""
    trial = _trial(data, config, options, cold_share=0.0)
    rankings, facts = run_yardstick(
        "sasrec_as_published", data, trial, config, options, lambda: load_encoder(config), say
    )
    figures = per_user_metrics(rankings.ranked["sasrec_as_published"], trial.targets)
    found = {name: float(values.mean()) for name, values in figures.items()}
    return {"dataset": data.name, "check": "sasrec", "found": found, "published": PUBLISHED.get(data.name), **facts}


def _folder(data: DataSet, options: Options) -> Path | None:
    return None if options.out is None else options.out / data.name


def _digest(data: DataSet, trial: Trial) -> str:
    """Changes when the items, the training part or the test users do."""
    train, shown = trial.train, trial.train.negatives
    parts = [trial.users, *trial.targets]
    for table in (train, shown):
        parts += [table.user_rows, table.item_rows, table.times]
    total = zlib.crc32(str(data.items.frame.to_json(orient="split", default_handler=str)).encode())
    for part in parts:
        total = zlib.crc32(np.ascontiguousarray(part).tobytes(), total)
    return f"{total:08x}-{len(data.items)}"
