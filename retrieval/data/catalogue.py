"""The item table and the user table are read the same way: ids, clean text columns, typed attributes."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from retrieval.data import arrow
from retrieval.data.chunks import Chunk
from retrieval.data.ids import IdEncoder, IdMap
from retrieval.data.infer import Inferred, infer
from retrieval.data.join import in_words, join_parts, to_frame
from retrieval.data.rejects import RejectLog, RowFaults, values_of
from retrieval.data.values import describe, plain_text, read_texts

OnDuplicate = Literal["error", "first", "last"]
_ANYTHING = r"(?s)."
_HAS_WORDS = r"[\p{L}\p{N}]"  # emoji and punctuation alone are one unknown token to a tokenizer


@dataclass
class CatalogueBuilder:
    """Takes chunks of a table with one row per id, gives an IdMap and a frame in the same order."""

    id_column: str
    text_columns: tuple[str, ...]
    needs_words: bool
    """Rows without a letter or digit in any text column are refused."""
    n_cut: Counter[str] = field(default_factory=Counter)
    n_empty: int = 0
    n_replaced: int = 0
    dropped: set[str] = field(default_factory=set)
    """Attributes of a type that cannot be kept."""
    warnings: list[str] = field(default_factory=list)
    """What a person should know about the attributes; complete after `finish`."""

    def __post_init__(self) -> None:
        self._encoder = IdEncoder()
        self._rows: list[np.ndarray] = []
        self._parts: list[dict[str, pa.Array]] = []
        self._places: list[tuple[str, np.ndarray]] = []
        """File and row numbers of every part, to name a cell that is only judged at the end."""
        self._untyped: set[str] = set()
        self._mixed: set[str] = set()

    def add(self, chunk: Chunk, log: RejectLog) -> None:
        """Checks one chunk and keeps its good rows."""
        faults = RowFaults(len(chunk))
        rows = encode_ids(self._encoder, chunk, self.id_column, faults)
        part: dict[str, pa.Array] = {}
        for name in self.text_columns:
            part[name] = self._read_text(chunk, name, faults)
        if self.needs_words:
            has_words = np.zeros(len(chunk), bool)
            for name in self.text_columns:
                has_words |= arrow.matches(part[name], _HAS_WORDS)
            self.n_empty += int((~has_words & faults.good).sum())
            faults.mark(~has_words, "text is empty: no letter or digit in " + ", ".join(self.text_columns))
        for name in chunk.columns.keys() - part.keys() - {self.id_column}:
            if (column := self._read_attribute(chunk, name)) is not None:
                part[name] = column
        log.add(str(chunk.file), chunk.rows, faults, chunk.columns)
        good = pa.array(faults.good)
        self._rows.append(rows[faults.good])
        self._places.append((str(chunk.file), chunk.rows[faults.good]))
        self._parts.append({name: column.filter(good) for name, column in part.items()})

    def _read_text(self, chunk: Chunk, name: str, faults: RowFaults) -> pa.Array:
        if name not in chunk.columns:
            return pa.array([""] * len(chunk), arrow.TEXT)
        try:
            texts = read_texts(chunk.columns[name])
        except TypeError as error:
            raise ValueError(f"{chunk.file}: column {name!r}: expected text, found {error}") from None
        for reason, mask in texts.wrong.items():
            faults.mark(mask, f"{name} {reason}")
        if texts.n_cut:
            self.n_cut[name] += texts.n_cut
        return texts.values

    def _read_attribute(self, chunk: Chunk, name: str) -> pa.Array | None:
        column = chunk.columns[name]
        if not chunk.typed:
            self._untyped.add(name)
        if isinstance(column, list):
            self._mixed.add(name)
            column = pa.array([plain_text(value) for value in column], arrow.TEXT)
        kind = column.type
        if pa.types.is_decimal(kind):
            return _undecimal(column)
        plain = (
            pa.types.is_boolean,
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_date,
            pa.types.is_timestamp,
        )
        if any(test(kind) for test in plain) or pa.types.is_null(kind):
            return column
        try:
            texts = read_texts(column)
        except TypeError:
            self.dropped.add(name)
            return None
        if texts.n_cut:
            self.n_cut[name] += texts.n_cut
        return arrow.keep_where(arrow.matches(texts.values, _ANYTHING), texts.values)

    def finish(self, log: RejectLog, *, on_duplicate: OnDuplicate) -> tuple[IdMap, pd.DataFrame]:
        """Joins the chunks; applies `on_duplicate`. Attributes are sorted by name; cells they lose go to the log."""
        rows = np.concatenate(self._rows) if self._rows else np.empty(0, np.int64)
        keep = self._distinct(rows, on_duplicate)
        if len(keep) < len(rows):
            self._drop(rows, keep, log, kept=on_duplicate)
            self._keep_only(keep, len(rows))
        names = {name for part in self._parts for name in part} - set(self.text_columns)
        joined = {name: self._join(name, log) for name in (*self.text_columns, *sorted(names))}
        ids = self._encoder.to_map(rows[keep])
        frame = to_frame(joined)
        frame.insert(0, self.id_column, pd.Series(ids.ids, dtype="str"))
        return ids, frame

    def _distinct(self, rows: np.ndarray, on_duplicate: OnDuplicate) -> np.ndarray:
        """Positions of the rows to keep, rising."""
        from_end = on_duplicate == "last"
        _, first = np.unique(rows[::-1] if from_end else rows, return_index=True)
        keep = np.sort(len(rows) - 1 - first if from_end else first)
        self.n_replaced = len(rows) - len(keep)
        if self.n_replaced and on_duplicate == "error":
            repeated = rows[np.setdiff1d(np.arange(len(rows)), keep)]
            examples = self._encoder.to_map(repeated[np.sort(np.unique(repeated, return_index=True)[1])][:5]).ids
            raise ValueError(
                f"expected every {self.id_column} once, got {self.n_replaced} rows with a repeated one: "
                f"{', '.join(map(repr, examples))}; mend them or pass on_duplicate='last' (or 'first')"
            )
        return keep

    def _drop(self, rows: np.ndarray, keep: np.ndarray, log: RejectLog, *, kept: str) -> None:
        """Leaves the rows that gave way with their reason."""
        gone = np.setdiff1d(np.arange(len(rows)), keep)
        files, numbers = self._origins()
        starts = np.cumsum([0, *(len(rows) for _, rows in self._places)])
        for place, name in zip(gone, self._encoder.to_map(rows[gone]).ids, strict=True):
            reason, part = f"{self.id_column} is there more than once; the {kept} row is kept", files[place]
            values = values_of(self._parts[part], int(place - starts[part])) if log.path is not None else {}
            said = {column: value for column, value in values.items() if value}  # a text that a file lacks is empty
            log.drop(self._places[part][0], int(numbers[place]), reason, {self.id_column: str(name), **said})

    def _keep_only(self, keep: np.ndarray, n_rows: int) -> None:
        """Lets all other rows go, part by part: two copies of everything would double the peak."""
        kept = np.isin(np.arange(n_rows), keep)
        masks = np.split(kept, np.cumsum([len(rows) for rows in self._rows])[:-1])
        for number, mask in enumerate(masks):
            if mask.all():
                continue
            file, rows = self._places[number]
            self._places[number] = file, rows[mask]
            self._rows[number] = self._rows[number][mask]
            self._parts[number] = {name: column.filter(pa.array(mask)) for name, column in self._parts[number].items()}

    def _origins(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every row the place of its chunk in `_places`, and its number for a person: int64 (n_rows,) each."""
        files = np.repeat(np.arange(len(self._places)), [len(rows) for _, rows in self._places])
        return files, np.concatenate([rows for _, rows in self._places])

    def _join(self, name: str, log: RejectLog) -> pa.ChunkedArray | pa.Array:
        parts = [part.get(name, pa.nulls(len(rows))) for part, rows in zip(self._parts, self._rows, strict=True)]
        joined = join_parts(parts)
        column, notes = joined.column, [joined.note]
        mixed = name in self._mixed or any(map(arrow.is_number, joined.kinds))
        if name not in self.text_columns and arrow.is_text(column.type) and (mixed or name in self._untyped):
            found = infer(column, mixed=mixed)
            self._report(name, found, column, log)
            column, notes = found.column, [found.note]
        words = in_words(joined.kinds) + ["values that no one type holds"] * (name in self._mixed)
        if arrow.is_text(column.type) and words:
            notes.append(
                f"comes as {' and as '.join(words)}, and is kept as text; write it in one way to filter by range"
            )
        self.warnings += [f"{name} {note}" for note in notes if note]
        return column

    def _report(self, name: str, found: Inferred, column: pa.ChunkedArray, log: RejectLog) -> None:
        """Says which cells of an attribute are not of its kind, and what became of them."""
        misfits = np.flatnonzero(found.misfits)
        if not len(misfits):
            return
        files, numbers = self._origins()
        cells = [str(cell) for cell in column.filter(pa.array(found.misfits)).to_pylist()]
        first = f"{cells[0][:40]!r}, {self._places[files[misfits[0]]][0]}:{numbers[misfits[0]]}"
        if not found.emptied:
            self.warnings.append(
                f"{name} is kept as text, though most of it are {found.kind}s: {len(misfits):,} cells are none (first: "
                f"{first}); mend them to filter by range"
            )
            return
        reason = f"{name} is no {found.kind}; the row is kept without it"
        for place, cell in zip(misfits, cells, strict=True):
            log.note(self._places[files[place]][0], int(numbers[place]), reason, {name: cell})
        self.warnings.append(f"{len(misfits):,} cells of {name} are no {found.kind}s and were emptied (first: {first})")


