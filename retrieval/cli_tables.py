"""What several verbs need before their work begins: a voice for progress, the tables."""

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

from retrieval.cli_checks import check_readable

if TYPE_CHECKING:
    from retrieval.data import Interactions, Items, ReadReport


class Teller:
    """Says a line on stderr with the seconds since it was made; when quiet only what was left out or removed."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self._started = time.monotonic()

    def __call__(self, message: str) -> None:
        if not self.quiet:
            print(f"[{time.monotonic() - self._started:6.1f} s] {message}", file=sys.stderr, flush=True)

    def of_rows(self, report: ReadReport | None) -> None:
        """What became of the rows of a table."""
        if report is None:
            return
        self(report.summary(warnings=False))  # these were logged
        if report.unasked:
            self._if_quiet(report.refusal)

    def of_changes(self, message: str, *, removed: bool) -> None:
        """What a rebuild did, said in any case where it removed something."""
        self(message)
        if removed:
            self._if_quiet(message)

    def _if_quiet(self, message: str) -> None:
        if self.quiet:
            print(f"WARNING: {message}", file=sys.stderr, flush=True)


def column_map(maps: list[str] | None, *tables: str) -> dict[str, str]:
    """`--map NAME=COLUMN` or `--map TABLE.NAME=COLUMN` -> {"NAME" or "TABLE.NAME": COLUMN}, of these tables.

    An empty COLUMN leaves an optional column unread. Raises ValueError for anything else.
    """
    from retrieval.data.columns import KNOWN

    found: dict[str, str] = {}
    for text in maps or []:
        name, equals, column = text.partition("=")
        table, dot, own = name.rpartition(".")
        if not (name and equals):
            raise ValueError(f"--map: expected NAME=COLUMN or TABLE.NAME=COLUMN, got {text!r}")
        if not any(own in KNOWN[which] for which in tables if not dot or which == table):
            known = "; ".join(f"{which}: {', '.join(KNOWN[which])}" for which in tables)
            raise ValueError(f"--map: expected a name that a table has ({known}), got {text!r}")
        if found.get(name, column) != column:
            raise ValueError(f"--map: expected one column for {name}, got {found[name]!r} and {column!r}")
        found[name] = column
    return found


def map_of(given: dict[str, str], table: str) -> dict[str, str]:
    """What `column_map` gave, for one table; TABLE.NAME wins over NAME."""
    from retrieval.data.columns import KNOWN

    plain = {name: column for name, column in given.items() if name in KNOWN[table]}
    own = {name.removeprefix(f"{table}."): column for name, column in given.items() if name.startswith(f"{table}.")}
    return plain | own


def _maps_of_both(given: dict[str, str], items: Path, interactions: Path, encoding: str) -> list[dict[str, str]]:
    """The maps of the item table and of the interactions; a plain item_id goes to those that have its column."""
    from retrieval.data.formats import column_names

    maps = [map_of(given, "items"), map_of(given, "interactions")]
    shared = [name for name in given if all(name in one for one in maps)]
    for name in shared:
        having = [given[name] in column_names(path, encoding=encoding) for path in (items, interactions)]
        for table, one, has in zip(("items", "interactions"), maps, having, strict=True):
            if any(having) and not has and f"{table}.{name}" not in given:
                del one[name]
    return maps


@dataclass(frozen=True)
class Reading:
    """How the tables are read; the fields are the options that every reading verb has."""

    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="NAME=COLUMN: what the file calls a column, e.g. user_id=customer; of one table only: "
            "items.item_id=sku, interactions.item_id=product; repeatable.",
        ),
    ] = None
    events: Annotated[
        list[str] | None,
        typer.Option("--event", help="NAME=WEIGHT: only these events count; weight 0 is a showing; repeatable."),
    ] = None
    encoding: Annotated[str, typer.Option("--encoding", help="Of CSV and JSON lines.")] = "utf-8"
    time_unit: Annotated[
        str, typer.Option("--time-unit", help="Of timestamp: auto, seconds, milliseconds, positions (1, 2, 3, ...).")
    ] = "auto"
    on_duplicate: Annotated[str, typer.Option("--on-duplicate", help="Same item id twice: error, first, last.")] = (
        "error"
    )
    allow_empty: Annotated[bool, typer.Option("--allow-empty", help="Keep items without any text.")] = False
    rejects: Annotated[
        Path | None,
        typer.Option("--rejects", help="Folder for refused rows, dropped rows and emptied cells, with reasons."),
    ] = None
    max_bad_rows: Annotated[
        int | None, typer.Option("--max-bad-rows", min=0, help="Stop above so many refused rows; else where most are.")
    ] = None

    def rejects_file(self, table: str) -> Path | None:
        """Where refused rows of a table go; the folder is made."""
        if self.rejects is None:
            return None
        if self.rejects.exists() and not self.rejects.is_dir():
            raise ValueError(f"--rejects: expected a folder, got the file {str(self.rejects)!r}; name another place")
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


def read_items_table(items: Path, reading: Reading, say: Teller) -> Items:
    """The item table alone.

    Raises:
        ValueError: an option that only interactions have; or see `retrieval.data.read_items`.
    """
    given = column_map(reading.maps, "items", "interactions")
    own = map_of(given, "items")
    for name, column in given.items():
        if name not in own and not name.startswith("items."):
            raise ValueError(
                f"--map: expected columns of the items, as no --interactions are read, got {name}={column}"
            )
    if reading.events:
        raise ValueError("--event: expected --interactions with it, since only they have events; leave it out")
    return _read_items(items, own, reading, say)


def _read_items(items: Path, renamed: dict[str, str], reading: Reading, say: Teller) -> Items:
    from retrieval.data import read_items

    say(f"read {items}")
    table = read_items(
        items,
        column_map=renamed,
        encoding=reading.encoding,
        on_duplicate=reading.on_duplicate,  # pyright: ignore[reportArgumentType] - checked by the reader
        allow_empty=reading.allow_empty,
        rejects=reading.rejects_file("items"),
        max_bad_rows=reading.max_bad_rows,
    )
    say.of_rows(table.report)
    return table


def read_tables(items: Path, interactions: Path, reading: Reading, say: Teller) -> tuple[Items, Interactions]:
    """Both tables; a mapped name goes to the table that knows it, item_id to those that have the column."""
    from retrieval.data import read_interactions

    check_readable(items, interactions)  # both, before one of them is read
    given = column_map(reading.maps, "items", "interactions")
    of_items, of_interactions = _maps_of_both(given, items, interactions, reading.encoding)
    events = event_weights(reading.events)
    table = _read_items(items, of_items, reading, say)
    say(f"read {interactions}")
    taken = read_interactions(
        interactions,
        items=table,
        column_map=of_interactions,
        encoding=reading.encoding,
        events=events,
        time_unit=reading.time_unit,  # pyright: ignore[reportArgumentType] - checked by the reader
        rejects=reading.rejects_file("interactions"),
        max_bad_rows=reading.max_bad_rows,
    )
    say.of_rows(taken.report)
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
