"""What several verbs need before their work begins: a voice for progress, the configuration, the tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval.config import Config
    from retrieval.data import Interactions, Items

Say = Callable[[str], None]


def teller(quiet: bool) -> Say:
    """Says a line on stderr with the seconds since now; nothing when quiet."""
    started = time.monotonic()

    def say(message: str) -> None:
        if not quiet:
            print(f"[{time.monotonic() - started:6.1f} s] {message}", file=sys.stderr, flush=True)

    return say


def chosen_config(
    path: Path | None, sets: list[str] | None, *, keep_seen: bool | None, device: str | None, seed: int | None
) -> Config:
    """The configuration file, then --set, then the flags.

    Raises:
        ValueError: see `retrieval.config.read_config` and `parse_override`.
    """
    from retrieval.config import merge_values, parse_override, read_config

    over: dict[str, Any] = {}
    for text in sets or []:
        over = merge_values(over, parse_override(text))
    flags = {"keep_seen": keep_seen, "device": device, "seed": seed}
    return read_config(path, merge_values(over, {name: value for name, value in flags.items() if value is not None}))


def column_map(maps: list[str] | None) -> dict[str, str]:
    """`--map NAME=COLUMN` -> {NAME: COLUMN}. Raises ValueError for anything else."""
    pairs = [text.partition("=") for text in maps or []]
    for (name, equals, column), text in zip(pairs, maps or [], strict=True):
        if not (name and equals and column):
            raise ValueError(f"--map: expected NAME=COLUMN, got {text!r}")
    return {name: column for name, _, column in pairs}


def read_tables(
    items: Path, interactions: Path, maps: list[str] | None, rejects: Path | None, max_bad_rows: int | None, say: Say
) -> tuple[Items, Interactions]:
    """Both tables; a mapped name goes to the table that knows it (item_id to both)."""
    from retrieval.data import read_interactions, read_items

    renamed = column_map(maps)
    ours = {"user_id", "timestamp", "event", "weight", "label", "rating"}
    if rejects is not None:
        rejects.mkdir(parents=True, exist_ok=True)
    say(f"read {items}")
    table = read_items(
        items,
        column_map={name: column for name, column in renamed.items() if name not in ours},
        rejects=rejects / "items.rejects.jsonl" if rejects else None,
        max_bad_rows=max_bad_rows,
    )
    say(f"read {interactions}")
    taken = read_interactions(
        interactions,
        items=table,
        column_map={name: column for name, column in renamed.items() if name in ours or name == "item_id"},
        rejects=rejects / "interactions.rejects.jsonl" if rejects else None,
        max_bad_rows=max_bad_rows,
    )
    for report in (table.report, taken.report):
        if report is not None:
            say(report.summary())
    return table, taken