def _undecimal(column: pa.Array) -> pa.Array:
    """Decimals as whole numbers where they have no places and 64 bits hold them (as NUMBER), else as fractions."""
    if column.type.scale == 0:
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            pass
    return column.cast(pa.float64())


def encode_ids(encoder: IdEncoder, chunk: Chunk, name: str, faults: RowFaults) -> np.ndarray:
    """Gives the rows of an id column, int64, negative where a fault was marked.

    Raises:
        ValueError: a column whose type cannot hold ids.
    """
    column = chunk.columns.get(name)
    if column is None:
        column = pa.nulls(len(chunk), pa.string())
    if not isinstance(column, list):
        kind = column.type
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        if pa.types.is_integer(inner) or pa.types.is_null(inner):
            column = column.dictionary_decode() if inner is not kind else column
            column = column.cast(pa.string())
        elif not arrow.is_text(kind):
            raise ValueError(
                f"{chunk.file}: column {name!r}: expected text or whole numbers, found {describe(column)}; "
                "write ids as text (whole numbers with gaps turn into fractions, which lose digits)"
            )
    rows, found = encoder.encode(column)
    for mask, reason in found:
        faults.mark(mask, f"{name} {reason}")
    return rows


class IdTypes:
    """Remembers whether an id column came as text or as whole numbers, over files and tables."""

    def __init__(self) -> None:
        self._seen: dict[str, set[str]] = {}

    def note(self, chunk: Chunk, name: str) -> None:
        """Takes the type of one chunk's column, where the format has types."""
        column = chunk.columns.get(name)
        if column is None or not chunk.typed:
            return
        if isinstance(column, list):
            kinds = {"text" if isinstance(value, str) else "whole numbers" for value in column if value is not None}
        else:
            kinds = (
                set() if pa.types.is_null(column.type) else {"text" if arrow.is_text(column.type) else "whole numbers"}
            )
        self._seen.setdefault(name, set()).update(kinds)

    def by_column(self) -> dict[str, str]:
        """Column -> "text", "whole numbers" or "text and whole numbers"."""
        return {name: " and ".join(sorted(kinds)) for name, kinds in self._seen.items() if kinds}

    def warnings(self) -> list[str]:
        """One line per column that came both ways."""
        return [
            f"{name} comes as text and as whole numbers; compared as text, so 1 and '1' are one id"
            for name, kinds in self._seen.items()
            if len(kinds) > 1
        ]
