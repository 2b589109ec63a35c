"""A filter over an item table in, which items pass it out: `indexes.filters`, knowing what the item table keeps how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from indexes.filter_terms import And, Compare, Filter, Not, Or, read_filter
from indexes.filter_text import parse_filter
from indexes.filters import filter_mask
from retrieval.data.columns import ITEM_TEXTS


def item_mask(frame: pd.DataFrame, filters: str | Mapping[str, object]) -> np.ndarray:
    """Gives bool (n_items,), True where the item passes.

    The text columns (title, description, category, brand) can always be asked for; in them an empty text is missing,
    and what is missing fulfils no comparison with a text.

    Raises:
        ValueError: see `indexes.filters.filter_mask`; the columns it names are those that hold something.
    """
    expression = parse_filter(filters) if isinstance(filters, str) else read_filter(filters)
    frame = frame.assign(**{name: "" for name in ITEM_TEXTS if name not in frame.columns})
    for name in _columns(expression):
        if name not in frame.columns:
            held = ", ".join(str(name) for name, column in frame.items() if _holds_something(column))
            raise ValueError(f"filter: expected a column of the item table ({held}), got {name!r}")
    return filter_mask(frame, _empty_is_missing(expression))


def _empty_is_missing(expression: Filter) -> Filter:
    """The same expression, where an empty text of ITEM_TEXTS is missing: it fulfils no comparison with another text.

    To ask for the empty text itself is to ask for what is missing.
    """
    match expression:
        case Compare(column, "is missing", _) | Compare(column, "=", "") if column in ITEM_TEXTS:
            return Or((Compare(column, "is missing", True), Compare(column, "=", "")))
        case Compare(column, "in", tuple() as values) if column in ITEM_TEXTS and "" in values:
            return Or((expression, Compare(column, "is missing", True)))
        case Compare(column) if column in ITEM_TEXTS:
            return And((expression, Not(Compare(column, "=", ""))))
        case Not(part):
            return Not(_empty_is_missing(part))
        case And(parts):
            return And(tuple(_empty_is_missing(part) for part in parts))
        case Or(parts):
            return Or(tuple(_empty_is_missing(part) for part in parts))
    return expression


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
