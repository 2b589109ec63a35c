"""New items take the types of the catalogue's columns; what does not fit is refused with its row and id."""

from __future__ import annotations

import datetime
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from retrieval.added_items import as_frame, like_catalogue, put_below
from retrieval.recommend import Recommender
from retrieval.storage import save_bundle
from retrieval.update import add_items
from tests.world import item_frame, make_items

DAY = datetime.date(2026, 1, 1)
MOMENT = datetime.datetime(2026, 1, 1, 12)
BERLIN = datetime.timezone(datetime.timedelta(hours=1))
HALF = "\ud800"
NEW = {"item_id": "extra", "title": "big red robot"}


def catalogue_frame() -> pd.DataFrame:
    """The world's items with an attribute of every kind."""
    frame = item_frame()
    return frame.assign(
        price=frame["size"] + 0.5,
        narrow=frame["size"].astype(np.float32),
        sold=frame["size"] > 3,
        day=[DAY] * len(frame),
        moment=pd.Timestamp(MOMENT),
        zoned=pd.Timestamp(MOMENT, tz="UTC"),
        tags=[["a", "b"]] * len(frame),
        shade=frame["colour"].astype("category"),
        nothing=np.nan,
    )


@pytest.fixture(scope="module")
def shop(recommender: Recommender) -> Recommender:
    """The world's recommender over these items."""
    catalogue = replace(recommender.model.catalogue, items=make_items(catalogue_frame()))
    return replace(recommender, model=replace(recommender.model, catalogue=catalogue))


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("price", 10**400, "a finite number that fits double"),
        pytest.param("price", 10**5000, "a finite number that fits double", id="5001 digits"),
        ("price", "12", "a finite number"),
        ("price", 3j, "a finite number"),
        ("narrow", 1e300, "a finite number that fits float"),
        ("size", 2**70, "a finite number that fits int64"),
        ("size", -np.inf, "a finite number"),
        ("sold", 1, "true or false"),
        ("day", MOMENT, "a date without a time"),
        ("day", "2026-01-01", "a date without a time"),
        ("moment", 5, "a date"),
        ("tags", "ab", "a list"),
        ("tags", [1], "a list that fits list<item: string>"),
        ("tags", [HALF], "a list that fits list<item: string>"),
        ("title", f"robot {HALF}", "text of whole characters"),
        ("description", HALF, "text of whole characters"),
        ("colour", HALF, "text of whole characters"),
        ("colour", b"red", "text"),
        ("shade", HALF, "text of whole characters"),
        ("nothing", HALF, "text of whole characters"),
        ("unheard", HALF, "text of whole characters"),
        ("unheard", 2**70, "a finite number that fits int64"),
        ("unheard", {}, "text, a number of 64 bits, true or false, a date or a list of these"),
        ("unheard", object(), "text, a number of 64 bits, true or false, a date or a list of these"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_row_and_id(shop, column, value, expected):
    fine = {**NEW, "item_id": "fine"}
    for items in ([fine, {**NEW, column: value}], pd.DataFrame([fine, {**NEW, column: value}], dtype=object)):
        with pytest.raises(
            ValueError, match=re.escape(f"add_items: row 1, item 'extra': expected {expected} as {column}, got ")
        ):
            add_items(shop, items)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([NEW, {**NEW, "item_id": HALF}], "row 1: id holds half of a surrogate pair"),
        ([{**NEW, HALF: 1}], r"expected column names of whole characters, got '\\ud800'; rename it"),
        (pd.DataFrame([{**NEW, 5: 1}]), "expected column names that are text, got 5; rename it"),
    ],
)
def test_bad_ids_and_column_names_are_refused(shop, given, said):
    with pytest.raises(ValueError, match=f"^add_items: {said}"):
        add_items(shop, given)


