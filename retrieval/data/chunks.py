"""One table file becomes chunks of columns; what is common to CSV, JSON lines and parquet."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

CHUNK_ROWS = 65_536


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows of one file, by column."""

    file: Path
    names: tuple[str, ...]
    """All columns of the file (JSON lines: of this chunk), also those that were not asked for."""
    columns: dict[str, pa.Array | list]
    """The columns asked for. A list stands for a JSON column of mixed types; CSV columns are all text."""
    rows: np.ndarray
    """int64 (n_rows,): the number of each row for a person (see `rejects`)."""
    unreadable: tuple[tuple[int, str, str], ...] = ()
    """(row, reason, text) of lines that are no rows."""
    typed: bool = True
    """False where the format has only text (CSV)."""

    def __len__(self) -> int:
        return len(self.rows)


def shown(text: str) -> str:
    """Gives a name from a file as it may be printed: control characters and lone surrogates as backslash escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def check_names(file: Path, names: list[str], required: Mapping[str, str]) -> None:
    """Refuses a header with a repeated or a missing column, naming what is there.

    Args:
        required: the file's name of a column -> TABLE.NAME of ours (see `ColumnMap`).
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{file}: expected every column once, got {', '.join(map(_quoted, repeated))} more than once")
    missing = {theirs: ours for theirs, ours in required.items() if theirs not in names}
    if missing:
        hint = (
            " The file seems to be separated by semicolons; write it with commas or tabs."
            if ";" in "".join(names[:1])
            else ""
        )
        raise ValueError(
            f"{file}: expected columns {', '.join(required)}; found {list_names(names)}; "
            f"missing {', '.join(missing)}. {how_to_map(next(iter(missing.values())))}{hint}"
        )


def list_names(names: Collection[str]) -> str:
    """Gives the columns of a file for an error message."""
    return ", ".join(map(_quoted, list(names)[:50])) or "none"


def how_to_map(ours: str) -> str:
    """Says how to name the column of a file that holds TABLE.NAME."""
    name = ours.partition(".")[2]
    return f"Say which column it is: --map {ours}=COLUMN, in Python column_map={{'{name}': 'COLUMN'}}."


def _quoted(name: str) -> str:
    return f"'{shown(name[:80])}'"
