"""Files in, checked tables out: read_items, read_interactions, read_users.

Bad rows are refused one by one, counted by reason and written to `rejects`; what is wrong with a whole file is an
error. Chunks are turned into rows and numbers as they come, so memory grows by about 115 bytes per interaction and not
with the width of the file (scripts/bench_read.py, 5 million rows, 2026-11).
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd

from retrieval.data.catalogue import CatalogueBuilder, IdTypes, OnDuplicate
from retrieval.data.columns import ITEM_TEXTS, ColumnMap
from retrieval.data.formats import ChunkReader, Source
from retrieval.data.gather import InteractionBuilder
from retrieval.data.ids import IdMap
from retrieval.data.rejects import RejectLog
from retrieval.data.report import ReadReport
from retrieval.data.tables import Interactions, Items, Users
from retrieval.data.times import TimeUnit
from retrieval.data.values import MAX_TEXT_CHARS

logger = logging.getLogger(__name__)

_PANDAS_INDEX = "__index_level_"
"""How pandas calls an index without a name in parquet."""


def read_items(
    source: Source,
    *,
    column_map: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    rejects: str | Path | None = None,
    on_duplicate: OnDuplicate = "error",
    allow_empty: bool = False,
    max_bad_rows: int | None = None,
) -> Items:
    """Reads the catalogue from a file, a folder or a data frame; item rows follow the order of the input.

    Args:
        column_map: our name -> the file's name.
        rejects: where to write refused rows (see `rejects.py` for what `row` counts).
        on_duplicate: what to do with a repeated item_id; "last" keeps the last row, in its own place.
        allow_empty: keep items without a letter or digit in title, description, category and brand.
        max_bad_rows: stop with an error above so many refused rows; None: where most of them are.

    Raises:
        FileNotFoundError: nothing to read. ValueError: a file, a column or too many rows are bad, or no item is left.
        DamagedArtefact: a truncated or altered file. MemoryError: a file that unpacks to far more than it says.
    """
    reader = ChunkReader(source, "items", ColumnMap("items", column_map), encoding=encoding, all_columns=True)
    builder = CatalogueBuilder("item_id", ITEM_TEXTS, needs_words=not allow_empty)
    log = RejectLog(rejects, source=source, max_bad_rows=max_bad_rows)
    return Items(*_read_catalogue(reader, builder, log, on_duplicate=on_duplicate))


def read_users(
    source: Source,
    *,
    column_map: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    rejects: str | Path | None = None,
    on_duplicate: OnDuplicate = "error",
    max_bad_rows: int | None = None,
) -> Users:
    """Reads the user table: user_id, segment, profile, attributes. Arguments and errors as for `read_items`."""
    reader = ChunkReader(source, "users", ColumnMap("users", column_map), encoding=encoding, all_columns=True)
    builder = CatalogueBuilder("user_id", ("segment", "profile"), needs_words=False)
    log = RejectLog(rejects, source=source, max_bad_rows=max_bad_rows)
    return Users(*_read_catalogue(reader, builder, log, on_duplicate=on_duplicate))


def _read_catalogue(
    reader: ChunkReader, builder: CatalogueBuilder, log: RejectLog, *, on_duplicate: OnDuplicate
) -> tuple[IdMap, pd.DataFrame, ReadReport]:
    if on_duplicate not in ("error", "first", "last"):
        raise ValueError(f"on_duplicate: expected error, first or last, got {on_duplicate!r}")
    id_types, n_read = IdTypes(), 0
    with log:
        for chunk in reader:
            n_read += len(chunk) + len(chunk.unreadable)
            log.add_unreadable(str(chunk.file), chunk.unreadable)
            id_types.note(chunk, builder.id_column)
            builder.add(chunk, log)
        _require_rows(reader.table, reader.name, n_read, log)
        ids, frame = builder.finish(log, on_duplicate=on_duplicate)
    warnings = [*reader.warnings, *id_types.warnings(), *builder.warnings]
    if builder.n_empty:
        warnings.append(f"{builder.n_empty:,} items have no text and were left out; allow_empty=True keeps them")
    for name, count in builder.n_cut.items():
        warnings.append(f"{count:,} cells of {name} were cut to {MAX_TEXT_CHARS:,} characters")
    n_untitled = frame["title"].tolist().count("") if "title" in builder.text_columns else 0
    if n_untitled:
        warnings.append(f"{n_untitled:,} items have no title and are shown by their other text")
    if builder.dropped:
        warnings.append(f"attributes of a type that is not kept: {', '.join(sorted(builder.dropped))}")
    report = ReadReport(
        table=reader.table,
        source=reader.name,
        n_read=n_read,
        n_kept=len(ids),
        rejected=dict(log.counts),
        emptied=dict(log.emptied),
        n_replaced=builder.n_replaced,
        n_cut=dict(builder.n_cut),
        attributes=tuple(name for name in frame.columns[1 + len(builder.text_columns) :]),
        id_types=id_types.by_column(),
        rejects=log.path,
        warnings=tuple(warnings),
    )
    _log(report)
    return ids, frame, report


def read_interactions(
    source: Source,
    *,
    items: Items | IdMap | None,
    column_map: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    rejects: str | Path | None = None,
    events: Mapping[str, float] | None = None,
    time_unit: TimeUnit = "auto",
    unlabelled: Literal["reject", "keep"] = "reject",
    max_bad_rows: int | None = None,
) -> Interactions:
    """Reads interactions from a file, a folder or a data frame; users get rows in the order of their first good row.

    A row with label 0, or with an event of weight 0, is an impression without interaction: it goes to `negatives` and
    never into a history. Exact repeats (same user, item, time, event) are dropped and counted; the same pair at another
    time is a repeat purchase and stays.

    Args:
        items: the catalogue; rows of other items are refused. None: every item of the file counts.
        column_map: our name -> the file's name; an empty name leaves an optional column unread.
        rejects: where to write refused rows (see `rejects.py` for what `row` counts).
        events: event -> weight; events it lacks are refused, and a column event must be there. None: every event
            weighs 1, impressions 0.
        time_unit: "auto" takes seconds, ISO dates (without a zone: read as UTC) and positions, and refuses milliseconds
            with a hint.
        unlabelled: what to do with an empty label where the data has labels; "keep" takes it as an interaction.
        max_bad_rows: stop with an error above so many refused rows; None: where most of them are.

    Raises:
        FileNotFoundError: nothing to read. ValueError: a file, a column or too many rows are bad, labels that are all
            equal, or no interaction is left.
        DamagedArtefact: a truncated or altered file. MemoryError: a file that unpacks to far more than it says.
    """
    if unlabelled not in ("reject", "keep"):
        raise ValueError(f"expected unlabelled reject or keep, got {unlabelled!r}")
    reader = ChunkReader(
        source, "interactions", ColumnMap("interactions", column_map), encoding=encoding, all_columns=False
    )
    builder = InteractionBuilder(items, events, time_unit, unlabelled)
    with RejectLog(rejects, source=source, max_bad_rows=max_bad_rows) as log:
        for chunk in reader:
            log.add_unreadable(str(chunk.file), chunk.unreadable)
            builder.add(chunk, log)
        _require_rows("interactions", reader.name, builder.n_kept + log.n_rows, log)
    interactions = builder.finish(reader.name)
    report = _report_interactions(interactions, builder, reader, log)
    _log(report)
    return replace(interactions, report=report)


def _report_interactions(
    interactions: Interactions, builder: InteractionBuilder, reader: ChunkReader, log: RejectLog
) -> ReadReport:
    n_kept = len(interactions) + len(interactions.negatives)
    warnings = [*reader.warnings, *builder.warnings()]
    unread = sorted(name for name in reader.other_columns if not name.startswith(_PANDAS_INDEX))
    if unread:
        warnings.append(f"columns that are not read: {', '.join(unread)}")
    return ReadReport(
        table="interactions",
        source=reader.name,
        n_read=builder.n_kept + log.n_rows,
        n_kept=n_kept,
        rejected=dict(log.counts),
        n_duplicates=builder.n_kept - n_kept,
        unknown_columns=tuple(sorted(reader.other_columns)),
        id_types=builder.id_types.by_column(),
        time_kind=interactions.time_kind,
        rejects=log.path,
        warnings=tuple(warnings),
    )


def _require_rows(table: str, source: str, n_read: int, log: RejectLog) -> None:
    if n_read == 0:
        raise ValueError(f"{source}: expected {table}, got no rows: no {table}")
    if log.n_rows == n_read:
        raise ValueError(f"{source}: no {table} left: all {n_read} rows were refused: {log.examples}")
    log.require_most_good(source, n_read)


def _log(report: ReadReport) -> None:
    logger.info("%s", report.summary())
    for text in report.warnings:
        logger.warning("%s: %s", report.source, text)
