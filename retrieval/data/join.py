"""The parts of a column, as files and chunks give them, become one column; a table of such columns becomes a frame.

Whole numbers stay whole numbers, whatever their width and whether or not some are missing: as fractions they would be
rounded above 2**53, and a filter by such a number would find another item. Days and moments of any unit become moments
of one unit; a moment without a zone is one of UTC and a day is its first moment, as in filters. Only parts that have
nothing in common become text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from retrieval.data import arrow

MAX_EXACT = 2**53
"""A larger fraction may have been another whole number once."""
ROUNDED = "holds fractions and whole numbers above 2**53, which are rounded; write those as text to tell them apart"
"""What is said of a column, behind its name."""
_NULLABLE = {
    pa.uint64(): pd.UInt64Dtype(),
    **dict.fromkeys(
        (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()), pd.Int64Dtype()
    ),
}
_UNITS = ("s", "ms", "us", "ns")
_WORDS = {
    arrow.is_text: "text",
    pa.types.is_boolean: "true and false",
    pa.types.is_unsigned_integer: "unsigned whole numbers",
    pa.types.is_integer: "whole numbers",
    pa.types.is_floating: "fractions",
    pa.types.is_date: "dates",
    pa.types.is_timestamp: "dates with times",
}


@dataclass(frozen=True)
class Joined:
    """A column of one kind.

    note: what a person should know of how it was made, or "". kinds: those of the parts where they have nothing in
    common, so that the column became text; else empty.
    """

    column: pa.ChunkedArray
    note: str = ""
    kinds: frozenset[pa.DataType] = frozenset()


def join_parts(parts: Sequence[pa.Array]) -> Joined:
    """Joins parts under the narrowest kind that holds them all; nulls alone are text."""
    kinds = frozenset(part.type for part in parts if not pa.types.is_null(part.type))
    if len(kinds) < 2:
        return Joined(_as(parts, next(iter(kinds), arrow.TEXT)))
    found = None
    if all(map(arrow.is_number, kinds)):
        found = _numbers(parts, kinds)
    elif all(map(pa.types.is_date, kinds)):
        found = Joined(_as(parts, pa.date32()))
    elif all(pa.types.is_date(kind) or pa.types.is_timestamp(kind) for kind in kinds):
        found = _moments(parts, kinds)
    return found or Joined(_as(parts, arrow.TEXT), kinds=kinds)


def in_words(kinds: Iterable[pa.DataType]) -> list[str]:
    """Names kinds for a person, each once, in the order of the alphabet."""
    return sorted({next((word for test, word in _WORDS.items() if test(kind)), str(kind)) for kind in kinds})


def _numbers(parts: Sequence[pa.Array], kinds: frozenset[pa.DataType]) -> Joined | None:
    """Whole numbers where all are whole, else fractions; None for whole numbers that 64 bits cannot hold together."""
    if any(map(pa.types.is_integer, kinds)) and all(map(_may_be_whole, parts)):
        whole = [arrow.without_nan(part) for part in parts]
        for kind in (pa.int64(), pa.uint64()):
            if (column := _exactly(whole, kind)) is not None:
                return Joined(column)
    if not any(map(pa.types.is_floating, kinds)):
        return None
    if (column := _exactly(parts, pa.float64())) is not None:
        return Joined(column)
    return Joined(_as(parts, pa.float64()), ROUNDED)


def _may_be_whole(part: pa.Array) -> bool:
    return not pa.types.is_floating(part.type) or arrow.largest(part) <= MAX_EXACT


def _moments(parts: Sequence[pa.Array], kinds: frozenset[pa.DataType]) -> Joined:
    """Moments in the finest unit, in the one zone of all, or in UTC where there are several."""
    stamps = [kind for kind in kinds if pa.types.is_timestamp(kind)]
    zones = {kind.tz for kind in stamps}
    zone = next(iter(zones)) if len(zones) == 1 else "UTC"
    notes = []
    if len(stamps) < len(kinds):
        notes.append("comes as dates and as dates with times; a date counts as its first moment in UTC")
    if None in zones and len(zones) > 1:
        notes.append("has times with and without a zone; those without are read as UTC")
    finest = max((kind.unit for kind in stamps), key=_UNITS.index)
    column = _exactly(parts, pa.timestamp(finest, zone))
    if column is None:  # nanoseconds end in the year 2262
        column = _as(parts, pa.timestamp("us", zone))
    return Joined(column, ", and ".join(notes))


def _exactly(parts: Sequence[pa.Array], kind: pa.DataType) -> pa.ChunkedArray | None:
    """The parts as one kind, or None where that would change a value."""
    try:
        return pa.chunked_array([part.cast(kind) for part in parts], type=kind)
    except pa.ArrowInvalid:
        return None


def _as(parts: Sequence[pa.Array], kind: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array([part.cast(kind, safe=False) for part in parts], type=kind)


def to_frame(columns: Mapping[str, pa.ChunkedArray | pa.Array]) -> pd.DataFrame:
    """Gives a frame; whole numbers of which some are missing are nullable integers."""
    nullable = {name: _NULLABLE.get if column.null_count else None for name, column in columns.items()}
    return pd.DataFrame({name: column.to_pandas(types_mapper=nullable[name]) for name, column in columns.items()})
