"""A table of users becomes chunks of so many users each, in the order of the table, in bounded memory.

user_id   required; ids as everywhere (text or whole numbers, compared as text)
segment   optional text
history   optional: item ids, oldest first, as a list (parquet, JSON lines) or as text, "a,b,c" or '["a","b"]' (CSV).
          Missing: the user's own history. Empty list: nothing is known of the user.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from retrieval.data import arrow, canonical_id
from retrieval.data.catalogue import encode_ids
from retrieval.data.chunks import Chunk
from retrieval.data.columns import ColumnMap
from retrieval.data.formats import ChunkReader, Source
from retrieval.data.ids import IdEncoder
from retrieval.data.rejects import RejectLog, RowFaults
from retrieval.data.values import read_texts

History = tuple[str, ...] | None
_NO_HISTORY = "history is no list of item ids"


@dataclass(frozen=True)
class UserChunk:
    """Consecutive users, the unit of work.

    number: from 0. user_ids: canonical. segments: "" where there is none. histories: item ids, oldest first; None takes
    the user's own.
    """

    number: int
    user_ids: tuple[str, ...]
    segments: tuple[str, ...]
    histories: tuple[History, ...]

    def __len__(self) -> int:
        return len(self.user_ids)

    @cached_property
    def digest(self) -> str:
        """sha256 of everything in it: equal digests mean equal work."""
        parts = [self.user_ids, self.segments, self.histories]
        return hashlib.sha256(json.dumps(parts, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


class UserStream:
    """The users of a table (or of one segment of it) in chunks; can be iterated again and again.

    Args:
        column_map: our name -> the file's name, for user_id and segment.
        rejects: where to write refused rows, in every pass anew.
        max_bad_rows: stop with an error above so many refused rows; None does where most are.

    Raises:
        FileNotFoundError: nothing to read. While iterating, ValueError: a bad file, column or value, most rows refused,
            no user left, no such segment; DamagedArtefact: a truncated or altered file.
    """

    def __init__(
        self,
        source: Source,
        *,
        chunk_users: int,
        segment: str | None = None,
        column_map: Mapping[str, str] | None = None,
        encoding: str = "utf-8",
        rejects: str | Path | None = None,
        max_bad_rows: int | None = None,
    ) -> None:
        if chunk_users < 1:
            raise ValueError(f"chunk_users: expected 1 or more, got {chunk_users}")
        self.segment, self.chunk_users = segment, chunk_users
        self.rejected: Counter[str] = Counter()
        """Reason -> refused rows, of the last pass."""
        columns = ColumnMap("users", column_map)
        self._reader = ChunkReader(source, "users", columns, encoding=encoding, all_columns=True)
        self._source, self._rejects, self._max_bad_rows = source, rejects, max_bad_rows

    @property
    def name(self) -> str:
        """The table as errors call it."""
        return self._reader.name

    def __iter__(self) -> Iterator[UserChunk]:
        ids: list[str] = []
        segments: list[str] = []
        histories: list[History] = []
        number, size = 0, self.chunk_users
        for part in self._parts():
            for kept, new in zip((ids, segments, histories), part, strict=True):
                kept.extend(new)  # pyright: ignore[reportArgumentType]
            while len(ids) >= size:
                yield UserChunk(number, tuple(ids[:size]), tuple(segments[:size]), tuple(histories[:size]))
                del ids[:size], segments[:size], histories[:size]
                number += 1
        if ids:
            yield UserChunk(number, tuple(ids), tuple(segments), tuple(histories))

    def _parts(self) -> Iterator[tuple[list[str], list[str], list[History]]]:
        """The good rows of the segment, as the reader's chunks come."""
        reader = self._reader
        n_read, n_kept, has_segments = 0, 0, False
        seen: Counter[str] = Counter()
        wanted = unicodedata.normalize("NFC", self.segment or "")  # as tables are read
        with RejectLog(self._rejects, source=self._source, max_bad_rows=self._max_bad_rows) as log:
            for chunk in reader:
                n_read += len(chunk) + len(chunk.unreadable)
                log.add_unreadable(str(chunk.file), chunk.unreadable)
                has_segments |= "segment" in chunk.columns
                ids, segments, histories = read_user_rows(chunk, log)
                if self.segment is not None:
                    seen.update(segments)
                    keep = [place for place, name in enumerate(segments) if name == wanted]
                    ids, segments = [ids[p] for p in keep], [segments[p] for p in keep]
                    histories = [histories[p] for p in keep]
                n_kept += len(ids)
                yield ids, segments, histories
            self.rejected = Counter(log.counts)
            if n_read == 0:
                raise ValueError(f"{reader.name}: expected users, got no rows")
            if log.n_rows == n_read:
                raise ValueError(f"{reader.name}: no users left: all {n_read} rows were refused: {log.examples}")
            log.require_most_good(reader.name, n_read)
        if not n_kept and not has_segments:
            raise ValueError(f"{reader.name}: expected a column segment to choose {self.segment!r} by, found none")
        if not n_kept:
            known = ", ".join(f"{name or '(none)'} ({count:,})" for name, count in seen.most_common(10))
            raise ValueError(f"{reader.name}: expected users of segment {self.segment!r}, found only {known}")


