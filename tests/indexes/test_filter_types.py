"""Filters: each type of column is compared as what it is, and without losing a digit."""

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from indexes.filter_text import format_filter, parse_filter
from indexes.filters import filter_mask

WIDE = 1234567890123456789
KINDS = pa.table(
    {
        "wide": pa.array([WIDE, WIDE + 1, 2**63 - 1, None]),
        "unsigned": pa.array([0, 2**63, 2**64 - 1, None], type=pa.uint64()),
        "price": pa.array([9.99, 0.1, float("nan"), None], type=pa.float32()),
        "day": pa.array([datetime.date(2024, 1, day) for day in (1, 2, 3)] + [None]),
        "day64": pa.array([datetime.date(2024, 1, day) for day in (1, 2, 3)] + [None], type=pa.date64()),
        "seconds": pa.array([0, 1, 2, None], type=pa.timestamp("s", tz="Europe/Berlin")),
        "nanoseconds": pa.array([0, 1, 10**9, None], type=pa.timestamp("ns")),
        "days": pa.array([[datetime.date(2024, 1, 2)], [], [None], None]),
    }
)


def test_other_column_types_compare_too() -> None:
    table = pa.table(
        {
            "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
            "day": pa.array([datetime.date(2024, 1, day) for day in (1, 2, 3)]),
            "moment": pa.array([0, 3600, 7200], type=pa.timestamp("s", tz="UTC")),
            "small": pa.array([1, 2, 3], type=pa.int8()),
            "nothing": pa.nulls(3),
            "numbers": pa.array([[1, 2], [2], None]),
        }
    )
    assert filter_mask(table, 'kind = "a"').tolist() == [True, False, True]
    assert filter_mask(table, 'day > "2024-01-02"').tolist() == [False, False, True]
    assert filter_mask(table, 'moment >= "1970-01-01T02:00:00+01:00"').tolist() == [False, True, True]
    assert filter_mask(table, "small < 300").tolist() == [True, True, True]
    assert filter_mask(table, "small in (300, 3)").tolist() == [False, False, True]
    assert filter_mask(table, "small in (0.5)").tolist() == [False, False, False]
    assert filter_mask(table, "nothing = 3").tolist() == [False, False, False]
    assert filter_mask(table, "numbers has 2").tolist() == [True, True, False]
    assert filter_mask(table.slice(0, 0), "small < 300").tolist() == []


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (f"wide = {WIDE}", [0]),
        (f"wide in ({WIDE + 1}, 3, -9223372036854775809.0, 18446744073709551615)", [1]),
        ("wide <= 9223372036854775807", [0, 1, 2]),
        (f"wide > {WIDE}.0", [0, 1, 2]),  # with a point it is a float: the nearest is 21 less
        ("wide < 1e19 and wide > -1e300", [0, 1, 2]),
        ("wide >= 18446744073709551616", []),
        ("wide < -18446744073709551616", []),
        ("unsigned > -1", [0, 1, 2]),
        ("unsigned < 0 or unsigned = -1", []),
        ("unsigned >= 18446744073709551615", [2]),
        ("price = 9.99", [0]),
        ("price in (9.99, 0.1)", [0, 1]),
        ("price <= 0.1", [1]),
        ("price < 9.99", [1]),
        ("price > 0.1 and price < 1e300", [0]),
        (f"price < {2**60 + 1}", [0, 1]),
        ("price is missing", [2, 3]),
        ("price != 0.1", [0]),
        ('day < "2024-01-02T12:00"', [0, 1]),
        ('day <= "2024-01-02T12:00"', [0, 1]),
        ('day > "2024-01-02T12:00"', [2]),
        ('day = "2024-01-02T12:00"', []),
        ('day in ("2024-01-02T12:00", "2024-01-03")', [2]),
        ('day64 >= "2024-01-01T00:00:00.001"', [1, 2]),
        ('day64 = "2024-01-02T00:00+01:00"', [1]),
        ('day < "9999-12-31T12:00"', [0, 1, 2]),
        ('days has "2024-01-02"', [0]),
        ('seconds > "1970-01-01T00:00:00.5"', [1, 2]),
        ('seconds = "1970-01-01T02:00:01+02:00"', [1]),
        ('seconds > "0001-01-01T00:00:00+01:00"', [0, 1, 2]),
        ('nanoseconds < "9999-12-31"', [0, 1, 2]),
        ('nanoseconds < "1970-01-01T00:00:00.000001"', [0, 1]),
        ('nanoseconds = "9999-12-31" or nanoseconds > "9999-12-31"', []),
    ],
)
def test_each_type_is_compared_without_losing_a_digit(text: str, rows: list[int]) -> None:
    assert np.flatnonzero(filter_mask(KINDS, text)).tolist() == rows
    assert parse_filter(format_filter(parse_filter(text))) == parse_filter(text)


def test_a_column_whose_name_comes_twice_is_refused() -> None:
    twice = pd.DataFrame([[1, 2]], columns=["price", "price"])
    for table in (twice, pa.table([[1], [2]], names=["price", "price"])):
        with pytest.raises(ValueError, match="expected one column 'price' in the item table, got 2; rename them"):
            filter_mask(table, "price = 1")
