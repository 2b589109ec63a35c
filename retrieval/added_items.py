"""New items on their way into a catalogue: every value is checked, takes the type that its column has there, and is put
below the others.

With one value of another type among them no filter could read the column any more, and no bundle hold it. Whole numbers
stay whole and moments stay moments, as where a table is read (`retrieval.data.join`).
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import is_datetime64_any_dtype, is_integer_dtype, is_scalar

from retrieval.data import arrow, canonical_id
from retrieval.data.columns import ITEM_TEXTS
from retrieval.data.join import MAX_EXACT, join_parts, to_frame
from retrieval.text import clean_text

_ANY = "text, a number of 64 bits, true or false, a date or a list of these"
_REFUSALS = (pa.ArrowException, OverflowError, TypeError, ValueError)
"""What Arrow raises of a value that a type cannot hold."""


def as_frame(items: pd.DataFrame | Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """A table, or one mapping per item, as a table whose columns are named as they have to be.

    Raises:
        ValueError: item_id or title is missing, a column is there twice, or its name is no text.
    """
    try:  # of mappings the values stay as they are: they are judged one by one
        frame = items if isinstance(items, pd.DataFrame) else pd.DataFrame(items, dtype=object)
        _ = [str(name).encode() for name in frame.columns]
    except UnicodeEncodeError as error:
        name = _short(error.object)
        raise ValueError(f"add_items: expected column names of whole characters, got {name}; rename it") from None
    if unnamed := [name for name in frame.columns if not isinstance(name, str)]:
        raise ValueError(f"add_items: expected column names that are text, got {_short(unnamed[0])}; rename it")
    if missing := [name for name in ("item_id", "title") if name not in frame.columns]:
        raise ValueError(
            f"add_items: expected the columns item_id and title, got {', '.join(frame.columns) or 'none'}; "
            f"add {' and '.join(missing)}"
        )
    if repeated := sorted(set(frame.columns[frame.columns.duplicated()])):
        raise ValueError(f"add_items: expected every column once, got {', '.join(repeated)} more than once; drop one")
    return frame


def like_catalogue(frame: pd.DataFrame, old: pd.DataFrame) -> pd.DataFrame:
    """The new items with canonical ids, and each column in the type that the catalogue's has.

    A day becomes its first moment in a column of moments, and a moment without a zone is one of UTC, as in a filter.
    Whole numbers become as wide as they need to be; fractions among them make the column one of fractions, and are
    refused where these would round a whole number.

    Raises:
        ValueError: what is no id, no title, or a value of another type than the catalogue's column has (where that
            holds nothing, than the first new value); the row and its id are named.
    """
    ids = []
    for row, value in enumerate(frame["item_id"]):
        try:
            ids.append(canonical_id(value))
        except ValueError as error:
            raise ValueError(f"add_items: row {row}: {error}; mend it") from None
    columns = {str(name): _typed(str(name), column, ids, old) for name, column in frame.items() if name != "item_id"}
    typed = to_frame(columns)
    typed.insert(0, "item_id", pd.Series(ids, dtype="str"))
    return typed


def put_below(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Both tables, one below the other; whole numbers and moments are joined as a reader joins them.

    pandas makes fractions of whole numbers, and objects of moments, where one table has none or other widths.
    """
    joined = pd.concat([old, new], ignore_index=True)
    for name in joined.columns:
        columns = [table[name] for table in (old, new) if name in table]
        if any(is_integer_dtype(column) or is_datetime64_any_dtype(column) for column in columns):
            try:
                column = join_parts([_part(name, table) for table in (old, new)]).column
            except _REFUSALS:  # the catalogue's own column has no one type
                continue
            joined[name] = to_frame({name: column})[name]
    return joined


def _part(name: str, table: pd.DataFrame) -> pa.Array:
    """A column as one that a reader joins; one that holds nothing has no type of its own."""
    column = pa.array(table[name], from_pandas=True) if name in table else pa.nulls(len(table))
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return arrow.decoded(column) if column.null_count < len(table) else pa.nulls(len(table))


def _typed(name: str, column: pd.Series, ids: Sequence[str], old: pd.DataFrame) -> pa.Array:
    """A column of the new items, each value as one of the type that the column shall have."""
    values = [None if _is_missing(value) else value for value in column.tolist()]
    kind = arrow.TEXT if name in ITEM_TEXTS else _kind_of(column, values, old.get(name))
    scalars = []
    for row, (item_id, value) in enumerate(zip(ids, values, strict=True)):
        place = f"add_items: row {row}, item {item_id!r}"
        if name == "title" and (value is None or (isinstance(value, str) and not clean_text(value))):
            got = "none" if value is None else _short(value)
            raise ValueError(f"{place}: expected a title, got {got}; give it one")
        try:
            scalars.append(None if value is None else _scalar(value, kind))
        except ValueError as error:
            got = f"{_short(value)} ({type(value).__name__})"
            raise ValueError(f"{place}: expected {error} as {name}, got {got}; mend it or leave it empty") from None
    return pa.array(scalars, kind)


