"""Data folders in, one line of figures per data set out: every stage and every yardstick, over several seeds.

The lists of a run are kept on disk as soon as it ends, so that an interrupted benchmark goes on where it stopped and
figures can be made anew without training. They are found again by data and options, not by the code that made them:
after a change of the code, take a new folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.budget import within_budget
from retrieval.config import Config
from retrieval.data import Interactions, Items, read_interactions, read_items, read_users, repeat_share
from retrieval.encoder.text_encoder import TextEncoder
from retrieval.evaluate import Trial, figures_of, make_split, make_trial, rank_trial
from retrieval.fit_steps import load_encoder
from retrieval.metrics import per_user_metrics
from retrieval.seeds import over_seeds
from retrieval.stage_figures import Rankings, compare

Say = Callable[[str], None]
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
    extra: dict[str, Any] = field(default_factory=dict)


def read_folder(folder: Path) -> DataSet:
    """Read a data folder; a users table with a segment column gives the segments.

    Raises:
        FileNotFoundError: a table is missing. ValueError: see `retrieval.data`.
    """
    for name in ("items.parquet", "interactions.parquet"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"--data: expected {name} in {str(folder)!r}, found none")
    items = read_items(folder / "items.parquet")
    taken = read_interactions(folder / "interactions.parquet", items=items)
    segments = None
    if (folder / "users.parquet").is_file():
        segments = segments_of(folder / "users.parquet")
    return DataSet(folder.resolve().name, items, taken, segments)


def segments_of(path: Path, column: str = "segment") -> dict[str, str]:
    """Outside user id -> segment, from a users table.

    Raises:
        ValueError: the table has no such column.
    """
    frame = read_users(path).frame
    if column not in frame.columns:
        raise ValueError(f"users: expected a column {column!r} in {str(path)!r}, got {', '.join(frame.columns)}")
    return dict(zip(frame["user_id"].astype(str), frame[column].fillna("").astype(str), strict=True))


def repeats_matter(interactions: Interactions, split: str) -> bool:
    """Whether people take items again: asked of the training part's newest items, never of the test."""
    return repeat_share(make_split(interactions, split).train) >= REPEATS_MATTER


def benchmark(data: DataSet, config: Config, options: Options, say: Say = lambda message: None) -> dict[str, Any]:
    """All runs of one data set, and their line.

    Raises:
        ValueError: see `retrieval.evaluate.make_trial` and `retrieval.fit.fit`.
    """
    started = time.monotonic()
    if options.keep_seen == "auto":
        keep_seen = repeats_matter(data.interactions, options.split)
        say(f"{data.name}: seen items {'may come again' if keep_seen else 'are masked'}")
    else:
        keep_seen = options.keep_seen == "yes"
    config = replace(config, keep_seen=keep_seen)
    if options.minutes is not None:
        config = within_budget(config, len(data.interactions), len(data.items), options.minutes)
    encoder: list[TextEncoder] = []  # loaded when the first run needs it; its cache serves all of them
    runs = []
    trial = _trial(data, config, options, cold_share=0.0)
    for seed in range(config.seed, config.seed + options.n_seeds):
        rankings, facts = _run(data, trial, replace(config, seed=seed), options, encoder, f"seed {seed}", say)
        figures = figures_of(trial, rankings, segments=data.segments, seed=config.seed)
        runs.append((rankings, {**facts, **figures}))
    cold = None
    if options.cold_share:
        cold_trial = _trial(data, config, options, cold_share=options.cold_share)
        rankings, _ = _run(data, cold_trial, config, options, encoder, f"cold {options.cold_share:g}", say)
        cold = figures_of(cold_trial, rankings, seed=config.seed)
    line = line_of(data, trial, config, options, runs, cold)
    line["seconds"]["benchmark"] = time.monotonic() - started
    return line


