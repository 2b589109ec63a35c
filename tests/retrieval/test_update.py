"""New items are refused whole, with the row and the item named, before anything is made of them."""

from __future__ import annotations

import datetime
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from retrieval.config import Config
from retrieval.evaluate import evaluate
from retrieval.fit import fit
from retrieval.recommend import Recommender
from retrieval.storage import save_bundle
from retrieval.text import TextConfig, item_texts
from retrieval.two_stage import trained_vectors_of
from retrieval.update import add_items, replace_catalogue
from tests.world import item_frame, make_items

GOOD = {"item_id": ["extra-1", "extra-2"], "title": ["big red robot", "small cup"], "size": [3, 4]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": ["big red robot", None]}, "row 1, item 'extra-2': expected a title, got none; give it one"),
        ({"title": ["", "cup"]}, "row 0, item 'extra-1': expected a title, got ''"),
        ({"title": ["cup", " \t"]}, "row 1, item 'extra-2': expected a title"),
        ({"title": ["cup", float("nan")]}, "row 1, item 'extra-2': expected a title, got none"),
        ({"title": ["cup", 7]}, r"row 1, item 'extra-2': expected text as title, got 7 \(int\); mend it"),
        ({"description": [["a"], "b"]}, r"row 0, item 'extra-1': expected text as description, got \['a'\] \(list\)"),
        ({"size": [3, "large"]}, r"row 1, item 'extra-2': expected a finite number as size, got 'large' \(str\)"),
        ({"size": [3, np.inf]}, "expected a finite number as size, got inf"),
        ({"size": [3, 2**70]}, "expected a finite number that fits int64 as size, got 1180591620717411303424"),
        ({"size": [3, True]}, "expected a finite number as size, got True"),
        ({"colour": ["red", datetime.date(2026, 1, 1)]}, "row 1, item 'extra-2': expected text as colour"),
        ({"note": ["a", 1]}, r"row 1, item 'extra-2': expected text as note, got 1 \(int\)"),
        ({"note": [2, "b"]}, r"row 1, item 'extra-2': expected a finite number as note, got 'b' \(str\)"),
        ({"item_id": ["extra-1", None]}, "id"),
    ],
)
def test_a_bad_item_is_refused_by_row_and_id(recommender, change, message):
    before = len(recommender.item_ids)
    with pytest.raises(ValueError, match=message):
        add_items(recommender, pd.DataFrame({**GOOD, **change}))
    assert len(recommender.item_ids) == before


@pytest.mark.parametrize("door", ["fit", "evaluate", "Recommender.of", "replace_catalogue"])
def test_interactions_over_another_item_table_are_refused_at_every_door(recommender, interactions, encoder, door):
    """The same items in another order: every row would be taken for another item."""
    turned, config = make_items(item_frame().iloc[::-1].reset_index(drop=True)), Config()
    model = replace(recommender.model, catalogue=replace(recommender.model.catalogue, items=turned))
    doors = {
        "fit": lambda: fit(turned, interactions, config, encoder=encoder),
        "evaluate": lambda: evaluate(turned, interactions, config, dataset="world", encoder=encoder),
        "Recommender.of": lambda: Recommender.of(model, interactions, config, recommender.settings),
        "replace_catalogue": lambda: replace_catalogue(recommender, turned, interactions),
    }
    with pytest.raises(ValueError, match=r"item table, where row 0 is 'outdoor-new', got those of .* it is 'toy-00'"):
        doors[door]()


def test_a_new_item_table_may_lack_texts(recommender):
    """Categories and brands are part of what models are told, whether or not there are any."""
    bare = item_frame().drop(columns=["description", "category", "brand", "colour"])
    found = replace_catalogue(recommender, make_items(bare))
    empty = replace_catalogue(recommender, make_items(bare.assign(description=None, category="", brand=np.nan)))
    assert list(found.model.catalogue.items.frame)[1:] == ["title", "description", "category", "brand", "size"]
    assert found.recommend("toy-fan-00", k=5).item_ids == empty.recommend("toy-fan-00", k=5).item_ids
    assert len(found.recommend("toy-fan-00", k=60, filters="category is missing and brand is missing")) > 5
    assert list(bare) == ["item_id", "title", "size"]


def test_an_item_table_without_titles_is_refused():
    with pytest.raises(ValueError, match="items: expected the columns item_id and title, got item_id, name; add title"):
        make_items(pd.DataFrame({"item_id": ["a"], "name": ["cup"]}))


def test_the_columns_that_must_be_there_are_named(recommender):
    with pytest.raises(ValueError, match="expected the columns item_id and title, got item_id, name; add title"):
        add_items(recommender, pd.DataFrame({"item_id": ["extra"], "name": ["cup"]}))


def test_attributes_may_be_missing_or_new(recommender):
    frame = pd.DataFrame({**GOOD, "size": [3.5, None], "weight": [1, 2]})
    larger = add_items(recommender, frame)
    assert len(larger.item_ids) == len(recommender.item_ids) + 2
    assert larger.search("big red robot", k=1, filters="size > 3 and weight = 1")[0].item_id == "extra-1"


