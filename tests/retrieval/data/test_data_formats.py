"""Every format, file or folder gives the same tables."""

import json
import unicodedata

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval.data import csv_chunks, read_interactions, read_items
from tests.retrieval.data.writing import interactions_csv, save

ROWS = [("u1", "a", 10, 1.5), ("u2", "b", 5, 1.0), ("u1", "b", 7, 2.0)]
FORMATS = ["parquet", "csv", "tsv", "jsonl", "csv.gz", "jsonl.gz"]


def interactions_frame(rows=ROWS):
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "weight"])


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
    assert tables[0]["title"].tolist() == [unicodedata.normalize("NFC", title) for _, title, _ in rows]


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
            chunks = list(csv_chunks.read_csv_chunks(file, required={}, wanted=None, encoding="utf-8", delimiter=","))
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
    table = interactions_csv(tmp_path, f"user_id,item_id,timestamp\n{plain}{quoted}")
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


@pytest.mark.parametrize(
    "broken",
    [
        ['{"user_id": "w", "item_id": "c"', '"timestamp": 5}'],
        ['{"user_id": "w", "item_id": "c", "timestamp": 5, "tags": [{}', "{}]}"],
    ],
)
def test_lines_that_are_whole_only_together_are_refused(tmp_path, broken):
    """As many objects as lines, one of them from two lines and two from one line."""
    good = '{"user_id": "u", "item_id": "a", "timestamp": 1}'
    lines = [f"{good},{good}", *broken, good]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    table = read_interactions(tmp_path / "x.jsonl", items=None, rejects=tmp_path / "r.jsonl")
    assert len(table) == 1
    assert [json.loads(line)["row"] for line in (tmp_path / "r.jsonl").read_text().splitlines()] == [1, 2, 3]


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
