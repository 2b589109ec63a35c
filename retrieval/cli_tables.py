"""What several verbs need before their work begins: a voice for progress, the configuration, the tables."""

from __future__ import annotations

import functools
import inspect
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from retrieval.config import Config
    from retrieval.data import Interactions, Items

Say = Callable[[str], None]
_INTERACTIONS = {"user_id", "timestamp", "event", "weight", "label", "rating"}


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


@dataclass(frozen=True)
class Reading:
    """How the tables are read; the fields are the options that every reading verb has."""

    maps: Annotated[
        list[str] | None,
        typer.Option("--map", help="NAME=COLUMN: what the file calls a column, e.g. user_id=customer; repeatable."),
    ] = None
    events: Annotated[
        list[str] | None,
        typer.Option("--event", help="NAME=WEIGHT: only these events count; weight 0 is a showing; repeatable."),
    ] = None
    encoding: Annotated[str, typer.Option("--encoding", help="Of CSV and JSON lines.")] = "utf-8"
    on_duplicate: Annotated[str, typer.Option("--on-duplicate", help="Same item id twice: error, first, last.")] = (
        "error"
    )
    allow_empty: Annotated[bool, typer.Option("--allow-empty", help="Keep items without any text.")] = False
    rejects: Annotated[
        Path | None, typer.Option("--rejects", help="Folder for refused rows, with file, row and reason.")
    ] = None
    max_bad_rows: Annotated[
        int | None, typer.Option("--max-bad-rows", min=0, help="Stop above so many refused rows.")
    ] = None

    def rejects_file(self, table: str) -> Path | None:
        """Where refused rows of a table go; the folder is made."""
        if self.rejects is None:
            return None
        self.rejects.mkdir(parents=True, exist_ok=True)
        return self.rejects / f"{table}.rejects.jsonl"


def reads_tables(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of `Reading`, which it gets together as `reading`."""
    own = inspect.signature(verb, eval_str=True).parameters
    hints = get_type_hints(Reading, include_extras=True)
    added = [
        inspect.Parameter(
            entry.name, inspect.Parameter.KEYWORD_ONLY, default=entry.default, annotation=hints[entry.name]
        )
        for entry in fields(Reading)
    ]
    kept = [
        own[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in own if name != "reading"
    ]  # typer passes everything by name

    @functools.wraps(verb)
    def run(**values: Any) -> None:
        reading = Reading(**{entry.name: values.pop(entry.name) for entry in fields(Reading)})
        verb(**values, reading=reading)

    run.__signature__ = inspect.Signature([*kept, *added])  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*kept, *added]}
    del run.__wrapped__
    return run


def read_items_table(items: Path, reading: Reading, say: Say) -> Items:
    """The item table; a mapped name that only interactions have is left to them."""
    from retrieval.data import read_items

    say(f"read {items}")
    table = read_items(
        items,
        column_map={name: column for name, column in column_map(reading.maps).items() if name not in _INTERACTIONS},
        encoding=reading.encoding,
        on_duplicate=reading.on_duplicate,  # pyright: ignore[reportArgumentType] - checked by the reader
        allow_empty=reading.allow_empty,
        rejects=reading.rejects_file("items"),
        max_bad_rows=reading.max_bad_rows,
    )
    if table.report is not None:
        say(table.report.summary())
    return table


def read_tables(items: Path, interactions: Path, reading: Reading, say: Say) -> tuple[Items, Interactions]:
    """Both tables; a mapped name goes to the table that knows it (item_id to both)."""
    from retrieval.data import read_interactions

    table = read_items_table(items, reading, say)
    renamed = column_map(reading.maps)
    say(f"read {interactions}")
    taken = read_interactions(
        interactions,
        items=table,
        column_map={name: renamed[name] for name in renamed if name in _INTERACTIONS or name == "item_id"},
        encoding=reading.encoding,
        events=event_weights(reading.events),
        rejects=reading.rejects_file("interactions"),
        max_bad_rows=reading.max_bad_rows,
    )
    if taken.report is not None:
        say(taken.report.summary())
    return table, taken


def event_weights(events: list[str] | None) -> dict[str, float] | None:
    """`--event NAME=WEIGHT` -> {NAME: WEIGHT}; None where none is named. Raises ValueError for anything else."""
    if not events:
        return None
    weights = {}
    for text in events:
        name, _, weight = text.rpartition("=")
        try:
            weights[name] = float(weight)
        except ValueError:
            raise ValueError(f"--event: expected NAME=WEIGHT with a number, got {text!r}") from None
        if not name:
            raise ValueError(f"--event: expected NAME=WEIGHT, got {text!r}")
    return weights
