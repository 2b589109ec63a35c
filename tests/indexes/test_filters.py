"""Filters: what the text and the structure mean, checked against plain Python over generated tables."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.filter_terms import And, Compare, Filter, Not, Or, read_filter
from indexes.filter_text import format_filter, parse_filter
from indexes.filters import filter_mask

TABLE = pd.DataFrame(
    {
        "category": ["Books", "Toys", None, 'The "Best"'],
        "price": [1.5, 30.0, None, 20.0],
        "stock": [0, 5, 2**53 + 1, 7],
        "sale": [True, False, True, False],
        "tags": [["new", "red"], ["red"], [], None],
        "since": pd.to_datetime(["2024-01-01", "2024-06-01", None, "2025-01-01"]),
        "two words": [1, 2, 3, 4],
    }
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('category = "Books"', [0]),
        ("category = 'The \"Best\"'", [3]),
        ('category = "The \\"Best\\""', [3]),
        ('category != "Books"', [1, 3]),
        ('not category = "Books"', [1, 2, 3]),
        ("category is missing", [2]),
        ("category is not missing", [0, 1, 3]),
        ('category has "o"', [0, 1]),
        ('category in ("Toys", "Books")', [0, 1]),
        ('category not in ("Toys", "Books")', [2, 3]),
        ("price < 20", [0]),
        ("price <= 20", [0, 3]),
        ("price > 1.5 and price < 1e2", [1, 3]),
        ("not price < 20", [1, 2, 3]),
        ("stock >= 4.5", [1, 2, 3]),
        ("stock = 9007199254740993", [2]),
        ("stock = 9007199254740992", []),
        ("stock in (5, 7.0, 0.5)", [1, 3]),
        ("stock = 0.5 or stock <= -0.5", []),
        ("stock != 0.5 and stock > 4.5 and stock < 5.5", [1]),
        ("sale = true", [0, 2]),
        ("sale != true", [1, 3]),
        ('tags has "red"', [0, 1]),
        ('since >= "2024-06-01"', [1, 3]),
        ('since = "2024-01-01T00:00:00"', [0]),
        ("`two words` = 3", [2]),
        ("NOT sale = TRUE AND stock > 0", [1, 3]),
        ("stock = 0 or stock = 5 and sale = true", [0]),
        ("(stock = 0 or stock = 5) and sale = false", [1]),
    ],
)
def test_text_means_what_it_says(text: str, rows: list[int]) -> None:
    assert np.flatnonzero(filter_mask(TABLE, text)).tolist() == rows
    again = format_filter(parse_filter(text))
    assert parse_filter(again) == parse_filter(text)


def test_a_structure_means_the_same_as_text() -> None:
    structure = {
        "and": [
            {"category": {"in": ["Books", "Toys"]}},
            {"not": {"sale": True}},
            {"or": [{"price": {">": 5, "<": 40}}]},
        ]
    }
    text = 'category in ("Books", "Toys") and not sale = true and (price > 5 and price < 40)'
    assert np.flatnonzero(filter_mask(TABLE, structure)).tolist() == [1]
    assert np.flatnonzero(filter_mask(TABLE, text)).tolist() == [1]
    assert read_filter({"price": {"is missing": False}}) == Not(Compare("price", "is missing", True))
    assert np.flatnonzero(filter_mask(TABLE, {"category": "Books", "sale": True})).tolist() == [0]


def test_pandas_and_arrow_tables_give_the_same_rows() -> None:
    table = pa.Table.from_pandas(TABLE)
    halves = pa.concat_tables([table.slice(0, 2), table.slice(2)])
    for text in ('category = "Books" or price = 20', 'tags has "red"', "sale = true"):
        expected = filter_mask(TABLE, text)
        np.testing.assert_array_equal(filter_mask(table, text), expected)
        np.testing.assert_array_equal(filter_mask(halves, text), expected)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("prize = 1", r"expected a column of the item table \(category, price, .*\), got 'prize'"),
        ('price = "x"', r"expected a number to compare 'price' \(double\) with, got 'x'"),
        ("category = 3", "expected text to compare 'category'"),
        ("category < true", "expected = or != with a truth value for 'category', got '<'"),
        ('since > "soon"', "expected a date such as 2024-01-31 for 'since', got 'soon'"),
        ("stock has 3", "expected a text or list column before 'has', 'stock' is int64"),
        ("price <", "expected a number, text in quotes, true or false at position 8, got the end"),
        ("price = 1 price = 2", "expected 'and', 'or' or the end at position 11, got 'price'"),
        ("(price = 1", r"expected '\)' at position 11, got the end"),
        ("price = 1; drop table", "cannot read '; drop table' at position 10"),
        ('__import__("os")', r"expected an operator .* at position 11, got '\('"),
        ("", "expected the name of a column at position 1, got the end"),
        ('category = "open', "cannot read '\"open' at position 12"),
        ("price = nan", "expected a number, text in quotes, true or false at position 9, got 'nan'"),
        ("(" * 60 + "price = 1" + ")" * 60, "expected at most 50 levels of brackets"),
        ("not " * 60 + "price = 1", "expected at most 50 levels of brackets"),
        ("price in (" + "1," * 10_000 + "1)", "expected at most 10000 values"),
        ("price = 1" + " " * 100_000, "expected at most 100000 characters"),
        ({}, "expected a table such as"),
        ({"price": float("nan")}, "expected text, a finite number or a truth value for 'price', got nan"),
        ({"price": {"~": 1}}, "expected one of =, .* for 'price', got '~'"),
        ({"price": {}}, "expected an operator for 'price'"),
        ({"price": {"in": "abc"}}, "expected a list of values after 'in' for 'price', got 'abc'"),
        ({"stock": 2**70}, "expected a number of 64 bits for 'stock'"),
        ({"price": 10**400}, "expected a number of 64 bits for 'price'"),
        (f"stock < {'9' * 400}", "expected text, a finite number or a truth value for 'stock', got inf"),
        ('category = "\ud800"', r"expected text of whole characters, got half a one in '\\ud800'"),
        ({"category": {"in": ["\ud800"]}}, "expected text of whole characters"),
        ({"category": {"has": "\ud800"}}, "expected text of whole characters"),
        ({"and": {"price": 1}}, "expected a list after 'and'"),
        ({"category": ["Books"]}, "expected text, a finite number or a truth value"),
        ({"price": {"is missing": 1}}, "expected true or false after 'is missing'"),
        ({3: 4}, "expected the name of a column, got 3"),
    ],
)
def test_what_is_no_filter_is_refused(expression: str | dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filter_mask(TABLE, expression)


def test_an_endless_structure_is_refused() -> None:
    structure: dict = {}
    structure["not"] = structure
    with pytest.raises(ValueError, match="expected at most 50 levels of brackets"):
        filter_mask(TABLE, structure)


texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=5)
numbers = st.integers(-3, 3) | st.floats(-3, 3, allow_subnormal=False)
compares = st.one_of(
    st.builds(Compare, st.just("text"), st.sampled_from(["=", "!=", "<", ">=", "has"]), texts),
    st.builds(Compare, st.just("a number"), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), numbers),
    st.builds(Compare, st.just("text"), st.just("in"), st.lists(texts, min_size=1, max_size=3).map(tuple)),
    st.builds(Compare, st.sampled_from(["text", "a number"]), st.just("is missing"), st.just(True)),
)
several = st.lists(compares, min_size=2, max_size=3).map(tuple)
filters = st.recursive(
    compares,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


def holds(expression: Filter, row: dict) -> bool:
    """The meaning of a filter, said in plain Python."""
    match expression:
        case Not(part):
            return not holds(part, row)
        case And(parts):
            return all(holds(part, row) for part in parts)
        case Or(parts):
            return any(holds(part, row) for part in parts)
        case Compare(column, operator, value):
            found = row[column]
            if operator == "is missing" or found is None:
                return operator == "is missing" and found is None
            operations = {
                "=": lambda: found == value,
                "!=": lambda: found != value,
                "<": lambda: found < value,
                "<=": lambda: found <= value,
                ">": lambda: found > value,
                ">=": lambda: found >= value,
                "in": lambda: found in value,
                "has": lambda: value in found,
            }
            return operations[operator]()


rows = st.lists(st.fixed_dictionaries({"text": st.none() | texts, "a number": st.none() | numbers}), max_size=6)


@given(filters, rows)
@settings(max_examples=300, deadline=None)
def test_a_mask_is_the_filter_row_by_row(expression: Filter, table: list[dict]) -> None:
    schema = pa.schema([("text", pa.string()), ("a number", pa.float64())])
    mask = filter_mask(pa.Table.from_pylist(table, schema=schema), expression)
    assert mask.tolist() == [holds(expression, row) for row in table]


@given(filters)
@settings(max_examples=300, deadline=None)
def test_text_and_filter_turn_into_each_other(expression: Filter) -> None:
    assert parse_filter(format_filter(expression)) == expression


@given(st.text(max_size=40) | st.text(alphabet="ab<>=!()'\"`\\ 0.,-innotandor", max_size=40))
@settings(max_examples=500, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    message = "filter: "
    try:
        filter_mask(TABLE, text)
    except ValueError as error:
        message = str(error)
    assert message.startswith("filter: ")
