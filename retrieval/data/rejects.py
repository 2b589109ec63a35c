"""Refused rows on their way to a file: JSON lines of file, row, reason, values; counted by reason.

Cells that were emptied while their row was kept stand there too, with `"kept": true`; they are counted apart.

`row` is what a person finds in an editor: in CSV and JSON lines the line on which the row begins (a CSV header is line
1, so the first row is row 2; a line break inside quotes counts); in parquet the number of the row in the file, from 1.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from retrieval.data.files import is_part_of

MAX_VALUE_CHARS = 200
_N_EXAMPLES = 3
_SHOWN_CHARS = 40
_FEW_ROWS = 10
"""Of fewer rows nobody can tell whether most are bad."""
NOT_COUNTING = "is not in the event map"
"""How the reason ends where an event is not among those that count."""


class RowFaults:
    """The first fault of every row of one chunk."""

    def __init__(self, n_rows: int) -> None:
        self._codes = np.zeros(n_rows, dtype=np.int32)
        self._reasons: list[str] = []

    def mark(self, mask: np.ndarray, reason: str) -> None:
        """Gives `reason` to the rows of `mask` (bool) that have no fault yet."""
        mask = mask & (self._codes == 0)
        if mask.any():
            self._reasons.append(reason)
            self._codes[mask] = len(self._reasons)

    @property
    def good(self) -> np.ndarray:
        """bool (n_rows,), True where nothing was marked."""
        return self._codes == 0

    def faulty(self) -> list[tuple[int, str]]:
        """Place and reason of every faulty row, in order."""
        return [(int(place), self._reasons[self._codes[place] - 1]) for place in np.flatnonzero(self._codes)]

    def counts(self) -> dict[str, int]:
        """Reason -> number of rows."""
        numbers = np.bincount(self._codes, minlength=len(self._reasons) + 1)[1:]
        total: Counter[str] = Counter()
        for reason, number in zip(self._reasons, numbers.tolist(), strict=True):
            total[reason] += number
        return {reason: number for reason, number in total.items() if number}


class RejectLog:
    """Counts refused rows, writes them to `path` if given, and stops the read when there are more than `max_bad_rows`.

    Use it as a context: the file appears under its name only when the read ends, also when it ends with an error.

    Raises:
        ValueError: a negative max_bad_rows, or a path that is the table `source` or would become a file of it.
    """

    def __init__(self, path: str | Path | None, *, source: object, max_bad_rows: int | None) -> None:
        if max_bad_rows is not None and max_bad_rows < 0:
            raise ValueError(f"expected max_bad_rows of 0 or more, or None for no limit, got {max_bad_rows}")
        self.path = Path(path) if path is not None else None
        if self.path is not None and isinstance(source, str | Path) and is_part_of(self.path, Path(source)):
            raise ValueError(
                f"rejects: expected a place apart from the table {source} that is read, got {path}; name another one"
            )
        self.counts: Counter[str] = Counter()
        self.emptied: Counter[str] = Counter()
        """Reason -> cells that became missing in rows that were kept."""
        self._max_bad_rows = max_bad_rows
        self._examples: list[str] = []
        self._unfinished: Path | None = None

    def __enter__(self) -> "RejectLog":
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._unfinished = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
            self._file = self._unfinished.open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self.path is not None and self._unfinished is not None:
            self._file.close()
            os.replace(self._unfinished, self.path)

    @property
    def n_rows(self) -> int:
        """Rows refused so far."""
        return sum(self.counts.values())

    @property
    def examples(self) -> str:
        """The first three refused rows, as "file:row: reason; ..."."""
        return "; ".join(self._examples)

    def add(self, file: str, rows: np.ndarray, faults: RowFaults, columns: dict[str, pa.Array | list]) -> None:
        """Takes the faulty rows of a chunk; `rows` int64 (n_rows,) are their numbers for a person."""
        counts = faults.counts()
        if not counts:
            return
        if self.path is not None or len(self._examples) < _N_EXAMPLES:
            faulty = faults.faulty()
            for place, reason in faulty if self.path is not None else faulty[:_N_EXAMPLES]:
                self._write(file, int(rows[place]), reason, values_of(columns, place))
        self.counts.update(counts)
        self._stop_if_too_many()

    def add_unreadable(self, file: str, lines: Iterable[tuple[int, str, str]]) -> None:
        """Takes (row, reason, text of the line) of lines that could not even be split into columns."""
        for row, reason, text in lines:
            self._write(file, row, reason, {"line": text[:MAX_VALUE_CHARS]})
            self.counts[reason] += 1
        self._stop_if_too_many()

    def note(self, file: str, row: int, reason: str, values: dict[str, str]) -> None:
        """Takes a cell that became missing; its row is kept and does not count as bad."""
        self.emptied[reason] += 1
        cut = {name: value[:MAX_VALUE_CHARS] for name, value in values.items()}
        self._append({"file": file, "row": row, "reason": reason, "values": cut, "kept": True})

    def drop(self, file: str, row: int, reason: str, values: dict[str, str]) -> None:
        """Takes a row that gave way to another one of its id, as was asked for; it does not count as bad."""
        self._append({"file": file, "row": row, "reason": reason, "values": values})

    def require_most_good(self, source: str, n_read: int) -> None:
        """Refuse a table most rows of which were refused, as where ids are written otherwise in another table.

        Nobody reads a count in a nightly log; who knows of them says how many are to be expected. Events that do
        not count are left out as was asked for.
        """
        unasked = unasked_of(self.counts)
        bad, of = sum(unasked.values()), n_read - self.n_rows + sum(unasked.values())
        if self._max_bad_rows is None and of >= _FEW_ROWS and 2 * bad > of:
            reasons = ", ".join(f"{number:,} {reason}" for reason, number in Counter(unasked).most_common(_N_EXAMPLES))
            raise ValueError(
                f"{source}: expected most rows to be good, got {bad:,} of {of:,} refused ({reasons}): {self.examples}. "
                f"Mend them, or allow for them: max_bad_rows={self.n_rows} (--max-bad-rows)"
            )

    def _write(self, file: str, row: int, reason: str, values: dict[str, str]) -> None:
        if len(self._examples) < _N_EXAMPLES:
            value = values.get(reason.split(" ", 1)[0])
            got = "" if value is None else f", got {value[:_SHOWN_CHARS]!r}"
            self._examples.append(f"{file}:{row}: {reason}{got}")
        self._append({"file": file, "row": row, "reason": reason, "values": values})

    def _append(self, entry: dict[str, object]) -> None:
        if self.path is not None:  # ASCII escapes: neither control characters nor surrogates reach a terminal
            self._file.write(json.dumps(entry) + "\n")

    def _stop_if_too_many(self) -> None:
        if self._max_bad_rows is not None and self.n_rows > self._max_bad_rows:
            raise ValueError(
                f"expected at most {self._max_bad_rows} bad rows, got {self.n_rows} so far: {self.examples}. "
                "Mend them or raise max_bad_rows (--max-bad-rows)"
            )


def unasked_of(counts: Mapping[str, int]) -> dict[str, int]:
    """Reason -> number of rows, without the events that are left out as was asked for."""
    return {reason: number for reason, number in counts.items() if not reason.endswith(NOT_COUNTING)}


def values_of(columns: Mapping[str, pa.Array | list], place: int) -> dict[str, str]:
    """The cells of one row as text, each cut; missing ones are left out."""
    cells = {}
    for name, column in columns.items():
        value = column[place] if isinstance(column, list) else _python_value(column[place])
        if value is not None:
            cells[name] = str(value[:MAX_VALUE_CHARS] if isinstance(value, str | bytes | list) else value)[
                :MAX_VALUE_CHARS
            ]
    return cells


def _python_value(cell: pa.Scalar) -> object:
    """What Arrow holds, also dates beyond those that Python knows."""
    try:
        return cell.as_py()
    except (OverflowError, ValueError):
        try:
            return cell.cast(pa.string()).as_py()
        except pa.ArrowException:
            return f"a {cell.type} that cannot be shown"
