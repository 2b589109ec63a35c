"""Columns, times and events: maps, units, weights, labels and the report."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval.data import read_interactions, read_items, read_users
from tests.retrieval.data.writing import interactions_csv, save

# Columns


def test_column_map_renames(tmp_path):
    table = interactions_csv(
        tmp_path, "customer,sku,day\nc,s,5\n", column_map={"user_id": "customer", "item_id": "sku", "timestamp": "day"}
    )
    assert table.to_frame().iloc[0].tolist() == ["c", "s", 5.0, 1.0]


@pytest.mark.parametrize(
    ("column_map", "message"),
    [
        ({"user": "customer"}, "expected one of user_id, .*, got user=customer"),
        ({"user_id": ""}, "expected a column for user_id"),
        ({"user_id": "item_id"}, "got 'item_id' as user_id and item_id; map both"),
    ],
)
def test_column_map_that_makes_no_sense_is_refused(tmp_path, column_map, message):
    with pytest.raises(ValueError, match=message):
        interactions_csv(tmp_path, "user_id,item_id,timestamp\nu,a,1\n", column_map=column_map)


def test_our_name_mapped_elsewhere_does_not_come_back_as_an_attribute(tmp_path):
    frame = pd.DataFrame({"item_id": ["a"], "title": ["Tea"], "name": ["Green tea"]})
    items = read_items(save(frame, tmp_path / "items.parquet"), column_map={"title": "name"})
    assert items.frame["title"].tolist() == ["Green tea"]
    assert items.report.attributes == ()


def test_columns_that_are_not_read_are_named(tmp_path):
    table = interactions_csv(tmp_path, "user_id,item_id,timestamp,price,country\nu,a,1,2,DE\n")
    assert table.report.unknown_columns == ("country", "price")
    assert "columns that are not read: country, price" in table.report.summary()


def test_attributes_of_csv_become_numbers_only_where_nothing_is_lost(tmp_path):
    (tmp_path / "items.csv").write_text(
        "item_id,title,year,price,imdb,size\na,Tea,1999,1.50,0114709,\nb,Mug,,2,113497,XL\n"
    )
    frame = read_items(tmp_path / "items.csv").frame
    assert frame["year"].tolist()[0] == 1999
    assert frame["price"].tolist() == [1.5, 2.0]
    assert frame["imdb"].tolist() == ["0114709", "113497"]
    assert frame["size"].isna().tolist() == [True, False]


def test_lists_of_texts_are_joined(tmp_path):
    table = {"item_id": ["a", "b"], "title": ["Tea", "Mug"], "category": [["Food", "Tea"], None]}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    assert read_items(tmp_path / "items.parquet").frame["category"].tolist() == ["Food|Tea", ""]


def test_categorical_columns_are_text(tmp_path):
    frame = pd.DataFrame({"item_id": ["a", "b"], "title": ["Tea", "Mug"], "brand": ["X", "X"]}).astype("category")
    assert read_items(save(frame, tmp_path / "items.parquet")).frame["brand"].tolist() == ["X", "X"]


def test_attribute_of_a_type_that_is_not_kept_is_named(tmp_path):
    table = {"item_id": ["a"], "title": ["Tea"], "box": [{"w": 1}]}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    assert "not kept: box" in read_items(tmp_path / "items.parquet").report.warnings[0]


def test_users_have_segment_profile_and_attributes(tmp_path):
    (tmp_path / "users.csv").write_text("user_id,segment,profile,age\n007,vip,likes tea,30\nu2,,,41\n")
    users = read_users(tmp_path / "users.csv")
    assert users.ids.ids.tolist() == ["007", "u2"]
    assert users.frame["segment"].tolist() == ["vip", ""]
    assert users.frame["age"].tolist() == [30, 41]


# Times


def times_of(tmp_path, *cells, **options):
    rows = "".join(f"u,i{n},{cell}\n" for n, cell in enumerate(cells))
    return interactions_csv(tmp_path, "user_id,item_id,timestamp\n" + rows, **options)


def test_positions_seconds_and_dates_are_told_apart(tmp_path):
    assert times_of(tmp_path, 0, 1, 2).time_kind == "positions"
    assert times_of(tmp_path, 874965478, 874965479).time_kind == "seconds"
    assert times_of(tmp_path, "2020-01-01").time_kind == "seconds"


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [
        ("1970-01-02", 86_400),
        ("2020-01-01T00:00:00Z", 1_577_836_800),
        ("2020-01-01 01:00:00+01:00", 1_577_836_800),
        ("2020-01-01T00:00:00.250", 1_577_836_800.25),
        ("1577836800", 1_577_836_800),
        ("1.5778368e9", 1_577_836_800),
        (" 1577836800.5 ", 1_577_836_800.5),
    ],
)
def test_seconds_and_iso_dates_become_unix_seconds(tmp_path, cell, seconds):
    assert times_of(tmp_path, cell).times.tolist() == [seconds]


@pytest.mark.parametrize("kind", [pa.timestamp("ms"), pa.timestamp("ns", tz="Europe/Berlin"), pa.date32()])
def test_typed_dates_of_parquet_become_unix_seconds(tmp_path, kind):
    days = pa.array([pd.Timestamp("2020-01-01"), None]).cast(pa.timestamp("ns")).cast(kind)
    pq.write_table(pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": days}), tmp_path / "x.parquet")
    table = read_interactions(tmp_path / "x.parquet", items=None)
    assert table.times.tolist() == [1_577_836_800]
    assert dict(table.report.rejected) == {"timestamp is missing": 1}


def test_milliseconds_are_refused_with_a_hint_and_read_when_asked(tmp_path):
    with pytest.raises(ValueError, match=r"which is year 51969; .*time_unit='milliseconds'"):
        times_of(tmp_path, 1577836800000)
    assert times_of(tmp_path, 1577836800500, time_unit="milliseconds").times.tolist() == [1577836800.5]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("-5", "timestamp is negative"),
        ("1577836800000", "timestamp is in milliseconds or out of range"),
        ("4000000000", "timestamp lies in the future"),
        ("yesterday", "timestamp is neither a number nor an ISO date"),
        ("nan", "timestamp is neither a number nor an ISO date"),
        ("", "timestamp is missing"),
    ],
)
def test_bad_timestamp_is_refused(tmp_path, cell, reason):
    table = times_of(tmp_path, 1577836800, 1577836801, cell)
    assert dict(table.report.rejected) == {reason: 1}


def test_mixed_json_timestamps_are_read_one_by_one(tmp_path):
    stamps = [1577836800, "1577836801", "2020-01-01T00:00:02", None, {"t": 1}, "\ud800"]
    lines = [json.dumps({"user_id": "u", "item_id": "a", "timestamp": stamp}) for stamp in stamps]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    table = read_interactions(tmp_path / "x.jsonl", items=None)
    assert table.times.tolist() == [1577836800, 1577836801, 1577836802]
    assert table.report.n_rejected == 3


def test_unknown_time_unit_is_named(tmp_path):
    with pytest.raises(ValueError, match="got 'minutes'"):
        times_of(tmp_path, 1, time_unit="minutes")


# Events, labels, repeats


def test_event_weights_multiply_row_weights(tmp_path):
    content = "user_id,item_id,timestamp,event,weight\nu,a,1,view,2\nu,b,2, Purchase ,3\n"
    table = interactions_csv(tmp_path, content, events={"view": 0.5, "purchase": 4})
    assert table.weights.tolist() == [0.5 * 2, 4 * 3]
    assert [table.event_names[code] for code in table.event_codes] == ["view", "purchase"]


def test_one_event_that_is_no_text_leaves_the_names_of_the_others(tmp_path):
    rows = ["café", "it's", 3, "half \ud800", None]
    lines = [json.dumps({"user_id": "u", "item_id": "a", "timestamp": n, "event": e}) for n, e in enumerate(rows)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    table = read_interactions(tmp_path / "x.jsonl", items=None, events={"café": 2, "it's": 4, "3": 8})
    assert table.weights.tolist() == [2, 4, 8]
    assert table.event_names == ("café", "it's", "3")
    refused = {"event 'half \\\\ud800' is not in the event map": 1, "event is missing": 1}
    assert dict(table.report.rejected) == refused


def test_event_without_a_weight_is_refused_when_a_map_is_given(tmp_path):
    content = "user_id,item_id,timestamp,event\nu,a,1,view\nu,b,2,refund\nu,c,3,\n"
    table = interactions_csv(tmp_path, content, events={"view": 1})
    assert dict(table.report.rejected) == {"event 'refund' is not in the event map": 1, "event is missing": 1}


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
def test_event_weight_must_be_a_number_from_0(tmp_path, weight):
    with pytest.raises(ValueError, match="expected event weights of 0 or more, got view="):
        interactions_csv(tmp_path, "user_id,item_id,timestamp\nu,a,1\n", events={"view": weight})


@pytest.mark.parametrize("events", [None, {"click": 1, "impression": 0}])
def test_impressions_are_negatives_and_never_history(tmp_path, events):
    content = "user_id,item_id,timestamp,event\nu,a,1,impression\nu,b,2,click\nv,a,1,impression\n"
    table = interactions_csv(tmp_path, content, events=events)
    shown = table.negatives
    assert table.history(0).tolist() == [table.items.row_of["b"]]
    assert [table.users.ids[row] for row in shown.user_rows] == ["u", "v"]
    assert [table.items.ids[row] for row in shown.item_rows] == ["a", "a"]


def test_label_0_is_a_negative_whatever_the_event(tmp_path):
    content = "user_id,item_id,timestamp,event,label\nu,a,1,click,0\nu,b,2,impression,1\n"
    table = interactions_csv(tmp_path, content)
    assert [table.items.ids[row] for row in table.item_rows] == ["b"]
    assert table.weights.tolist() == [1.0]
    assert len(table.negatives) == 1


def test_only_impressions_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="only 1 impressions"):
        interactions_csv(tmp_path, "user_id,item_id,timestamp,event\nu,a,1,impression\n")


def test_exact_repeats_are_counted_and_out_of_order_rows_sorted(tmp_path):
    table = interactions_csv(tmp_path, "user_id,item_id,timestamp\nu,b,9\nu,a,1\nu,b,9\nu,a,5\n")
    assert table.times.tolist() == [1, 5, 9]
    assert table.report.n_duplicates == 1


def test_report_accounts_for_every_row(tmp_path):
    content = "user_id,item_id,timestamp,event\nu,a,1,click\nu,a,1,click\nu,b,2,impression\n,b,2,click\nu,b\n"
    report = interactions_csv(tmp_path, content).report
    assert report.n_read == 5 == report.n_kept + report.n_rejected + report.n_duplicates
    assert report.n_kept == 2
