"""A CSV or TSV file, packed or not, becomes chunks of text columns; nothing is guessed from the values.

Two parsers, one meaning. Python's csv module is the reference: exact line numbers, every fault named. Blocks without a
quote, a NUL or an odd line break have only one reading, so pyarrow takes those, several times faster; the first block
it cannot vouch for hands the rest of the file to the csv module.
"""

import csv
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from retrieval.data import files
from retrieval.data.chunks import Chunk, check_names
from retrieval.data.files import BLOCK_BYTES, BoundedLines, as_text, check_encoding, explain_decode_error, open_bytes

MAX_FIELD_CHARS = 16 << 20  # a quoted field longer than this is an unclosed quote
_SLICE_ROWS = 2048
_MAX_SLICE_BYTES = 512 << 20
_LINE_BREAK = re.compile("\r\n|\r|\n")


@dataclass
class _Place:
    """How far a file has been read: what the fast parser hands to the exact one."""

    file: Path
    delimiter: str
    required: Mapping[str, str]
    wanted: Collection[str] | None
    names: list[str] = field(default_factory=list)
    """The header, empty until it has been read."""
    line: int = 1
    """Number of the first line not yet read."""
    leftover: bytes = b""
    """Bytes taken from the file but not yet read as rows."""
    done: bool = False

    def set_header(self, names: list[str]) -> None:
        self.names = [name.strip() for name in names]
        check_names(self.file, self.names, self.required)

    def asked(self) -> list[int]:
        return [place for place, name in enumerate(self.names) if self.wanted is None or name in self.wanted]


def read_csv_chunks(
    file: Path, *, required: Mapping[str, str], wanted: Collection[str] | None, encoding: str, delimiter: str
) -> Iterator[Chunk]:
    """Yields the chunks of one file; `wanted` None means all columns.

    Raises:
        ValueError: empty file, repeated or missing column, bytes of another encoding, a NUL, an unclosed quote, or a
            first thousand rows that all have another number of fields than the header.
    """
    codec = check_encoding(file, encoding)
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARS))  # of the whole process, so only ever raised
    place = _Place(file, delimiter, required, wanted)
    try:
        with open_bytes(file) as raw:
            if codec == "utf-8-sig":
                yield from _read_plain_blocks(raw, place)
                codec = "utf-8-sig" if place.line == 1 else "utf-8"
            if not place.done:
                yield from _read_exactly(raw, place, codec)
    except UnicodeDecodeError as error:
        raise explain_decode_error(file, codec) from error


def _read_plain_blocks(raw: IO[bytes], place: _Place) -> Iterator[Chunk]:
    """Yields chunks as long as blocks are plain; then leaves the rest in `place.leftover`."""
    pending = b""
    while not place.done:
        block = raw.read(BLOCK_BYTES)
        place.leftover = data = pending + block
        end = data.rfind(b"\n") + 1 if block else len(data)
        place.done = not block
        body, pending = data[:end], data[end:]
        if not body and (not place.names or len(data) > files.MAX_LINE_BYTES):
            place.done = False
            return
        if not place.names:
            body = _take_header(body, place)
        table = _parse_plain(body, place) if place.names else None
        if table is None:
            place.done = False
            return
        rows = np.arange(place.line, place.line + table.num_rows, dtype=np.int64)
        place.line += table.num_rows
        names = place.names
        columns = {names[at]: table.column(number).combine_chunks() for number, at in enumerate(place.asked())}
        if len(rows):
            yield Chunk(place.file, tuple(names), dict(columns), rows, typed=False)


def _take_header(body: bytes, place: _Place) -> bytes:
    """Reads the names from the first line if it is a plain one; gives the bytes after it."""
    line, newline, rest = body.partition(b"\n")
    try:
        text = line.decode("utf-8-sig").removesuffix("\r")
        header = list(csv.reader([text], delimiter=place.delimiter, strict=True))
    except (UnicodeDecodeError, csv.Error):
        return body
    if len(header) != 1 or not header[0] or "\0" in text or "\r" in text:
        return body
    place.set_header(header[0])
    place.line, place.leftover = 2, place.leftover[len(line) + len(newline) :]
    return rest


