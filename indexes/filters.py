"""Attribute filters: a plain structure or one line of text in, a mask over the rows of an item table out.

    category = "Books" and (price < 20 or on_sale = true) and not brand in ("A", "B")
    {"and": [{"category": "Books"}, {"price": {"<": 20}}, {"not": {"brand": {"in": ["A", "B"]}}}]}

Nothing is evaluated as code. A missing value fulfils no comparison (`is missing` finds it); `not` turns exactly that
around, so `not price < 20` holds where the price is missing.
"""

import datetime
import functools
import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from indexes.filter_terms import And, Compare, Filter, Not, Or, Value, read_filter, short
from indexes.filter_text import parse_filter

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
    if isinstance(table, pa.Table):
        column = table.column(name).combine_chunks()
    else:
        column = pa.array(table[name], from_pandas=True)
    if isinstance(column, pa.ChunkedArray):  # what combine_chunks and pandas may still give
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


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
        if not known:
            return np.zeros(len(column), dtype=bool)
        # Integers keep a type of their own: 300 is in no column of int8, and no error.
        wanted = pa.array(known, type=None if pa.types.is_integer(column.type) else column.type)
        found = _pc.is_in(column, value_set=wanted)
    elif term.operator == "!=":
        equal = _compare(Compare(term.column, "=", term.value), column)
        return ~equal & ~np.asarray(column.is_null().to_numpy(zero_copy_only=False), dtype=bool)
    else:
        if isinstance(term.value, bool) and term.operator != "=":
            raise ValueError(f"filter: expected = or != with a truth value for {term.column!r}, got {term.operator!r}")
        names = {"=": "equal", "<": "less", "<=": "less_equal", ">": "greater"}
        name = names.get(term.operator, "greater_equal")
        found = _pc.call_function(name, [column, _scalar(term.column, term.value, column.type, term.operator)])
    return np.asarray(_pc.fill_null(found, False).to_numpy(zero_copy_only=False), dtype=bool)


def _has(term: Compare, column: Any) -> Any:
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        wanted = _scalar(term.column, term.value, column.type.value_type)
        parents = _pc.list_parent_indices(column)
        hits = _pc.fill_null(_pc.equal(_pc.list_flatten(column), wanted), False)
        mask = np.zeros(len(column), dtype=bool)
        mask[parents.to_numpy(zero_copy_only=False)[hits.to_numpy(zero_copy_only=False)]] = True
        return pa.array(mask)
    if _is_text(column.type) and isinstance(term.value, str):
        return _pc.match_substring(column, term.value)
    raise ValueError(f"filter: expected a text or list column before 'has', {term.column!r} is {column.type}")


def _scalar(name: str, value: object, kind: pa.DataType, operator: str = "=") -> Any:
    """Return the value as the column's type sees it, or say that it cannot."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if (numeric and number) or (pa.types.is_boolean(kind) and isinstance(value, bool)):
        if pa.types.is_integer(kind) and isinstance(value, float):
            value = _whole(value, operator)
        try:
            return pa.scalar(value)
        except OverflowError as error:
            raise ValueError(f"filter: expected a number of 64 bits for {name!r}, got {short(value)}") from error
    if _is_text(kind) and isinstance(value, str):
        return pa.scalar(value, kind)
    if pa.types.is_temporal(kind) and isinstance(value, str):
        return _moment(name, value, kind)
    expected = (
        "a number"
        if numeric
        else "text"
        if _is_text(kind)
        else "a date as text"
        if pa.types.is_temporal(kind)
        else kind
    )
    raise ValueError(f"filter: expected {expected} to compare {name!r} ({kind}) with, got {short(value)}")


def _whole(value: float, operator: str) -> int | None:
    """Return the integer that compares with integers as the fraction does; None equals no integer.

    Comparing as fractions instead would take 2**53 + 1 for 2**53.
    """
    if value.is_integer():
        return int(value)
    if operator == "=":
        return None
    return math.ceil(value) if operator in ("<", ">=") else math.floor(value)


def _moment(name: str, text: str, kind: pa.DataType) -> Any:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"filter: expected a date such as 2024-01-31 for {name!r}, got {short(text)}") from error
    if pa.types.is_date(kind):
        return pa.scalar(moment.date(), kind)
    zone = getattr(kind, "tz", None)
    if zone is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    if zone is None and moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return pa.scalar(moment, kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
