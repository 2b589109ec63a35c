"""A filter over an item table in, which items pass it out: `indexes.filters`, knowing what the item table keeps how."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from indexes.filter_terms import And, Compare, Filter, Not, Or, Value, read_filter
from indexes.filter_text import parse_filter
from indexes.filters import filter_mask
from retrieval.data.columns import ITEM_TEXTS


def item_mask(frame: pd.DataFrame, filters: str | Mapping[str, object]) -> np.ndarray:
    """Gives bool (n_items,), True where the item passes.

    The text columns (title, description, category, brand) can always be asked for; in them an empty text is missing,
    and what is missing fulfils no comparison with a text. Texts are compared in Unicode form NFC, as tables keep them.

    Raises:
        ValueError: see `indexes.filters.filter_mask`; the columns it names are those that hold something.
    """
    expression = parse_filter(filters) if isinstance(filters, str) else read_filter(filters)
    frame = frame.assign(**{name: "" for name in ITEM_TEXTS if name not in frame.columns})
    for name in _columns(expression):
        if name not in frame.columns:
            held = ", ".join(str(name) for name, column in frame.items() if _holds_something(column))
            raise ValueError(f"filter: expected a column of the item table ({held}), got {name!r}")
    return filter_mask(frame, _as_kept(expression))


def _as_kept(expression: Filter) -> Filter:
    """The same expression over texts as an item table keeps them."""
    match expression:
        case Not(part):
            return Not(_as_kept(part))
        case And(parts):
            return And(tuple(_as_kept(part) for part in parts))
        case Or(parts):
            return Or(tuple(_as_kept(part) for part in parts))
        case Compare(column, operator, value):
            normal = tuple(_in_nfc(one) for one in value) if isinstance(value, tuple) else _in_nfc(value)
            compare = Compare(column, operator, normal)
            return _empty_is_missing(compare) if column in ITEM_TEXTS else compare


def _in_nfc(value: Value) -> Value:
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


def _empty_is_missing(compare: Compare) -> Filter:
    """The same comparison, where an empty text is missing and fulfils none with another text.

    To ask for the empty text itself is to ask for what is missing.
    """
    empty, missing = Compare(compare.column, "=", ""), Compare(compare.column, "is missing", True)
    if compare in (empty, missing):
        return Or((empty, missing))
    if isinstance(compare.value, tuple) and "" in compare.value:
        return Or((compare, missing))
    return And((compare, Not(empty)))


def _columns(expression: Filter) -> Iterator[str]:
    match expression:
        case Compare(column):
            yield column
        case Not(part):
            yield from _columns(part)
        case And(parts) | Or(parts):
            for part in parts:
                yield from _columns(part)


def _holds_something(column: pd.Series) -> bool:
    return bool((column.notna() & (column.astype(str) != "")).any())