def _parse_plain(body: bytes, place: _Place) -> pa.Table | None:
    """Parses a block that can be read in one way only, else gives None."""
    if b'"' in body or b"\0" in body or body.count(b"\r") != body.count(b"\r\n"):
        return None
    names = [str(number) for number in range(len(place.names))]
    asked = [names[at] for at in place.asked()]
    if not body:
        return pa.table({name: pa.array([], pa.string()) for name in asked})
    try:
        if not body.isascii():
            body.decode("utf-8")  # columns that are not read must be text as well, as in the exact parser
        table = arrow_csv.read_csv(
            pa.BufferReader(body),
            read_options=arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(body) + 1),
            parse_options=arrow_csv.ParseOptions(delimiter=place.delimiter, quote_char=False),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(asked, pa.string()), include_columns=asked, strings_can_be_null=False
            ),
        )
    except (UnicodeDecodeError, pa.ArrowInvalid):
        return None
    # Arrow skips blank lines without a word: then line numbers would be wrong.
    return table if table.num_rows == body.count(b"\n") + (not body.endswith(b"\n")) else None


def _read_exactly(raw: IO[bytes], place: _Place, codec: str) -> Iterator[Chunk]:
    """Yields the rest of the file through Python's csv module."""
    bounded = BoundedLines(raw, place.file, first=place.leftover, refuse_nul=not codec.startswith(("utf-16", "utf-32")))
    reader = csv.reader(as_text(bounded, codec), delimiter=place.delimiter, strict=True)
    first_line, seen_good = place.line, False
    while True:
        bounded.allow(_MAX_SLICE_BYTES)
        rows, lines, fault = _next_slice(reader, place.line)
        if not rows and fault is None:
            break
        place.line = first_line + reader.line_num
        unreadable = [_judge(fault, lines[len(rows)], place.file)] if fault else []
        if not place.names and any(rows):
            start = next(number for number, row in enumerate(rows) if row)
            place.set_header(rows[start])
            rows, lines = rows[start + 1 :], lines[start + 1 :]
        if not place.names:
            continue
        chunk = _to_chunk(rows, lines, unreadable, place)
        if not seen_good and len(chunk.unreadable) > 1 and not len(chunk):
            row, reason, _ = chunk.unreadable[0]
            raise ValueError(f"{place.file}:{row}: none of the first {len(rows)} rows fits the header: {reason}")
        seen_good = seen_good or len(chunk) > 0
        yield chunk
    if not place.names:
        raise ValueError(f"{place.file}: expected a header and rows, got an empty file")


def _next_slice(reader: Iterator[list[str]], line: int) -> tuple[list[list[str]], list[int], str | None]:
    """Gives some rows, the lines on which they begin and the line after them, and the csv error that ended it."""
    rows: list[list[str]] = []
    n_lines = -reader.line_num  # type: ignore[attr-defined]
    fault = None
    try:
        rows.extend(islice(reader, _SLICE_ROWS))  # on an error the rows before it stay in the list
    except csv.Error as error:
        fault = str(error)
    n_lines += reader.line_num  # type: ignore[attr-defined]
    if fault is None and n_lines == len(rows):
        return rows, list(range(line, line + len(rows) + 1)), None
    spans = (1 + sum(len(_LINE_BREAK.findall(field)) for field in row) for row in rows)
    return rows, list(accumulate(spans, initial=line)), fault


def _judge(fault: str, line: int, file: Path) -> tuple[int, str, str]:
    """One badly quoted row is refused; a quote that never closes has swallowed rows, so the file is."""
    if "unexpected end of data" in fault or "field larger" in fault:
        raise ValueError(f"{file}:{line}: a quote opens in this row and does not close; close it or double the quote")
    return line, f"is badly quoted ({fault})", ""


def _to_chunk(rows: list[list[str]], lines: list[int], unreadable: list[tuple[int, str, str]], place: _Place) -> Chunk:
    """Turns rows into columns; those with another number of fields than the header are set aside, blank lines too."""
    width = len(place.names)
    if set(map(len, rows)) - {width}:
        for row, line in zip(rows, lines, strict=False):
            if row and len(row) != width:
                unreadable.append((line, f"has {len(row)} fields, the header has {width}", place.delimiter.join(row)))
        lines = [line for row, line in zip(rows, lines, strict=False) if len(row) == width]
        rows = [row for row in rows if len(row) == width]
    fields = list(zip(*rows, strict=True)) or [()] * width
    columns = {place.names[at]: pa.array(fields[at], pa.string()) for at in place.asked()}
    numbers = np.array(lines[: len(rows)], dtype=np.int64)
    return Chunk(place.file, tuple(place.names), dict(columns), numbers, tuple(sorted(unreadable)), typed=False)
