"""The parts of an attribute, as files and chunks give them, become one column without losing anything."""

import datetime
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest

from retrieval.benchmark import segments_of
from retrieval.data import arrow, read_items
from retrieval.data.infer import infer
from retrieval.item_filter import item_mask
from tests.retrieval.data.writing import jsonl, parquet, save


def folder_of(tmp_path, *parts, name="x"):
    """A folder with a parquet file for each of these arrays, as the attribute `name`; ids and titles are made."""
    folder = tmp_path / "items"
    folder.mkdir()
    for number, part in enumerate(parts):
        ids = [f"i{number}-{row}" for row in range(len(part))]
        parquet(folder / f"{number}.parquet", {"item_id": ids, "title": ids, name: part})
    return folder


# Text


@pytest.mark.parametrize("choice", ["error", "first"])
def test_texts_of_any_size_are_joined_in_parts(tmp_path, choice):
    """In one piece, or with offsets of 32 bits, a column could not hold more than 2 GiB."""
    folder = folder_of(tmp_path, ["a", "b"], ["c"])
    if choice == "first":
        parquet(folder / "9.parquet", {"item_id": ["i0-0", "new"], "title": ["again", "new"], "x": ["again", "d"]})
    frame = read_items(folder, on_duplicate=choice).frame
    for name in ("title", "x"):
        column = pa.chunked_array(pa.array(frame[name]))
        assert column.type == pa.large_string()
        assert [len(part) for part in column.chunks] == [2, 1] + [1] * (choice == "first")
    assert frame["x"].tolist() == ["a", "b", "c"] + ["d"] * (choice == "first")


@pytest.mark.parametrize("cells", [["1", "2", "x"] * 4, ["2024-01-01"] * 20 + ["none"], ["a"]])
def test_what_a_column_of_texts_holds_is_told_with_offsets_of_64_bits(cells):
    column = pa.chunked_array([pa.array(cells, arrow.TEXT)] * 2)
    assert infer(column, mixed=False).column.type == pa.large_string()
    assert arrow.trimmed(column.combine_chunks()).type == pa.large_string()


# Numbers

BIG = 123456789012345678
"""As a fraction it would be BIG + 2, as would be BIG + 1."""


def found(items, filters):
    return items.ids.ids[item_mask(items.frame, filters)].tolist()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_whole_numbers_stay_exact_where_one_is_missing(tmp_path, suffix):
    rows = {"item_id": ["a", "b", "c"], "title": ["a", "b", "c"], "sku": pd.array([BIG, BIG + 1, None], dtype="Int64")}
    file = tmp_path / f"items.{suffix}"
    if suffix == "jsonl":
        jsonl(file, [{"item_id": "a", "title": "a", "sku": BIG}, {"item_id": "b", "title": "b", "sku": BIG + 1},
                     {"item_id": "c", "title": "c"}])  # fmt: skip
    else:
        save(pd.DataFrame(rows), file)
    for items in (read_items(file), read_items(pd.DataFrame(rows))):
        assert items.frame["sku"].dtype == "Int64"
        assert found(items, f"sku = {BIG}") == ["a"]
        assert found(items, f"sku != {BIG}") == ["b"]
        assert found(items, "sku is missing") == ["c"]


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ([pa.array([1], pa.int32()), pa.array([BIG])], "int64"),
        ([pa.array([1], pa.int8()), pa.array([2], pa.uint8())], "int64"),
        ([pa.array([2**64 - 1], pa.uint64()), pa.array([BIG])], "uint64"),
        ([pa.array([2**64 - 1, None], pa.uint64())], "UInt64"),
        ([pa.array([1, None], pa.int32()), pa.array([BIG])], "Int64"),
        ([pa.array([BIG]), pa.array([5.0, None])], "Int64"),
        ([pa.array([BIG]), pa.array([5.0, float("nan")])], "Int64"),
        ([pa.array([Decimal(BIG), None])], "Int64"),
        ([pa.array([BIG]), pa.nulls(1)], "Int64"),
    ],
)
def test_whole_numbers_of_several_widths_are_joined_exactly(tmp_path, parts, kind):
    items = read_items(folder_of(tmp_path, *parts))
    assert items.frame["x"].dtype == kind
    expected = [None if value != value else value for part in parts for value in part.to_pylist()]
    assert pa.array(items.frame["x"]).to_pylist() == expected
    assert items.report.warnings == ()


def test_whole_numbers_with_gaps_may_tell_users_apart(tmp_path):
    (tmp_path / "users.csv").write_text("user_id,age\na,30\nb,\n")
    assert segments_of(tmp_path / "users.csv", "age") == {"a": "30", "b": ""}