BIG = 123456789012345678
"""As a fraction it would be another number."""


@pytest.mark.parametrize("door", ["table", "mappings"])
def test_whole_numbers_of_new_and_of_known_items_stay_exact(recommender, door, tmp_path):
    """Also in a bundle, and in the texts: a whole number is written as one, a missing one not at all."""
    first = [{"item_id": "extra-1", "title": "robot", "sku": BIG}, {"item_id": "extra-2", "title": "cup"}]
    rows = pd.DataFrame(first).assign(sku=pd.array([BIG, None], dtype="Int64")) if door == "table" else first
    larger = add_items(add_items(recommender, rows), [{"item_id": "extra-3", "title": "lamp", "sku": BIG + 1}])
    save_bundle(tmp_path / "bundle", larger)
    for found in (larger, Recommender.load(tmp_path / "bundle")):
        frame = found.model.catalogue.items.frame
        assert {name: str(frame[name].dtype) for name in ("sku", "size")} == {"sku": "Int64", "size": "Int64"}
        assert found.search("robot", k=9, filters=f"sku = {BIG}").item_ids == ["extra-1"]
        assert found.search("robot", k=9, filters=f"sku >= {BIG}").item_ids == ["extra-1", "extra-3"]
        texts = item_texts(frame.to_dict("records"), TextConfig(item_template="{title} {sku} {size}"))
        assert texts[-3:] == [f"robot {BIG}", "cup", f"lamp {BIG + 1}"]
        assert texts[0].endswith(" 0")
        with pytest.raises(ValueError, match=r"column of the item table \(.*, size, sku\), got 'genre'"):
            found.search("robot", k=1, filters="genre = 'Crime'")


def test_a_fraction_beside_numbers_that_it_would_round_is_refused(recommender):
    larger = add_items(recommender, [{"item_id": "extra-1", "title": "robot", "sku": BIG}])
    with pytest.raises(ValueError, match=r"item 'extra-2': expected a whole number of 64 bits as sku, got 1\.5"):
        add_items(larger, [{"item_id": "extra-2", "title": "cup", "sku": 1.5}])
    with pytest.raises(ValueError, match="expected a finite number that fits int64 as sku"):
        add_items(larger, [{"item_id": "extra-2", "title": "cup", "sku": 2**70}])
    assert add_items(larger, [{"item_id": "extra-2", "title": "cup", "sku": 2.0}]).search("cup", filters="sku = 2")


def test_a_date_beside_dates_with_times_is_a_date_for_filters(recommender):
    stamps = pd.DataFrame({**GOOD, "since": pd.to_datetime(["2024-01-01T10:00", None])})
    larger = add_items(recommender, stamps)
    day = {"item_id": "extra-3", "title": "lamp", "since": datetime.date(2024, 1, 2)}
    found = add_items(larger, [day]).search("lamp", k=9, filters="since > '2024-01-01T11:00'")
    assert found.item_ids == ["extra-3"]


def test_items_may_come_one_mapping_each(recommender):
    frame = pd.DataFrame(GOOD)
    from_table, from_records = add_items(recommender, frame), add_items(recommender, frame.to_dict("records"))
    pd.testing.assert_frame_equal(from_table.model.catalogue.items.frame, from_records.model.catalogue.items.frame)
    with pytest.raises(ValueError, match="expected the columns item_id and title, got none"):
        add_items(recommender, [])


def test_gpt_2_reads_the_same_of_known_items_and_the_recall_heads_vectors_of_new_ones(recommender):
    old, larger = recommender.model, add_items(recommender, pd.DataFrame(GOOD)).model
    assert old.learned_vectors is not None
    assert larger.learned_vectors is not None
    n, known = old.catalogue.n_items, old.learned_vectors.any(axis=1)
    np.testing.assert_array_equal(larger.trained_vectors[:n][known], old.learned_vectors[known])
    np.testing.assert_array_equal(larger.trained_vectors[n:], trained_vectors_of(larger.sources)[n:])
    assert not larger.learned_vectors[n:].any()


@pytest.mark.parametrize("fit_of", ["by_time", "unpublished"])
def test_a_bundle_keeps_what_was_moved_as_it_was(fit_of, request, tmp_path):
    before: Recommender = request.getfixturevalue(fit_of)
    frame = before.model.catalogue.items.frame
    for name, table in (("same", frame), ("turned", frame.iloc[::-1].reset_index(drop=True))):
        moved = replace_catalogue(before, make_items(table))
        save_bundle(tmp_path / name, moved)
        loaded = Recommender.load(tmp_path / name, device="cpu")
        for source, again in zip(moved.model.sources, loaded.model.sources, strict=True):
            for part, own in vars(source).items():
                if isinstance(own, np.ndarray):
                    np.testing.assert_array_equal(getattr(again, part), own, err_msg=f"{name}, {source.name}.{part}")
        for user in before.users.ids:
            assert loaded.recommend(user).item_ids == moved.recommend(user).item_ids
            if name == "same":
                assert loaded.recommend(user).item_ids == before.recommend(user).item_ids
