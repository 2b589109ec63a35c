"""Text cells become numbers where nearly all of them are numbers; the stray ones become missing and are reported.

The rule: of the cells that are not empty at least 95 % must fit, or all but one of ten and more; of fewer than ten
all. It holds for numbers and for the ISO dates of a text column, which stay text but lose what is no date. Any other
column stays as it is, with a warning where most of its cells would have fitted. One whole number with a leading zero or
of more than 18 digits makes a column one of codes, which stay text: `007` is not 7.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from retrieval.data import arrow
from retrieval.data.join import MAX_EXACT, ROUNDED
from retrieval.data.values import NUMBER, read_numbers

MAX_STRAY_SHARE = 0.05
MIN_CELLS = 10
"""One of fewer cells is no stray."""
_ANYTHING = r"[^\s]"
_CODE = r"^-?(0[0-9]+|[0-9]{19,})$"
_WHOLE = r"^-?(0|[1-9][0-9]{0,17})$"
_DECIMAL = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.]+ ?(Z|[+-][0-9:]+)?)?$"


@dataclass(frozen=True)
class Inferred:
    """What a text column is kept as.

    misfits: bool (n,), the cells that are no `kind` ("number" or "date"). emptied: whether they were made missing; if
    not, they are why the column stays text. note: what else a person should know of the column, or "".
    """

    column: pa.ChunkedArray | pa.Array
    kind: str
    misfits: np.ndarray
    emptied: bool
    note: str = ""


def infer(column: pa.ChunkedArray, *, mixed: bool) -> Inferred:
    """Decides what a text column holds.

    Args:
        mixed: some cells came as numbers (JSON, or another file of the folder), so `1e5` is one; in a format that has
            only text it is as likely a code, and counts only as a stray among plain numbers.
    """
    texts = arrow.trimmed(column.combine_chunks())
    filled = arrow.matches(texts, _ANYTHING)
    as_it_is = Inferred(column, "", np.zeros(len(texts), bool), False)
    if not filled.any() or arrow.matches(texts, _CODE).any():
        return as_it_is
    numbers, dates = arrow.matches(texts, NUMBER if mixed else _DECIMAL), arrow.matches(texts, _DATE)
    if _nearly_all(numbers, filled):
        return _as_numbers(texts, filled)
    if _nearly_all(dates, filled):
        misfits = filled & ~_is_date(texts, dates)
        if _nearly_all(~misfits, filled):
            return Inferred(arrow.keep_where(filled & ~misfits, column.combine_chunks()), "date", misfits, True)
    for kind, fitting in (("number", numbers), ("date", dates)):
        if fitting.sum() > filled.sum() / 2:
            return Inferred(column, kind, filled & ~fitting, False)
    return as_it_is


def _nearly_all(fitting: np.ndarray, filled: np.ndarray) -> bool:
    n_filled = int(filled.sum())
    allowed = max(1, int(MAX_STRAY_SHARE * n_filled)) if n_filled >= MIN_CELLS else 0
    return int((filled & ~fitting).sum()) <= allowed


def _as_numbers(texts: pa.Array, filled: np.ndarray) -> Inferred:
    """Whole numbers where all are whole, else fractions; null where empty or wrong."""
    numbers, whole = read_numbers(texts), arrow.matches(texts, _WHOLE)
    good = filled & ~numbers.wrong
    if whole[good].all():
        return Inferred(arrow.keep_where(good, texts).cast(pa.int64()), "number", numbers.wrong, True)
    note = ROUNDED if (np.abs(numbers.values[whole]) > MAX_EXACT).any() else ""
    return Inferred(pa.array(numbers.values, mask=~good), "number", numbers.wrong, True, note)


def _is_date(texts: pa.Array, looks_so: np.ndarray) -> np.ndarray:
    """bool (n,), True where the text is a day of the calendar: 2024-02-30 is none."""
    candidates = pd.Series(arrow.keep_where(looks_so, texts).to_pandas(), dtype="object")
    return pd.to_datetime(candidates, format="ISO8601", utc=True, errors="coerce").notna().to_numpy()
