"""Timestamps as Unix seconds, ISO dates or positions become float64; each table is one kind or the other.

Dates without a zone are read as UTC: where clocks are ahead of it, the newest seem to lie in the future, and are let
through as far as that can be. Numbers below 100,000,000 (March 1973) throughout are positions: the place of an
interaction in its user's history, or in the file; but where every one of them is a day since 1970, written as 20260103,
they are days. Milliseconds are never guessed: they need time_unit="milliseconds".
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
_AHEAD_OF_TIME_S = 14 * 3600  # no clock is further ahead of UTC
_AHEAD_OF_DAY_S = 24 * 3600  # tomorrow, for a day's first moment
_DAY = r"^[0-9/-]*$"
_YEAR = r"^[0-9]{4}"  # pandas also knows words, such as today
_ZONE = r"[T ].*[Zz+-]"  # behind the day, as that may hold a - itself


@dataclass
class TimeReader:
    """Reads the time columns of one table, chunk by chunk, and remembers what it has seen."""

    unit: TimeUnit = "auto"
    saw_date: bool = False
    largest: float = 0.0
    n_small: int = 0
    """Numbers that would be positions."""
    n_days: int = 0
    """Those of them that would be days, such as 20260103."""
    n_numbers: int = 0

    def __post_init__(self) -> None:
        if self.unit not in ("auto", "seconds", "milliseconds", "positions"):
            raise ValueError(f"time_unit: expected auto, seconds, milliseconds or positions, got {self.unit!r}")
        self._latest = time.time() + _CLOCK_SKEW_S

    def read(self, column: pa.Array | list, *, where: str) -> tuple[np.ndarray, list[tuple[np.ndarray, str]]]:
        """Returns times float64 (n,) and (mask, what is wrong) for every fault present.

        Raises:
            ValueError: under "auto", when most numbers of a chunk look like milliseconds.
        """
        times = _parse(column)
        values, is_date = times.values, times.is_date
        if self.unit == "milliseconds":
            values = np.where(is_date, values, values / 1000)
        faults = [(times.missing, "is missing"), (times.wrong, "is neither a number nor an ISO date")]
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
            faults.append((values - times.ahead > self._latest, "lies in the future"))
        faulty = np.logical_or.reduce([mask for mask, _ in faults])
        sound = values[~faulty]
        self.saw_date = self.saw_date or bool((is_date & ~faulty).any())
        self.largest = max(self.largest, float(sound.max(initial=0.0)))
        numbers = values[~is_date & ~faulty]
        self.n_numbers += len(numbers)
        self.n_small += int((numbers < MAX_POSITION).sum())
        self.n_days += int(np.isfinite(_seconds_of_days(numbers, until=self._latest + _AHEAD_OF_DAY_S)).sum())
        return values, [(mask, reason) for mask, reason in faults if mask.any()]

    @property
    def kind(self) -> Literal["seconds", "positions"]:
        """What the numbers read so far are."""
        if self.unit != "auto":
            return "positions" if self.unit == "positions" else "seconds"
        return "seconds" if self.saw_date or self.largest >= MAX_POSITION or self._are_days else "positions"

    @property
    def _are_days(self) -> bool:
        return self.unit == "auto" and not self.saw_date and 0 < self.n_days == self.n_numbers

    def settled(self, times: np.ndarray) -> np.ndarray:
        """All sound times, float64 (n,), as what `kind` says: whether they are days is known when all are read."""
        return _seconds_of_days(times, until=np.inf) if self._are_days else times

    def warnings(self) -> list[str]:
        """Says so when numbers were read as days, or look like something else than they were read as."""
        if self._are_days:
            return [
                f"timestamps such as {self.largest:.0f} were read as days; if they are positions, pass "
                "time_unit='positions' (--time-unit positions)"
            ]
        if self.unit == "auto" and self.n_days > 0.5 * self.n_numbers:
            return [
                f"{self.n_days:,} of {self.n_numbers:,} timestamps that are numbers look like days (20260103), but "
                "not all timestamps do, and none was read as one; write days as 2026-01-03"
            ]
        if self.kind == "seconds" and self.n_small:
            return [
                f"{self.n_small:,} timestamps are small numbers among seconds or dates; they were read as 1970-1973"
            ]
        return []


@dataclass(frozen=True)
class _Times:
    """One column.

    values: float64 (n,), NaN where not readable. is_date, missing, wrong: bool (n,). ahead: float64 (n,), how many
    seconds a moment of now may seem to lie in the future, as its zone is not told.
    """

    values: np.ndarray
    is_date: np.ndarray
    missing: np.ndarray
    wrong: np.ndarray
    ahead: np.ndarray


def _parse(column: pa.Array | list) -> _Times:
    if isinstance(column, list):
        numbers = read_numbers(column)
        texts = pa.array([v if isinstance(v, str) and v.isprintable() else None for v in column], pa.string())
    else:
        array = arrow.decoded(column)
        if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
            return _of_dates(array)
        numbers = read_numbers(array)
        if not arrow.is_text(array.type) or not numbers.wrong.any():
            none = np.zeros(len(array))
            return _Times(numbers.values, none.astype(bool), numbers.missing, numbers.wrong, none)
        texts = arrow.keep_where(numbers.wrong, array)
    dates, ahead = _dates_of_text(texts)
    is_date = numbers.wrong & np.isfinite(dates)
    values = np.where(is_date, dates, numbers.values)
    return _Times(values, is_date, numbers.missing, numbers.wrong & ~is_date, np.where(is_date, ahead, 0))


def _of_dates(array: pa.Array) -> _Times:
    missing, zone = arrow.nulls(array), getattr(array.type, "tz", None)
    micros = array.cast(pa.timestamp("us", tz=zone), safe=False).cast(pa.int64())
    values = arrow.filled(micros, 0).to_numpy(zero_copy_only=False) / 1e6
    ahead = _AHEAD_OF_DAY_S if pa.types.is_date(array.type) else _AHEAD_OF_TIME_S if zone is None else 0
    no = np.zeros(len(array), bool)
    return _Times(np.where(missing, np.nan, values), ~missing, missing, no, np.full(len(array), float(ahead)))


def _dates_of_text(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Unix seconds float64 (n,) of ISO 8601 dates, NaN for the rest; and `_Times.ahead` of each."""
    column = arrow.trimmed(column)
    texts = pd.Series(arrow.keep_where(arrow.matches(column, _YEAR), column).to_pandas(), dtype="object")
    dates = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
    micros = dates.to_numpy(dtype="datetime64[us]")
    ahead = np.where(arrow.matches(column, _DAY), _AHEAD_OF_DAY_S, _AHEAD_OF_TIME_S)
    ahead = np.where(arrow.matches(column, _ZONE), 0, ahead)
    return np.where(np.isnat(micros), np.nan, micros.astype(np.int64) / 1e6), ahead


def _seconds_of_days(numbers: np.ndarray, *, until: float) -> np.ndarray:
    """Unix seconds float64 (n,) of days written as 20260103; NaN for other numbers, and for days after `until`."""
    may_be = (numbers >= 19700101) & (numbers < MAX_POSITION) & (numbers % 1 == 0)
    if not may_be.any():
        return np.full(len(numbers), np.nan)
    whole = np.where(may_be, numbers, 0).astype(np.int64)
    months = ((whole // 10_000 - 1970) * 12 + whole // 100 % 100 - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (whole % 100 - 1)
    seconds = days.astype(np.int64) * 86_400.0
    is_month = (whole // 100 % 100 >= 1) & (whole // 100 % 100 <= 12)
    good = may_be & is_month & (days.astype("datetime64[M]") == months) & (seconds <= until)
    return np.where(good, seconds, np.nan)