@pytest.mark.parametrize(
    ("column", "value", "filters"),
    [
        ("price", 10**30, "price > 1e29"),
        ("price", 7, "price = 7"),
        ("narrow", 9.99, "narrow = 9.99"),
        ("size", 99.5, "size = 99.5"),
        ("sold", np.bool_(True), "sold = true"),
        ("day", datetime.datetime(2026, 2, 1), "day = '2026-02-01'"),
        ("moment", datetime.date(2026, 2, 1), "moment = '2026-02-01'"),
        ("zoned", datetime.date(2026, 2, 1), "zoned = '2026-02-01'"),
        ("zoned", datetime.datetime(2026, 2, 1, 1, tzinfo=BERLIN), "zoned = '2026-02-01'"),
        ("moment", datetime.datetime(2026, 2, 1, 1, tzinfo=BERLIN), "moment = '2026-02-01'"),
        ("tags", ("new", "b"), "tags has 'new'"),
        ("tags", np.array(["new"]), "tags has 'new'"),
        ("shade", "mauve", "shade = 'mauve'"),
        ("nothing", 2, "nothing = 2"),
        ("nothing", "x", "nothing = 'x'"),
        ("nothing", datetime.date(2026, 2, 1), "nothing = '2026-02-01'"),
        ("unheard", ["x"], "unheard has 'x'"),
        ("unheard", pd.Timestamp("2026-02-01", tz="UTC"), "unheard = '2026-02-01'"),
    ],
)
def test_a_value_that_fits_is_kept_so_that_filters_and_bundles_take_the_column(shop, tmp_path, column, value, filters):
    larger = add_items(shop, [{**NEW, "item_id": "fine"}, {**NEW, column: value}])
    found = larger.search("big red robot", k=200, filters=filters).item_ids
    assert "extra" in found
    assert "fine" not in found
    larger.model.catalogue.items.frame.to_parquet(tmp_path / "items.parquet")
    assert len(pd.read_parquet(tmp_path / "items.parquet")) == len(shop.item_ids) + 2


@pytest.mark.parametrize("kept", ["Caf\u00e9", "Cafe\u0301"])
@pytest.mark.parametrize("asked", ["Caf\u00e9", "Cafe\u0301"])
def test_texts_and_ids_that_look_the_same_are_the_same(shop, kept, asked):
    names = ("title", "brand", "colour", "shade", "unheard", "nothing")
    larger = add_items(shop, [{"item_id": kept, "tags": [kept], **dict.fromkeys(names, kept)}])
    filters = " and ".join(f"{name} = '{asked}'" for name in ("item_id", *names)) + f" and tags has '{asked}'"
    assert larger.search("robot", k=5, filters=filters).item_ids == ["Caf\u00e9"]
    with pytest.raises(ValueError, match="expected new items, got known ones"):
        add_items(larger, [{"item_id": asked, "title": "cup"}])


def test_items_of_every_kind_are_saved_and_served_again(shop, tmp_path):
    row = catalogue_frame().iloc[[3]].assign(item_id="extra", moment=DAY, tags=[["new"]])
    save_bundle(tmp_path / "bundle", add_items(shop, row))
    again = Recommender.load(tmp_path / "bundle", device="cpu", precision="float32")
    assert again.search("robot", k=5, filters="moment = '2026-01-01' and tags has 'new'").item_ids == ["extra"]


def test_columns_keep_the_types_of_the_catalogue():
    old = catalogue_frame().drop(columns="nothing")
    new = like_catalogue(as_frame(old.assign(item_id=[f"n-{row}" for row in range(len(old))])), old)
    joined = put_below(old, new)
    pd.testing.assert_series_equal(joined.dtypes.drop("shade"), old.dtypes.drop("shade"))


def test_moments_below_a_column_that_holds_nothing_are_moments():
    old = pd.DataFrame({"item_id": ["a"], "title": ["cup"], "nothing": [np.nan]})
    new = like_catalogue(as_frame([{**NEW, "nothing": MOMENT, "since": pd.Timestamp(MOMENT, tz="UTC")}]), old)
    joined = put_below(old, new)
    assert joined.dtypes[["nothing", "since"]].astype(str).tolist() == ["datetime64[us]", "datetime64[us, UTC]"]
    assert joined["nothing"].tolist() == [pd.NaT, pd.Timestamp(MOMENT)]


