"""A table of recommendations becomes a parquet, CSV or JSON-lines file that is either complete or not there.

CSV is for people with spreadsheets, which run cells that begin with one of `= + - @`, a tab or a carriage return as
formulas; such text cells get a leading apostrophe (advice of OWASP, "CSV Injection"). Numbers are left alone, also as
text: -17 may be an id. Parquet and JSON lines hold the exact values: use those between programs.
"""

import csv
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.data.files import format_of

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_NEGATIVE_NUMBER = re.compile(r"-[0-9]+([.,][0-9]+)?([eE][+-]?[0-9]+)?")
_JSON_ROWS = 65_536


def write_table(frame: pd.DataFrame, file: str | Path) -> Path:
    """Writes a frame without its index, in the format that the file's name says, and returns the path.

    The file is written beside its place, flushed to disk and renamed, so a reader finds the old one, the new one or
    none. Parquet pages carry checksums.

    Raises:
        ValueError: a name that is not .parquet, .csv, .tsv, .jsonl, .ndjson or .json.
        OSError: disk full, no permission; what was there before is still there.
    """
    file = Path(file)
    writers: dict[str | None, Callable[[pd.DataFrame, IO[bytes]], None]] = {
        "parquet": _write_parquet,
        "csv": lambda rows, stream: _write_csv(rows, stream, ","),
        "tsv": lambda rows, stream: _write_csv(rows, stream, "\t"),
        "jsonl": _write_json,
    }
    write = writers.get(format_of(file))
    if write is None or file.suffix.lower() == ".gz":
        raise ValueError(f"{file}: expected .parquet, .csv, .tsv, .jsonl, .ndjson or .json, got {file.suffix!r}")
    _write_atomically(file, lambda stream: write(frame, stream))
    return file


def spreadsheet_safe(text: str) -> str:
    """Puts an apostrophe before text that a spreadsheet would run as a formula; other text stays as it is."""
    is_formula = text.startswith(_FORMULA_STARTS) and not _NEGATIVE_NUMBER.fullmatch(text)
    return "'" + text if is_formula else text


def _write_atomically(file: Path, write: Callable[[IO[bytes]], None]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)  # the rename itself lives in the folder
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write_parquet(frame: pd.DataFrame, stream: IO[bytes]) -> None:
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), stream, write_page_checksum=True)


def _write_csv(frame: pd.DataFrame, stream: IO[bytes], separator: str) -> None:
    safe = frame.rename(columns=lambda name: spreadsheet_safe(str(name)))
    has_return = any("\r" in name for name in safe.columns)
    for place, kind in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_datetime64_any_dtype(kind):
            cells = frame.iloc[:, place].astype(object)
            safe.isetitem(place, cells.map(lambda cell: spreadsheet_safe(cell) if isinstance(cell, str) else cell))
            has_return = has_return or any(isinstance(cell, str) and "\r" in cell for cell in cells)
    # Python's csv writer leaves a lone carriage return unquoted, and readers would then end the row there.
    quoting = csv.QUOTE_NONNUMERIC if has_return else csv.QUOTE_MINIMAL
    safe.to_csv(stream, index=False, sep=separator, encoding="utf-8", lineterminator="\n", quoting=quoting)


def _write_json(frame: pd.DataFrame, stream: IO[bytes]) -> None:
    for start in range(0, len(frame), _JSON_ROWS):
        for row in frame.iloc[start : start + _JSON_ROWS].to_dict(orient="records"):
            line = json.dumps({str(name): _plain(value) for name, value in row.items()}, ensure_ascii=False)
            stream.write(line.encode("utf-8") + b"\n")


def _plain(value: object) -> object:
    """A JSON value: missing and NaN become null, dates ISO text, arrays lists."""
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(part) for part in value]
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and not np.isfinite(value)):
        return None
    if isinstance(value, np.generic):
        return value.item()
    return value.isoformat() if hasattr(value, "isoformat") else value  # type: ignore[attr-defined]
