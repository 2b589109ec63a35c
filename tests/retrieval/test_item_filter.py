"""What a filter means for an item table, where a missing text is kept as an empty one."""

from __future__ import annotations

import pandas as pd
import pytest

from retrieval.data import IdMap, Items, read_items
from retrieval.item_filter import item_mask

ITEMS = pd.DataFrame(
    {
        "item_id": ["1", "2", "3"],
        "title": ["a", "b", "c"],
        "category": ["x", "", "y"],
        "description": ["", "", ""],
        "price": [1.0, None, 3.0],
        "nothing": [None, None, None],
    }
)


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ("category is missing", [False, True, False]),
        ({"category": {"is missing": True}}, [False, True, False]),
        ("not (category is missing or price < 2)", [False, False, True]),
        ("category is not missing", [True, False, True]),
        ("category = ''", [False, True, False]),
        ("category = '' or price < 0", [False, True, False]),
        ("category in ('', 'y')", [False, True, True]),
        ("category != ''", [True, False, True]),
        ("category != 'x'", [False, False, True]),
        ("category < 'y'", [True, False, False]),
        ("category <= 'x'", [True, False, False]),
        ("category has ''", [True, False, True]),
        ("not category = 'x'", [False, True, True]),
        ("category not in ('x', 'z')", [False, True, True]),
        ("title != 'b' and not (category != 'x')", [True, False, False]),
        ({"category": {"!=": "x"}}, [False, False, True]),
        ("brand != 'acme'", [False, False, False]),
        ("brand is missing", [True, True, True]),
        ("brand = 'acme'", [False, False, False]),
        ("price is missing", [False, True, False]),
    ],
)
def test_a_missing_text_is_found_as_missing_although_it_is_kept_as_an_empty_one(filters, found):
    assert item_mask(ITEMS, filters).tolist() == found


COMPOSED, DECOMPOSED = "Caf\u00e9", "Cafe\u0301"


@pytest.mark.parametrize("kept", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("asked", [COMPOSED, DECOMPOSED])
def test_texts_that_look_the_same_are_the_same(kept, asked):
    rows = {"item_id": [kept, "2"], "title": [f"{kept} au lait", "Tea"], "brand": [kept, "x"], "hue": [kept, "x"]}
    frame = pd.DataFrame(rows)
    for items in (read_items(frame), Items(IdMap.of(frame["item_id"]), frame)):
        texts_are_found(items, asked)
    by_hand = frame.assign(hue=frame["hue"].astype("category"), tags=[["new", kept], None])
    items = Items(IdMap.of(frame["item_id"]), by_hand)
    texts_are_found(items, asked)
    assert item_mask(items.frame, f"tags has '{asked}'").tolist() == [True, False]
    assert by_hand["tags"].tolist() == [["new", kept], None]


def texts_are_found(items: Items, asked: str) -> None:
    for name in ("item_id", "brand", "hue"):
        assert item_mask(items.frame, f"{name} = '{asked}'").tolist() == [True, False]
        assert item_mask(items.frame, {name: {"in": ["z", asked]}}).tolist() == [True, False]
    assert item_mask(items.frame, f"not title has '{asked}'").tolist() == [False, True]


def test_an_unknown_column_is_answered_with_those_that_hold_something():
    with pytest.raises(ValueError, match=r"column of the item table \(item_id, title, category, price\), got 'genre'"):
        item_mask(ITEMS, "price < 2 and genre = 'Crime'")


def test_a_recommender_finds_the_items_without_a_brand(recommender):
    found = recommender.recommend("toy-fan-00", k=60, filters="brand is missing")
    assert sorted(found.item_ids) == ["film-new", "kitchen-new", "outdoor-new", "toy-new"]
