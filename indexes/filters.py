"""Attribute filters: a plain structure or one line of text in, a mask over the rows of an item table out.

    category = "Books" and (price < 20 or on_sale = true) and not brand in ("A", "B")
    {"and": [{"category": "Books"}, {"price": {"<": 20}}, {"not": {"brand": {"in": ["A", "B"]}}}]}

Nothing is evaluated as code. A missing value (null or NaN) fulfils no comparison (`is missing` finds it); `not` turns
exactly that around, so `not price < 20` holds where the price is missing.

A number is compared with fractions as the column's own type rounds it, so that 9.99 finds 9.99 among float32 too. Whole
numbers, days and moments are compared as the integers they are stored as, with no rounding: a day is its first moment.
"""

import datetime
import functools
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from indexes.filter_terms import And, Compare, Filter, Not, Or, Value, read_filter, short
from indexes.filter_text import parse_filter

FUNCTIONS = {"=": "equal", "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal"}
WHOLE_FUNCTIONS = {**FUNCTIONS, "<": "less_equal", ">": "greater_equal"}
"""With what `_whole` makes of the value."""
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": Fraction(1, 1_000)}
MICROSECONDS_PER_DAY = 86_400_000_000

_pc: Any = pc  # its functions are made at import, where a type checker does not see them


def filter_mask(table: pd.DataFrame | pa.Table, expression: str | Mapping | Filter) -> np.ndarray:
    """Return bool (n_rows,), True where the row of the table fulfils the expression.

    Args:
        expression: text (see `parse_filter`), a structure (see `read_filter`), or what either returned.

    Raises:
        ValueError: not an expression, an unknown column, or a value that the column's type cannot be compared with.
    """
    if isinstance(expression, str):
        expression = parse_filter(expression)
    elif isinstance(expression, Mapping):
        expression = read_filter(expression)
    try:
        return _evaluate(expression, table)
    except pa.ArrowException as error:
        raise ValueError(f"filter: cannot compare as asked ({str(error).splitlines()[0]})") from error
    except UnicodeEncodeError as error:
        raise ValueError(
            f"filter: expected text of whole characters, got half a one in {short(error.object)}"
        ) from error


def _evaluate(expression: Filter, table: pd.DataFrame | pa.Table) -> np.ndarray:
    match expression:
        case Compare():
            return _compare(expression, _column(table, expression.column))
        case Not(part):
            return ~_evaluate(part, table)
        case And(parts):
            return functools.reduce(np.logical_and, (_evaluate(part, table) for part in parts))
        case Or(parts):
            return functools.reduce(np.logical_or, (_evaluate(part, table) for part in parts))
    raise ValueError(f"filter: expected text, a table or a Filter, got {short(expression)}")


def _column(table: pd.DataFrame | pa.Table, name: str) -> pa.Array:
    names = list(table.column_names if isinstance(table, pa.Table) else table.columns)
    if name not in names:
        raise ValueError(f"filter: expected a column of the item table ({', '.join(map(str, names))}), got {name!r}")
    if names.count(name) > 1:
        raise ValueError(
            f"filter: expected one column {name!r} in the item table, got {names.count(name)}; rename them"
        )
    if isinstance(table, pa.Table):
        column = table.column(name).combine_chunks()
    else:
        column = pa.array(table[name], from_pandas=True)
    if isinstance(column, pa.ChunkedArray):  # what combine_chunks and pandas may still give
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    column = column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
    return _pc.if_else(_pc.is_nan(column), None, column) if pa.types.is_floating(column.type) else column


def _plain(column: Any) -> Any:
    """Days and moments as the integers they are stored as, other columns as they are."""
    if not _is_moment(column.type):
        return column
    return column.cast(pa.int32() if pa.types.is_date32(column.type) else pa.int64())


