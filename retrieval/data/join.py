"""The parts of a column, as files and chunks give them, become one column; a table of such columns becomes a frame.

Whole numbers stay whole numbers, whatever their width and whether or not some are missing: as fractions they would be
rounded above 2**53, and a filter by such a number would find another item.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from retrieval.data import arrow

MAX_EXACT = 2**53
"""A larger fraction may have been another whole number once."""
_NULLABLE = {
    pa.uint64(): pd.UInt64Dtype(),
    **dict.fromkeys(
        (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()), pd.Int64Dtype()
    ),
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
    found = _numbers(parts, kinds) if all(map(arrow.is_number, kinds)) else None
    return found or Joined(_as(parts, arrow.TEXT), kinds=kinds)


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
    note = "holds fractions and whole numbers above 2**53, which are rounded; write those as text to tell them apart"
    return Joined(_as(parts, pa.float64()), note)


def _may_be_whole(part: pa.Array) -> bool:
    return not pa.types.is_floating(part.type) or arrow.largest(part) <= MAX_EXACT


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