def read_user_rows(chunk: Chunk, log: RejectLog) -> tuple[list[str], list[str], list[History]]:
    """Ids, segments and histories of a chunk's good rows; the others go to the log."""
    faults = RowFaults(len(chunk))
    encoder = IdEncoder()  # one per chunk, so that memory does not grow with the table
    rows = encode_ids(encoder, chunk, "user_id", faults)
    segments = _read_segments(chunk, faults)
    histories = _read_histories(chunk, faults)
    log.add(str(chunk.file), chunk.rows, faults, chunk.columns)
    good = np.flatnonzero(faults.good).tolist()
    ids = encoder.to_map().ids
    return [str(ids[rows[place]]) for place in good], [segments[p] for p in good], [histories[p] for p in good]


def _read_segments(chunk: Chunk, faults: RowFaults) -> list[str]:
    column = chunk.columns.get("segment")
    if column is None:
        return [""] * len(chunk)
    if not isinstance(column, list) and pa.types.is_integer(column.type):
        column = column.cast(pa.string())  # segments are often numbered
    try:
        texts = read_texts(column)
    except TypeError as error:
        raise ValueError(f"{chunk.file}: column 'segment': expected text, found {error}") from None
    for reason, mask in texts.wrong.items():
        faults.mark(mask, f"segment {reason}")
    return texts.values.to_pylist()


def _read_histories(chunk: Chunk, faults: RowFaults) -> list[History]:
    column = chunk.columns.get("history")
    if column is None:
        return [None] * len(chunk)
    values = column if isinstance(column, list) else arrow.decoded(column).to_pylist()
    histories: list[History] = [None] * len(chunk)
    bad = np.zeros(len(chunk), dtype=bool)
    for place, value in enumerate(values):
        try:
            histories[place] = parse_history(value, empty_is_missing=not chunk.typed)
        except (ValueError, RecursionError):
            bad[place] = True
    faults.mark(bad, _NO_HISTORY)
    return histories


def parse_history(value: object, *, empty_is_missing: bool = False) -> History:
    """Item ids of one cell, oldest first: a list, "a,b,c" or a JSON array as text; None where there is none.

    Raises:
        ValueError: anything else, or a malformed id in it.
    """
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None if empty_is_missing else ()
        value = json.loads(text) if text.startswith("[") else [part.strip() for part in text.split(",")]
    if not isinstance(value, list | tuple):
        raise ValueError(f"history: expected a list of item ids, got {type(value).__name__}")
    return tuple(canonical_id(part) for part in value)