def _kind_of(column: pd.Series, values: Sequence[object], old: pd.Series | None) -> pa.DataType:
    """The type of the catalogue's column, of whole numbers wide enough for all; else that of the new one."""
    held = pd.Series(dtype=object) if old is None else old.dropna()
    kind = _type_of(held)
    if kind is None:
        held, kind = held.head(0), _new_kind(column, values)
    return _number_kind(kind, held, values) if pa.types.is_integer(kind) else kind


def _new_kind(column: pd.Series, values: Sequence[object]) -> pa.DataType:
    """The type of a column that the catalogue lacks: of its first value where Arrow has none for all of them."""
    first = next((value for value in values if value is not None), None)
    if (kind := _type_of(column)) is None and _is_finite(first):  # large numbers, or fractions beside them
        kind = pa.int64() if any(_is_finite(value) and not _is_fraction(value) for value in values) else pa.float64()
    found = [kind for kind in (kind, _type_of([first])) if kind is not None and _rule_of(kind)]
    return found[0] if found else arrow.TEXT if isinstance(first, str) else pa.null()


def _number_kind(kind: pa.DataType, held: pd.Series, values: Sequence[Any]) -> pa.DataType:
    """What holds the whole numbers of a column and the new numbers: fractions if some are and no other is rounded.

    Args:
        held: the column's numbers, of this kind; none where the catalogue lacks it.
    """
    numbers = [value for value in values if _is_finite(value)]
    whole = [int(value) for value in numbers if _is_whole(value)]
    if len(held):
        known = held.astype(kind.to_pandas_dtype())
        whole += [int(known.min()), int(known.max())]
    low, high = min(whole, default=0), max(whole, default=0)
    if not all(map(_is_whole, numbers)) and max(-low, high) <= MAX_EXACT:
        return pa.float64()
    wide = kind if kind.bit_width == 64 else pa.int64()  # for what none holds, which is then refused
    limits = {one: np.iinfo(one.to_pandas_dtype()) for one in (kind, pa.int64(), pa.uint64())}
    return next((one for one, limit in limits.items() if limit.min <= low and high <= limit.max), wide)


def _type_of(values: pd.Series | list) -> pa.DataType | None:
    """What Arrow makes of values; None where there are none, or where it makes nothing of them."""
    try:
        kind = pa.array(values, from_pandas=True).type
    except _REFUSALS:
        return None
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if kind == pa.list_(pa.null()):
        return pa.list_(pa.string())  # all of them are empty
    return None if pa.types.is_null(kind) or not len(values) else kind


def _scalar(value: Any, kind: pa.DataType) -> pa.Scalar:
    """The value as one of this type. Raises ValueError that says in words what the type expects."""
    if pa.types.is_null(kind):
        raise ValueError(_ANY)
    expected, fits = _rule_of(kind) or ("a value", lambda value: True)
    if not fits(value):
        raise ValueError(expected)
    if pa.types.is_integer(kind) and not _is_whole(value):
        raise ValueError("a whole number of 64 bits")  # a fraction beside large ones would round them all
    try:
        scalar = pa.scalar(_plain(value, kind), kind)
        if not pa.types.is_floating(kind) or math.isfinite(scalar.as_py()):  # a narrow type rounds to infinity
            return scalar
    except _REFUSALS:
        pass
    raise ValueError("text of whole characters" if arrow.is_text(kind) else f"{expected} that fits {kind}")


def _plain(value: Any, kind: pa.DataType) -> Any:
    """What Arrow does not do itself: a fraction of a large whole number and back, the first moment of a day."""
    if pa.types.is_integer(kind):
        return int(value)
    if pa.types.is_floating(kind):
        return float(value)
    if pa.types.is_timestamp(kind) and not isinstance(value, datetime.datetime):
        return datetime.datetime.combine(value, datetime.time())
    return value


def _rule_of(kind: pa.DataType) -> tuple[str, Callable[[Any], bool]] | None:
    """What a column of this type holds, in words and as a test; None for a type that no table is read into."""
    if arrow.is_text(kind):
        return "text", lambda value: isinstance(value, str)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "a finite number", _is_finite
    if pa.types.is_boolean(kind):
        return "true or false", lambda value: isinstance(value, bool | np.bool_)
    if pa.types.is_date(kind):
        return "a date without a time", _is_day
    if pa.types.is_timestamp(kind):
        return "a date", lambda value: isinstance(value, datetime.date)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return "a list", lambda value: isinstance(value, list | tuple | np.ndarray)
    return None


def _is_finite(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool)  # NumPy knows no very large ones
    return isinstance(value, float | np.integer | np.floating) and bool(np.isfinite(value))


def _is_whole(number: Any) -> bool:
    """True for whole numbers; for fractions only where no other whole number would be the same fraction."""
    return not _is_fraction(number) or (abs(float(number)) <= MAX_EXACT and float(number).is_integer())


def _is_fraction(value: object) -> bool:
    return isinstance(value, float | np.floating)


def _is_day(value: Any) -> bool:
    if isinstance(value, datetime.datetime):
        return value.tzinfo is None and value.time() == datetime.time()
    return isinstance(value, datetime.date)


def _is_missing(value: Any) -> bool:
    return value is None or (is_scalar(value) and bool(pd.isna(value)))


def _short(value: object) -> str:
    try:
        return f"{value!r:.60}"
    except ValueError:
        return "a number of very many digits"