def _compare(term: Compare, column: Any) -> np.ndarray:
    if term.operator == "is missing":
        return np.asarray(column.is_null().to_numpy(zero_copy_only=False), dtype=bool)
    if pa.types.is_null(column.type):
        return np.zeros(len(column), dtype=bool)
    if term.operator == "has":
        found = _has(term, column)
    elif term.operator == "in":
        values = cast("tuple[Value, ...]", term.value)
        scalars = [_scalar(term.column, one, column.type) for one in values]
        known = [scalar.as_py() for scalar in scalars if scalar.is_valid]
        plain = _plain(column)
        found = _pc.is_in(plain, value_set=pa.array(known, type=plain.type))
    elif term.operator == "!=":
        equal = _compare(Compare(term.column, "=", term.value), column)
        return ~equal & ~np.asarray(column.is_null().to_numpy(zero_copy_only=False), dtype=bool)
    else:
        if isinstance(term.value, bool) and term.operator != "=":
            raise ValueError(f"filter: expected = or != with a truth value for {term.column!r}, got {term.operator!r}")
        plain = _plain(column)
        names = WHOLE_FUNCTIONS if pa.types.is_integer(plain.type) else FUNCTIONS
        wanted = _scalar(term.column, term.value, column.type, term.operator)
        found = _pc.call_function(names[term.operator], [plain, wanted])
    return np.asarray(_pc.fill_null(found, False).to_numpy(zero_copy_only=False), dtype=bool)


def _has(term: Compare, column: Any) -> Any:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        wanted = _scalar(term.column, term.value, column.type.value_type)
        parents = _pc.list_parent_indices(column)
        hits = _pc.fill_null(_pc.equal(_plain(_pc.list_flatten(column)), wanted), False)
        mask = np.zeros(len(column), dtype=bool)
        mask[parents.to_numpy(zero_copy_only=False)[hits.to_numpy(zero_copy_only=False)]] = True
        return pa.array(mask)
    if _is_text(column.type) and isinstance(term.value, str):
        return _pc.match_substring(column, term.value)
    raise ValueError(f"filter: expected a text or list column before 'has', {term.column!r} is {column.type}")


def _scalar(name: str, value: object, kind: pa.DataType, operator: str = "=") -> Any:
    """Return the value as what `_plain` makes of the column is compared with, or say that it cannot be."""
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if numeric and isinstance(value, int | float) and not isinstance(value, bool):
        return _number(name, value, kind, operator)
    if (pa.types.is_boolean(kind) and isinstance(value, bool)) or (_is_text(kind) and isinstance(value, str)):
        return pa.scalar(value, kind)
    if _is_moment(kind) and isinstance(value, str):
        return _whole(_count(name, value, kind), pa.int32() if pa.types.is_date32(kind) else pa.int64(), operator)
    expected = "a number" if numeric else "text" if _is_text(kind) else "a date as text" if _is_moment(kind) else kind
    raise ValueError(f"filter: expected {expected} to compare {name!r} ({kind}) with, got {short(value)}")


def _number(name: str, value: float, kind: pa.DataType, operator: str) -> Any:
    wide = ValueError(f"filter: expected a number of 64 bits for {name!r}, got {short(value)}")
    if pa.types.is_integer(kind):
        if operator == "=" and not -(2**63) <= value < 2**64:
            raise wide
        return _whole(value, kind, operator)
    try:
        return pa.scalar(float(value), kind) if pa.types.is_floating(kind) else pa.scalar(value)
    except OverflowError as error:
        raise wide from error


def _whole(value: float | Fraction, kind: pa.DataType, operator: str) -> Any:
    """Return the last integer of this type that compares so with the value; null where there is none.

    Comparing as fractions instead would take 2**53 + 1 for 2**53.
    """
    signed = pa.types.is_signed_integer(kind)
    low, high = (-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1) if signed else (0, 2**kind.bit_width - 1)
    if operator in ("<", "<="):
        last = min(math.ceil(value) - 1 if operator == "<" else math.floor(value), high)
    elif operator in (">", ">="):
        last = max(math.floor(value) + 1 if operator == ">" else math.ceil(value), low)
    else:
        last = math.floor(value)
        low = max(low, math.ceil(value))  # a fraction equals no integer
    return pa.scalar(last if low <= last <= high else None, kind)


def _count(name: str, text: str, kind: pa.DataType) -> Fraction:
    """Return a moment in the column's units since 1970, exactly."""
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"filter: expected a date such as 2024-01-31 for {name!r}, got {short(text)}") from error
    if moment.tzinfo is None or pa.types.is_date(kind):  # a day is the one that the text names, wherever that is
        moment = moment.replace(tzinfo=datetime.UTC)
    unit = MICROSECONDS_PER_DAY if pa.types.is_date32(kind) else MICROSECONDS[getattr(kind, "unit", "ms")]
    return Fraction((moment - EPOCH) // datetime.timedelta(microseconds=1)) / unit


def _is_moment(kind: pa.DataType) -> bool:
    return pa.types.is_date(kind) or pa.types.is_timestamp(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
