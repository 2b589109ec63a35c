"""The terms of a filter, and how a plain structure of dicts and lists becomes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

Value = str | int | float | bool

OPERATORS = ("=", "!=", "<=", ">=", "<", ">", "in", "has", "is missing")
MAX_DEPTH = 50
"""Brackets within brackets; deeper, Python's own stack would end first."""
MAX_TERMS = 10_000
"""Comparisons and values in all."""


@dataclass(frozen=True)
class Compare:
    """One column against a value: a tuple for "in", True for "is missing"."""

    column: str
    operator: str
    value: Value | tuple[Value, ...]


@dataclass(frozen=True)
class Not:
    """The rows where the part does not hold."""

    part: "Filter"


@dataclass(frozen=True)
class And:
    """The rows where every part holds."""

    parts: tuple["Filter", ...]


@dataclass(frozen=True)
class Or:
    """The rows where at least one part holds."""

    parts: tuple["Filter", ...]


Filter = Compare | Not | And | Or


def read_filter(structure: Mapping) -> Filter:
    """Turn a structure of dicts, lists and plain values, such as JSON gives, into a Filter.

    Several keys in one dict mean "and". A column's value is what it must equal, or a dict of operator and value:
    one of `=  !=  <  <=  >  >=`, "in" (a list), "has" (an element of a list column, a piece of a text column),
    "is missing" (true or false). "and" and "or" take a list of structures, "not" takes one.
    """
    budget = [MAX_TERMS]
    return _read(structure, MAX_DEPTH, budget)


def _read(structure: object, depth: int, budget: list[int]) -> Filter:
    if depth == 0:
        raise ValueError(f"filter: expected at most {MAX_DEPTH} levels of brackets")
    if not isinstance(structure, Mapping) or not structure:
        raise ValueError(f"filter: expected a table such as {{'category': 'Books'}}, got {short(structure)}")
    parts = [_read_entry(key, value, depth, budget) for key, value in structure.items()]
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _read_entry(key: object, value: object, depth: int, budget: list[int]) -> Filter:
    if key == "not":
        return Not(_read(value, depth - 1, budget))
    if key in ("and", "or"):
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise ValueError(f"filter: expected a list after {key!r}, got {short(value)}")
        parts = tuple(_read(part, depth - 1, budget) for part in value)
        return And(parts) if key == "and" else Or(parts)
    if not isinstance(key, str):
        raise ValueError(f"filter: expected the name of a column, got {short(key)}")
    if not isinstance(value, Mapping):
        return make_compare(key, "=", value, budget)
    compares = tuple(make_compare(key, operator, operand, budget) for operator, operand in value.items())
    if not compares:
        raise ValueError(f"filter: expected an operator for {key!r}, one of {', '.join(OPERATORS)}")
    return compares[0] if len(compares) == 1 else And(compares)


def make_compare(column: str, operator: object, value: object, budget: list[int]) -> Filter:
    """Return a checked comparison; `budget` holds how many values the whole filter may still have."""
    if operator not in OPERATORS:
        raise ValueError(f"filter: expected one of {', '.join(OPERATORS)} for {column!r}, got {short(operator)}")
    several = operator == "in"
    if several and (not isinstance(value, Sequence) or isinstance(value, str)):
        raise ValueError(f"filter: expected a list of values after 'in' for {column!r}, got {short(value)}")
    values = tuple(cast("Sequence[object]", value)) if several else (value,)
    budget[0] -= max(1, len(values))
    if budget[0] < 0:
        raise ValueError(f"filter: expected at most {MAX_TERMS} values")
    for one in values:
        if not isinstance(one, str | int | float) or one != one or one in (np.inf, -np.inf):
            raise ValueError(
                f"filter: expected text, a finite number or a truth value for {column!r}, got {short(one)}"
            )
    plain = cast("tuple[Value, ...]", values)
    if operator == "is missing":
        if not isinstance(plain[0], bool):
            raise ValueError(f"filter: expected true or false after 'is missing' for {column!r}, got {short(plain[0])}")
        missing = Compare(column, "is missing", True)
        return missing if plain[0] else Not(missing)
    return Compare(column, str(operator), plain if several else plain[0])


def short(value: object) -> str:
    """Return a value as an error message may show it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
