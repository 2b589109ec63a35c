"""New items take the types of the catalogue's columns; what does not fit is refused with its row and id."""

from __future__ import annotations

import datetime
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from retrieval.added_items import as_frame, like_catalogue
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
        ("unheard", 2**70, "text, a number of 64 bits, true or false, a date or a list of these"),
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


def test_items_of_every_kind_are_saved_and_served_again(shop, tmp_path):
    row = catalogue_frame().iloc[[3]].assign(item_id="extra", moment=DAY, tags=[["new"]])
    save_bundle(tmp_path / "bundle", add_items(shop, row))
    again = Recommender.load(tmp_path / "bundle", device="cpu", precision="float32")
    assert again.search("robot", k=5, filters="moment = '2026-01-01' and tags has 'new'").item_ids == ["extra"]


def test_columns_keep_the_types_of_the_catalogue():
    old = catalogue_frame().drop(columns="nothing")
    new = like_catalogue(as_frame(old.assign(item_id=[f"n-{row}" for row in range(len(old))])), old)
    joined = pd.concat([old, new], ignore_index=True)
    pd.testing.assert_series_equal(joined.dtypes.drop("shade"), old.dtypes.drop("shade"))