# Numbers

BIG = 2**53 + 1
"""As a fraction it would be BIG - 1."""


def numbers_below(old, new) -> pd.Series:
    """The column that a catalogue with these numbers (or without any, None) has after new ones; ... gives none."""
    known = pd.DataFrame({"item_id": ["a", "b"], "title": ["cup", "lamp"]})
    known = known if old is None else known.assign(number=old)
    rows = [{"item_id": f"n-{row}", "title": "robot", "number": value} for row, value in enumerate(new)]
    rows = [{name: value for name, value in row.items() if value is not ...} for row in rows]
    return pd.Series(put_below(known, like_catalogue(as_frame(rows), known))["number"])


@pytest.mark.parametrize(
    ("old", "new", "kind", "expected"),
    [
        ([BIG, 1], [...], "Int64", [BIG, 1, None]),
        ([BIG, 1], [None, BIG + 1], "Int64", [BIG, 1, None, BIG + 1]),
        ([BIG, 1], [2.0], "int64", [BIG, 1, 2]),
        (pd.array([BIG, None], dtype="Int64"), [BIG + 1], "Int64", [BIG, None, BIG + 1]),
        (np.array([1, 2], dtype=np.int8), [BIG], "int64", [1, 2, BIG]),
        ([1, 2], [2**64 - 1], "uint64", [1, 2, 2**64 - 1]),
        (pd.array([2**64 - 1, None], dtype="UInt64"), [1], "UInt64", [2**64 - 1, None, 1]),
        (pd.Categorical([BIG, 1]), [BIG + 1], "int64", [BIG, 1, BIG + 1]),
        (pd.array([BIG, 1], dtype="int64[pyarrow]"), [...], "Int64", [BIG, 1, None]),
        ([np.nan, np.nan], [BIG, None], "Int64", [None, None, BIG, None]),
        (pd.array([None, None], dtype="str"), [BIG], "Int64", [None, None, BIG]),
        (None, [BIG, None], "Int64", [None, None, BIG, None]),
        (None, [2.0, BIG], "Int64", [None, None, 2, BIG]),
        (None, [2**64 - 1, 1], "UInt64", [None, None, 2**64 - 1, 1]),
        (None, [2.5, 1], "float64", [None, None, 2.5, 1]),
        ([2**53, 1], [0.5], "float64", [2**53, 1, 0.5]),
        (pd.array([3, None], dtype="Int64"), [0.5], "float64", [3, None, 0.5]),
        (pd.array([1, "x"], dtype=object), [2], "object", [1, "x", 2]),
    ],
)
def test_whole_numbers_stay_whole_above_and_below_any_others(old, new, kind, expected):
    joined = numbers_below(old, new)
    assert joined.dtype == kind
    assert [None if pd.isna(value) else value for value in joined] == expected


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ([BIG, 1], [0.5], "row 0, item 'n-0': expected a whole number of 64 bits as number, got 0.5"),
        ([BIG, 1], [1e17], "row 0, item 'n-0': expected a whole number of 64 bits as number, got 1e+17"),
        ([1, 2], [BIG, 0.5], "row 1, item 'n-1': expected a whole number of 64 bits as number, got 0.5"),
        (None, [BIG, 0.5], "row 1, item 'n-1': expected a whole number of 64 bits as number, got 0.5"),
        (None, [0.5, BIG], "row 0, item 'n-0': expected a whole number of 64 bits as number, got 0.5"),
        ([-1, 2], [2**64 - 1], "expected a finite number that fits int64 as number, got 18446744073709551615"),
        ([2**64 - 1, 2], [-1], "expected a finite number that fits uint64 as number, got -1"),
        (np.array([1, 2], dtype=np.int8), [2**64], "expected a finite number that fits int64 as number"),
    ],
)
def test_what_would_round_whole_numbers_is_refused(old, new, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        numbers_below(old, new)
