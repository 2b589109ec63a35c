"""Timestamps as Unix seconds, ISO dates or positions become float64; each table is one kind or the other.

Dates without a zone are UTC. Numbers below 100,000,000 (March 1973) throughout are positions: the place of an
interaction in its user's history, or in the file. Milliseconds are never guessed: they need time_unit="milliseconds".
"""

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from retrieval.data import arrow
from retrieval.data.values import read_numbers

TimeUnit = Literal["auto", "seconds", "milliseconds", "positions"]
MAX_POSITION = 1e8
_MIN_MILLISECONDS = 1e11  # as seconds the year 5138; as milliseconds March 1973
_CLOCK_SKEW_S = 300


@dataclass
class TimeReader:
    """Reads the time columns of one table, chunk by chunk, and remembers what it has seen."""

    unit: TimeUnit = "auto"
    saw_date: bool = False
    largest: float = 0.0
    n_small: int = 0
    """Numbers that would be positions."""

    def __post_init__(self) -> None:
        if self.unit not in ("auto", "seconds", "milliseconds", "positions"):
            raise ValueError(f"expected time_unit auto, seconds, milliseconds or positions, got {self.unit!r}")
        self._latest = time.time() + _CLOCK_SKEW_S

    def read(self, column: pa.Array | list, *, where: str) -> tuple[np.ndarray, list[tuple[np.ndarray, str]]]:
        """Returns times float64 (n,) and (mask, what is wrong) for every fault present.

        Raises:
            ValueError: under "auto", when most numbers of a chunk look like milliseconds.
        """
        values, is_date, missing, wrong = _parse(column)
        if self.unit == "milliseconds":
            values = np.where(is_date, values, values / 1000)
        faults = [(missing, "is missing"), (wrong, "is neither a number nor an ISO date")]
        too_large = values >= _MIN_MILLISECONDS
        n_large = int(too_large.sum())
        if self.unit == "auto" and n_large > 0.5 * np.isfinite(values).sum():
            example = float(values[too_large][0])
            raise ValueError(
                f"{where}: expected timestamps in seconds, got {example:.0f}, which is year "
                f"{1970 + int(example / 31_556_952)}; if these are milliseconds, pass time_unit='milliseconds' "
                "(--time-unit milliseconds)"
            )
        faults.append((values < 0, "is negative"))
        if self.unit != "positions":
            faults.append((too_large, "is in milliseconds or out of range"))
            faults.append((values > self._latest, "lies in the future"))
        faulty = np.logical_or.reduce([mask for mask, _ in faults])
        sound = values[~faulty]
        self.saw_date = self.saw_date or bool((is_date & ~faulty).any())
        self.largest = max(self.largest, float(sound.max(initial=0.0)))
        self.n_small += int(((values < MAX_POSITION) & ~is_date & ~faulty).sum())
        return values, [(mask, reason) for mask, reason in faults if mask.any()]

    @property
    def kind(self) -> Literal["seconds", "positions"]:
        """What the numbers read so far are."""
        if self.unit != "auto":
            return "positions" if self.unit == "positions" else "seconds"
        return "seconds" if self.saw_date or self.largest >= MAX_POSITION else "positions"

    def warnings(self) -> list[str]:
        """Says so when some numbers look like positions among seconds."""
        if self.kind == "seconds" and self.n_small:
            return [
                f"{self.n_small:,} timestamps are small numbers among seconds or dates; they were read as 1970-1973"
            ]
        return []


def _parse(column: pa.Array | list) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns values float64 (NaN where not readable) and the masks is_date, missing, wrong."""
    n_rows = len(column)
    no_date = np.zeros(n_rows, bool)
    if isinstance(column, list):
        texts = [value if isinstance(value, str) and value.isprintable() else None for value in column]
        numbers = read_numbers(column)
        dates = _dates_of_text(pa.array(texts, pa.string()))
        is_date = numbers.wrong & np.isfinite(dates)
        return np.where(is_date, dates, numbers.values), is_date, numbers.missing, numbers.wrong & ~is_date
    array = arrow.decoded(column)
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        missing = arrow.nulls(array)
        micros = array.cast(pa.timestamp("us", tz=getattr(array.type, "tz", None)), safe=False).cast(pa.int64())
        values = arrow.filled(micros, 0).to_numpy(zero_copy_only=False) / 1e6
        return np.where(missing, np.nan, values), ~missing, missing, no_date
    numbers = read_numbers(array)
    if not arrow.is_text(array.type) or not numbers.wrong.any():
        return numbers.values, no_date, numbers.missing, numbers.wrong
    dates = _dates_of_text(arrow.keep_where(numbers.wrong, array))
    is_date = numbers.wrong & np.isfinite(dates)
    return np.where(is_date, dates, numbers.values), is_date, numbers.missing, numbers.wrong & ~is_date


def _dates_of_text(column: pa.Array) -> np.ndarray:
    """Unix seconds float64 (n,) of ISO 8601 dates, NaN for the rest."""
    texts = pd.Series(column.to_pandas(), dtype="object").str.strip()
    dates = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
    micros = dates.to_numpy(dtype="datetime64[us]")
    return np.where(np.isnat(micros), np.nan, micros.astype(np.int64) / 1e6)
