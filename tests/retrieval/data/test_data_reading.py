"""Reading: every format, files and folders, column maps, times, events, attributes and the report."""

import gzip
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval.data import csv_chunks, read_interactions, read_items, read_users

ROWS = [("u1", "a", 10, 1.5), ("u2", "b", 5, 1.0), ("u1", "b", 7, 2.0)]
FORMATS = ["parquet", "csv", "tsv", "jsonl", "csv.gz", "jsonl.gz"]


def save(frame, path):
    """Writes a frame in the format of the path's name."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path)
    elif name.endswith((".csv", ".tsv")):
        text = frame.to_csv(index=False, sep="\t" if name.endswith(".tsv") else ",")
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    else:
        lines = [json.dumps(row) for row in frame.to_dict(orient="records")]
        content = ("\n".join(lines) + "\n").encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def interactions_frame(rows=ROWS):
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "weight"])


def read_text(tmp_path, content, **options):
    file = tmp_path / "interactions.csv"
    file.write_text(content)
    return read_interactions(file, items=None, **options)


# Formats


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_interactions(tmp_path, suffix):
    table = read_interactions(save(interactions_frame(), tmp_path / f"x.{suffix}"), items=None)
    assert table.to_frame().to_dict(orient="list") == {
        "user_id": ["u1", "u1", "u2"],
        "item_id": ["b", "a", "b"],
        "timestamp": [7.0, 10.0, 5.0],
        "weight": [2.0, 1.5, 1.0],
    }


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_items(tmp_path, suffix):
    frame = pd.DataFrame(
        {"item_id": ["007", "b"], "title": ["Tea, green", 'Mug "big"'], "year": [1999, 2001], "price": [1.5, 2.0]}
    )
    items = read_items(save(frame, tmp_path / f"items.{suffix}"))
    assert items.frame.to_dict(orient="list") == {
        "item_id": ["007", "b"],
        "title": ["Tea, green", 'Mug "big"'],
        "description": ["", ""],
        "category": ["", ""],
        "brand": ["", ""],
        "price": [1.5, 2.0],
        "year": [1999, 2001],
    }
    assert items.report.attributes == ("price", "year")


cell_text = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20)
plain_id = st.text(st.sampled_from("abcxyz0159.é日 "), min_size=1, max_size=6).filter(lambda text: text.strip() == text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(rows=st.lists(st.tuples(plain_id, cell_text, cell_text), min_size=1, max_size=8, unique_by=lambda row: row[0]))
def test_items_are_the_same_from_csv_json_lines_and_parquet(tmp_path, rows):
    frame = pd.DataFrame(rows, columns=["item_id", "title", "brand"]).astype(object)
    tables = [
        read_items(save(frame, tmp_path / name), allow_empty=True).frame for name in ("i.csv", "i.jsonl", "i.parquet")
    ]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    pd.testing.assert_frame_equal(tables[0], tables[2])
    assert tables[0]["title"].tolist() == [title for _, title, _ in rows]


event_row = st.tuples(plain_id, plain_id, st.integers(0, 2_000_000), st.sampled_from(["click", "buy"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(rows=st.lists(event_row, min_size=1, max_size=15))
def test_interactions_are_the_same_from_csv_json_lines_and_parquet(tmp_path, rows):
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "event"])
    seen = []
    for name in ("x.csv", "x.jsonl", "x.parquet"):
        table = read_interactions(save(frame, tmp_path / name), items=None)
        arrays = (table.user_rows, table.item_rows, table.times, table.event_codes)
        seen.append((table.users.ids.tolist(), table.items.ids.tolist(), [array.tolist() for array in arrays]))
    assert seen[0] == seen[1] == seen[2]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    lines=st.lists(
        st.sampled_from(["a,1,2", "é,1,2", "", "a,1", "a,1,2,3", ' a ,"x,y",3', "a,,2", "b,1,x"]), max_size=6
    )
)
@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_both_csv_parsers_read_the_same(tmp_path, monkeypatch, lines, line_break):
    file = tmp_path / "x.csv"
    file.write_bytes(line_break.join(["user_id,item_id,timestamp", *lines]).encode())

    def outcome():
        try:
            chunks = list(csv_chunks.read_csv_chunks(file, required=(), wanted=None, encoding="utf-8", delimiter=","))
        except ValueError as error:
            return str(error)
        rows = [row for chunk in chunks for row in chunk.rows.tolist()]
        cells = {n: [str(v) for chunk in chunks for v in chunk.columns[n]] for n in ("user_id", "timestamp")}
        return rows, cells, [fault for chunk in chunks for fault in chunk.unreadable]

    fast = outcome()
    with monkeypatch.context() as patch:
        patch.setattr(csv_chunks, "_parse_plain", lambda *_: None)
        assert outcome() == fast


def test_csv_blocks_and_slices_join_without_losing_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_chunks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(csv_chunks, "_SLICE_ROWS", 3)
    plain = "".join(f"u{n % 7},i{n},{n}\n" for n in range(200))
    quoted = "".join(f'u{n % 7},"i{n}",{n}\n' for n in range(200, 220))
    table = read_text(tmp_path, f"user_id,item_id,timestamp\n{plain}{quoted}")
    assert sorted(table.times.tolist()) == list(range(220))


def test_json_lines_without_a_key_in_some_rows_have_missing_values(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text(
        '{"user_id": "u", "item_id": "a", "timestamp": 1, "rating": 3}\n\n{"user_id": "v", "item_id": "a"}\n'
    )
    table = read_interactions(file, items=None, rejects=tmp_path / "r.jsonl")
    assert table.ratings.tolist() == [3.0]
    assert json.loads((tmp_path / "r.jsonl").read_text())["row"] == 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is not JSON"),
        ("[1]", "is a JSON list"),
        ("12", "is a JSON int"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"item_id": ' + "9" * 5000 + "}", "a number is too long"),
        ('{"item_id": "a"},{"item_id": "b"}', "is not JSON"),
    ],
)
def test_line_that_is_no_json_object_is_refused(tmp_path, line, reason):
    file = tmp_path / "x.jsonl"
    good = '{"user_id": "u", "item_id": "a", "timestamp": 1}\n'
    file.write_text(good + line + "\n" + good.replace("1", "2"))
    table = read_interactions(file, items=None)
    assert len(table) == 2
    assert reason in next(iter(table.report.rejected))


def test_json_array_is_named_as_such(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('[{"user_id": "u", "item_id": "a", "timestamp": 1}]')
    with pytest.raises(ValueError, match=r"x\.json:1: .* got a JSON array"):
        read_interactions(file, items=None)


# Files and folders


def test_folder_is_read_in_the_order_of_names_and_in_mixed_formats(tmp_path):
    save(interactions_frame([("second", "a", 1, 1)]), tmp_path / "b.csv")
    save(interactions_frame([("first", "a", 1, 1)]), tmp_path / "a.parquet")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".part.csv.crc").touch()
    (tmp_path / "README.md").touch()
    table = read_interactions(tmp_path, items=None)
    assert table.users.ids.tolist() == ["first", "second"]
    assert table.report.warnings == ("1 files are no tables and were passed over: README.md",)


def test_part_of_a_folder_may_have_no_rows(tmp_path):
    save(interactions_frame([]), tmp_path / "a.csv")
    save(interactions_frame(), tmp_path / "b.csv")
    assert len(read_interactions(tmp_path, items=None)) == 3


def test_parts_may_differ_in_attributes_and_their_types(tmp_path):
    save(pd.DataFrame({"item_id": ["a"], "title": ["Tea"], "size": [1]}), tmp_path / "a.parquet")
    save(pd.DataFrame({"item_id": ["b"], "title": ["Mug"], "size": ["XL"], "hue": ["red"]}), tmp_path / "b.parquet")
    frame = read_items(tmp_path).frame
    assert frame["size"].tolist() == ["1", "XL"]
    assert frame["hue"].isna().tolist() == [True, False]


@pytest.mark.parametrize(("name", "message"), [("none.csv", "found nothing there"), ("folder", "found none")])
def test_nothing_to_read_is_file_not_found(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        read_items(tmp_path / name)


def test_unknown_format_is_named(tmp_path):
    (tmp_path / "items.xlsx").touch()
    with pytest.raises(ValueError, match=r"expected \.parquet, .*, got '\.xlsx'"):
        read_items(tmp_path / "items.xlsx")


# Columns


def test_column_map_renames(tmp_path):
    table = read_text(
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
        read_text(tmp_path, "user_id,item_id,timestamp\nu,a,1\n", column_map=column_map)


def test_our_name_mapped_elsewhere_does_not_come_back_as_an_attribute(tmp_path):
    frame = pd.DataFrame({"item_id": ["a"], "title": ["Tea"], "name": ["Green tea"]})
    items = read_items(save(frame, tmp_path / "items.parquet"), column_map={"title": "name"})
    assert items.frame["title"].tolist() == ["Green tea"]
    assert items.report.attributes == ()


def test_columns_that_are_not_read_are_named(tmp_path):
    table = read_text(tmp_path, "user_id,item_id,timestamp,price,country\nu,a,1,2,DE\n")
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
    return read_text(tmp_path, "user_id,item_id,timestamp\n" + rows, **options)


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
    table = read_text(tmp_path, content, events={"view": 0.5, "purchase": 4})
    assert table.weights.tolist() == [0.5 * 2, 4 * 3]
    assert [table.event_names[code] for code in table.event_codes] == ["view", "purchase"]


def test_event_without_a_weight_is_refused_when_a_map_is_given(tmp_path):
    content = "user_id,item_id,timestamp,event\nu,a,1,view\nu,b,2,refund\nu,c,3,\n"
    table = read_text(tmp_path, content, events={"view": 1})
    assert dict(table.report.rejected) == {"event 'refund' is not in the event map": 1, "event is missing": 1}


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
def test_event_weight_must_be_a_number_from_0(tmp_path, weight):
    with pytest.raises(ValueError, match="expected event weights of 0 or more, got view="):
        read_text(tmp_path, "user_id,item_id,timestamp\nu,a,1\n", events={"view": weight})


@pytest.mark.parametrize("events", [None, {"click": 1, "impression": 0}])
def test_impressions_are_negatives_and_never_history(tmp_path, events):
    content = "user_id,item_id,timestamp,event\nu,a,1,impression\nu,b,2,click\nv,a,1,impression\n"
    table = read_text(tmp_path, content, events=events)
    shown = table.negatives
    assert table.history(0).tolist() == [table.items.row_of["b"]]
    assert [table.users.ids[row] for row in shown.user_rows] == ["u", "v"]
    assert [table.items.ids[row] for row in shown.item_rows] == ["a", "a"]


def test_label_0_is_a_negative_whatever_the_event(tmp_path):
    content = "user_id,item_id,timestamp,event,label\nu,a,1,click,0\nu,b,2,impression,1\n"
    table = read_text(tmp_path, content)
    assert [table.items.ids[row] for row in table.item_rows] == ["b"]
    assert table.weights.tolist() == [1.0]
    assert len(table.negatives) == 1


def test_only_impressions_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="only 1 impressions"):
        read_text(tmp_path, "user_id,item_id,timestamp,event\nu,a,1,impression\n")


def test_exact_repeats_are_counted_and_out_of_order_rows_sorted(tmp_path):
    table = read_text(tmp_path, "user_id,item_id,timestamp\nu,b,9\nu,a,1\nu,b,9\nu,a,5\n")
    assert table.times.tolist() == [1, 5, 9]
    assert table.report.n_duplicates == 1


def test_report_accounts_for_every_row(tmp_path):
    content = "user_id,item_id,timestamp,event\nu,a,1,click\nu,a,1,click\nu,b,2,impression\n,b,2,click\nu,b\n"
    report = read_text(tmp_path, content).report
    assert report.n_read == 5 == report.n_kept + report.n_rejected + report.n_duplicates
    assert report.n_kept == 2