def line_of(
    data: DataSet,
    trial: Trial,
    config: Config,
    options: Options,
    runs: list[tuple[Rankings, dict[str, Any]]],
    cold: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The figures of a data set's runs as one flat line: means over the seeds; differences of the mean lists."""
    first = runs[0][1]
    seeds = over_seeds([figures for _, figures in runs])
    stages = {stage: {m: value["mean"] for m, value in found.items()} for stage, found in seeds["stages"].items()}
    ndcg10 = {stage: found["ndcg@10"] for stage, found in stages.items()}
    recall100 = {stage: found["recall@100"] for stage, found in stages.items()}
    recall100["candidates"] = float(np.mean([figures["ceiling"] for _, figures in runs]))
    per_user = {
        stage: np.mean([per_user_metrics(r.ranked[stage], trial.targets)["ndcg@10"] for r, _ in runs], axis=0)
        for stage in stages
    }
    line: dict[str, Any] = {
        "dataset": data.name,
        "split": options.split,
        "n_users": first["n_users"],
        "n_items": first["n_items"],
        "n_train_interactions": first["n_train_interactions"],
        "users_without_history": first["users_without_history"],
        "keep_seen": config.keep_seen,
        "encoder": first["encoder"],
        "reranker": first["reranker"],
        "ndcg10": ndcg10,
        "recall100": recall100,
        "final_vs": compare(per_user, seed=config.seed),
        "oracle": float(np.mean([figures["oracle"]["ndcg@10"] for _, figures in runs])),
        "segments": first["segments"],
        "seeds": {"n": seeds["n"], **{key: _spread_of(seeds["stages"], metric) for key, metric in _KEYS.items()}},
        "seconds": _seconds_of([figures["seconds"] for _, figures in runs]),
        "ms_per_user": first["ms_per_user"],
        "settings": first["fit"].get("source_settings", {}),
    }
    if cold is not None and "cold" in cold:
        line["cold"] = {
            "share": options.cold_share,
            "n_users": cold["cold"]["n_users"],
            **{
                key: {stage: found[metric] for stage, found in cold["cold"]["stages"].items()}
                for key, metric in _KEYS.items()
            },
            "warm_ndcg10": {stage: found["ndcg@10"] for stage, found in cold["warm"]["stages"].items()},
        }
    return line


_KEYS = {"ndcg10": "ndcg@10", "recall100": "recall@100"}


def _spread_of(stages: Mapping[str, Any], metric: str) -> dict[str, dict[str, float]]:
    return {stage: found[metric] for stage, found in stages.items()}


def _seconds_of(runs: list[Mapping[str, float]]) -> dict[str, float]:
    """Means over the runs: a fit's steps as they are, ranking together as `evaluate`."""
    steps = {name: float(np.mean([run.get(name, 0.0) for run in runs])) for name in runs[0]}
    ranking = sum(value for name, value in steps.items() if name.startswith("rank_"))
    return {**{k: v for k, v in steps.items() if not k.startswith("rank_") and k != "total"}, "evaluate": ranking}


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
    encoder: list[TextEncoder],
    label: str,
    say: Say,
) -> tuple[Rankings, dict[str, Any]]:
    """The lists of one run: read, where they are kept, else made and kept."""
    key = {
        "config": config.to_dict(),
        "data": _digest(data, trial),
        "split": options.split,
        "label": label,
    }
    kept = None
    if options.out is not None:
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:10]
        kept = options.out / data.name / f"{options.split}-{label.replace(' ', '-')}-{name}"
        found = read_lists(kept)
        if found is not None:
            say(f"{data.name}, {label}: kept lists of {kept.name}")
            return found
    say(f"{data.name}, {label}: train on {len(trial.train):,} interactions, {len(trial.users):,} test users")
    if not encoder:
        encoder.append(load_encoder(config))
    rankings, facts, _ = rank_trial(
        data.items,
        trial,
        config,
        encoder=encoder[0],
        say=lambda message: say(f"{data.name}, {label}: {message}"),
        progress=options.progress,
    )
    if kept is not None:
        write_lists(kept, rankings, {**facts, "key": key})
    return rankings, facts


def _digest(data: DataSet, trial: Trial) -> str:
    """Changes when the data, the training part or the test users do."""
    parts = (trial.train.user_rows, trial.train.item_rows, trial.users, *trial.targets)
    total = 0
    for part in parts:
        total = zlib.crc32(np.ascontiguousarray(part).tobytes(), total)
    return f"{total:08x}-{len(data.items)}"


def write_lists(path: Path, rankings: Rankings, facts: Mapping[str, Any]) -> None:
    """Keep lists as PATH.npz and facts as PATH.json; the latter last, so that a broken run leaves nothing to read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"stage_{name}": rows.astype(np.int32) for name, rows in rankings.ranked.items()}
    part = path.with_name(f".{path.name}.{os.getpid()}.npz")
    np.savez_compressed(part, candidate_recall=rankings.candidate_recall, allow_pickle=False, **arrays)
    os.replace(part, f"{path}.npz")
    text = json.dumps({"seconds_of_stages": rankings.seconds, **facts}, default=float)
    part = path.with_name(f".{path.name}.{os.getpid()}.json")
    part.write_text(text, encoding="utf-8")
    os.replace(part, f"{path}.json")


def read_lists(path: Path) -> tuple[Rankings, dict[str, Any]] | None:
    """What `write_lists` kept, or None."""
    facts_file, lists_file = Path(f"{path}.json"), Path(f"{path}.npz")
    if not facts_file.is_file() or not lists_file.is_file():
        return None
    facts = json.loads(facts_file.read_text(encoding="utf-8"))
    with np.load(lists_file, allow_pickle=False) as arrays:
        ranked = {
            name.removeprefix("stage_"): arrays[name].astype(np.int64)
            for name in arrays.files
            if name.startswith("stage_")
        }
        rankings = Rankings(ranked, arrays["candidate_recall"], facts["seconds_of_stages"])
    return rankings, facts