def test_whole_numbers_beside_fractions_are_fractions_and_rounding_is_told(tmp_path):
    items = read_items(folder_of(tmp_path, [1, 2], [2.5]))
    assert (items.frame["x"].tolist(), items.report.warnings) == ([1, 2, 2.5], ())
    (tmp_path / "other").mkdir()
    items = read_items(folder_of(tmp_path / "other", [BIG], [2.5]))
    assert items.frame["x"].dtype == "float64"
    assert items.report.warnings[0].startswith("x holds fractions and whole numbers above 2**53, which are rounded")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_that_whole_numbers_among_texts_are_rounded_is_told(tmp_path, suffix):
    rows = pd.DataFrame({"item_id": ["a", "b"], "title": ["a", "b"], "x": pd.Series([BIG, 2.5], dtype=object)})
    items = read_items(save(rows, tmp_path / f"items.{suffix}"))
    assert items.frame["x"].dtype == "float64"
    assert items.report.warnings[0].startswith("x holds fractions and whole numbers above 2**53, which are rounded")


def test_a_fraction_too_large_to_be_exact_makes_no_whole_number(tmp_path):
    assert read_items(folder_of(tmp_path, [1], [1e17])).frame["x"].dtype == "float64"


def test_whole_numbers_that_64_bits_do_not_hold_together_stay_exact_as_text(tmp_path):
    items = read_items(folder_of(tmp_path, [-1], pa.array([2**64 - 1], pa.uint64())))
    assert items.frame["x"].tolist() == ["-1", str(2**64 - 1)]


# Dates

NEW_YEAR = datetime.datetime(2024, 1, 1)


def moments(unit, *values, zone=None):
    return pa.array(values, pa.timestamp(unit, zone))


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ([moments("us", NEW_YEAR), moments("ns", NEW_YEAR)], "datetime64[ns]"),
        ([moments("s", NEW_YEAR), moments("ms", NEW_YEAR, None)], "datetime64[ms]"),
        ([moments("us", datetime.datetime(9999, 1, 1)), moments("ns", NEW_YEAR)], "datetime64[us]"),
        ([moments("us", NEW_YEAR, zone="Asia/Tokyo"), moments("ns", NEW_YEAR, zone="Asia/Tokyo")], "Asia/Tokyo]"),
        ([moments("us", NEW_YEAR, zone="Asia/Tokyo"), moments("us", NEW_YEAR, zone="Europe/Berlin")], "UTC]"),
        ([pa.array([NEW_YEAR.date()]), pa.array([NEW_YEAR.date()], pa.date64())], "object"),
    ],
)
def test_dates_of_several_units_are_joined_as_dates(tmp_path, parts, kind):
    items = read_items(folder_of(tmp_path, *parts))
    assert str(items.frame["x"].dtype).endswith(kind)
    expected = [value for part in parts for value in part.cast(pa.timestamp("us", getattr(part.type, "tz", None)))]
    assert pa.array(items.frame["x"]).cast(pa.timestamp("us")).to_pylist() == [
        value.cast(pa.timestamp("us")).as_py() for value in expected
    ]
    assert items.report.warnings == ()
    assert found(items, "x > '2023-12-31T23:59:59' and x <= '2024-01-01'")


@pytest.mark.parametrize(
    ("parts", "warning"),
    [
        ([moments("us", NEW_YEAR), moments("us", NEW_YEAR, zone="Asia/Tokyo")], "x has times with and without a zone"),
        ([moments("us", NEW_YEAR), pa.array([NEW_YEAR.date()])], "x comes as dates and as dates with times"),
        ([moments("us", NEW_YEAR, zone="Asia/Tokyo"), pa.array([NEW_YEAR.date()])], "x comes as dates and"),
    ],
)
def test_dates_of_different_meaning_are_read_as_filters_read_them_and_told(tmp_path, parts, warning):
    items = read_items(folder_of(tmp_path, *parts))
    assert len(found(items, "x = '2024-01-01'")) == 2
    assert items.report.warnings[0].startswith(warning)


@pytest.mark.parametrize(
    ("parts", "warning"),
    [
        ([[1], ["XL"]], "x comes as text and as whole numbers, and is kept as text"),
        ([[True], ["XL"]], "x comes as text and as true and false, and is kept as text"),
        ([[1], moments("us", NEW_YEAR)], "x comes as dates with times and as whole numbers, and is kept as text"),
        ([[-1], pa.array([2**64 - 1], pa.uint64())], "x comes as unsigned whole numbers and as whole"),
    ],
)
def test_a_column_that_becomes_text_as_its_parts_disagree_is_told(tmp_path, parts, warning):
    assert read_items(folder_of(tmp_path, *parts)).report.warnings[-1].startswith(warning)


def test_a_column_of_json_that_no_type_holds_is_told_where_it_becomes_text(tmp_path):
    rows = [{"item_id": "a", "title": "a", "x": True}, {"item_id": "b", "title": "b", "x": "XL"}]
    items = read_items(jsonl(tmp_path / "items.jsonl", rows))
    assert items.report.warnings == (
        "x comes as values that no one type holds, and is kept as text; write it in one way to filter by range",
    )
