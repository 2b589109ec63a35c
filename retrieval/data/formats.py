"""Whatever holds a table (a file, a folder, a data frame) becomes chunks with our column names."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from retrieval.data.chunks import CHUNK_ROWS, Chunk, check_names, how_to_map, list_names, shown
from retrieval.data.columns import KNOWN, ColumnMap
from retrieval.data.csv_chunks import read_csv_chunks
from retrieval.data.files import find_files, format_of
from retrieval.data.json_chunks import read_json_chunks
from retrieval.data.parquet_chunks import read_parquet_chunks

Source = str | Path | pd.DataFrame


class ChunkReader:
    """Iterates over the chunks of a table and gathers what is to be said about its columns and files.

    Args:
        table: "items", "interactions" or "users".
        all_columns: also give columns without a meaning, under their own names.
    """

    def __init__(self, source: Source, table: str, columns: ColumnMap, *, encoding: str, all_columns: bool) -> None:
        self.name = "data frame" if isinstance(source, pd.DataFrame) else str(source)
        self.warnings: list[str] = []
        self.other_columns: set[str] = set()
        self.table = table
        self._source, self._columns, self._encoding = source, columns, encoding
        self._wanted = None if all_columns else columns.known
        self._files: list[Path] = []
        if not isinstance(source, pd.DataFrame):
            self._files, ignored = find_files(source)
            if ignored:
                self.warnings.append(
                    f"{len(ignored)} files are no tables and were passed over: {', '.join(ignored[:5])}"
                )

    def __iter__(self) -> Iterator[Chunk]:
        chunks = self._read_frame(self._source) if isinstance(self._source, pd.DataFrame) else self._read_files()
        found: set[str] = set()
        for chunk in chunks:
            found.update(chunk.names)
            self.other_columns |= {shown(name) for name in chunk.names if name not in self._columns.known}
            ours = {}
            for name, column in chunk.columns.items():
                if (
                    name in self._columns.known or name not in KNOWN[self.table]
                ):  # a name of ours mapped elsewhere is lost
                    ours[self._columns.to_ours(name)] = column
            yield replace(chunk, columns=ours)
        for theirs, ours in self._columns.asked.items():
            if found and theirs not in found:  # only now: a later file, or a later line of JSON, may have it
                raise ValueError(
                    f"{self.name}: expected a column {shown(theirs)!r} to read as {ours.partition('.')[2]}; found "
                    f"{list_names(sorted(found))}. {how_to_map(ours)}"
                )

    def _read_files(self) -> Iterator[Chunk]:
        for file in self._files:
            yield from _read_file(file, self._columns.required, self._wanted, self._encoding)

    def _read_frame(self, frame: pd.DataFrame) -> Iterator[Chunk]:
        names = [str(name) for name in frame.columns]
        file = Path("data frame")
        check_names(file, names, self._columns.required)
        for start in range(0, len(frame), CHUNK_ROWS):
            part = frame.iloc[start : start + CHUNK_ROWS]
            asked = [n for n, name in enumerate(names) if self._wanted is None or name in self._wanted]
            columns = {names[n]: _from_series(part.iloc[:, n]) for n in asked}
            yield Chunk(file, tuple(names), columns, np.arange(start + 1, start + len(part) + 1, dtype=np.int64))


def column_names(path: str | Path, *, encoding: str) -> tuple[str, ...]:
    """Gives the columns of a table, or of the first file of a folder (JSON lines: of its first lines)."""
    first = next(_read_file(find_files(path)[0][0], {}, None, encoding), None)
    return () if first is None else first.names


def _read_file(
    file: Path, required: Mapping[str, str], wanted: Collection[str] | None, encoding: str
) -> Iterator[Chunk]:
    match format_of(file):
        case "parquet":
            return read_parquet_chunks(file, required=required, wanted=wanted)
        case "jsonl":
            return read_json_chunks(file, required=required, wanted=wanted, encoding=encoding)
        case kind:
            delimiter = "\t" if kind == "tsv" else ","
            return read_csv_chunks(file, required=required, wanted=wanted, encoding=encoding, delimiter=delimiter)


def _from_series(series: pd.Series) -> pa.Array | list:
    try:
        column = pa.array(series, from_pandas=True)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return [None if value is None or value is pd.NA else value for value in series.tolist()]
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
