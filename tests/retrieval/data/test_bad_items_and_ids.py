"""Bad items and ids: each kind gets the answer that was promised for it."""

import json

import pyarrow as pa
import pytest

from retrieval.data import read_interactions, read_items
from tests.retrieval.data.writing import items_csv, jsonl, parquet, write

# Items: texts


@pytest.mark.parametrize("title", ["", "   ", "\u2615\ufe0f", "!?"])
def test_item_without_words_is_left_out_with_a_warning(tmp_path, title):
    items = items_csv(tmp_path, f"item_id,title\na,{title}\nb,Tea\n")
    assert items.ids.ids.tolist() == ["b"]
    assert "1 items have no text and were left out" in items.report.warnings[0]


def test_item_without_words_is_kept_when_asked(tmp_path):
    items = items_csv(tmp_path, "item_id,title\na,\nb,Tea\n", allow_empty=True)
    assert items.frame["title"].tolist() == ["", "Tea"]


def test_item_with_a_description_needs_no_title(tmp_path):
    assert len(items_csv(tmp_path, "item_id,title,description\na,,A fine tea\n")) == 1


def test_huge_text_is_cut_and_reported(tmp_path):
    items = items_csv(tmp_path, f"item_id,title\na,{'x' * 1_000_000}\nb,{'é' * 4000}\n")
    assert items.frame["title"].str.len().tolist() == [4000, 4000]
    assert items.report.n_cut == {"title": 1}
    assert "1 cells of title were cut" in items.report.warnings[0]


def test_texts_are_kept_in_one_form_and_cut_as_such(tmp_path):
    rows = [{"item_id": "a", "title": "e\u0301" * 4001, "brand": "e\x00\u0301"}]
    items = read_items(jsonl(tmp_path / "items.jsonl", rows))
    assert items.frame[["title", "brand"]].to_numpy().tolist() == [["\u00e9" * 4000, "\u00e9"]]
    assert items.report.n_cut == {"title": 1}


def test_quoted_field_of_200_kb_is_accepted_and_cut(tmp_path):
    items = items_csv(tmp_path, f'item_id,title\na,"{"x, " * 70_000}"\n')
    assert items.report.n_cut == {"title": 1}


@pytest.mark.parametrize(
    ("title", "kind"), [(float("nan"), "NaN"), (12, "int"), ({"en": "Tea"}, "dict"), (True, "bool")]
)
def test_text_of_another_type_is_refused_with_its_row(tmp_path, title, kind):
    rows = [{"item_id": "a", "title": "Tea"}, {"item_id": "b", "title": title}]
    rejects = tmp_path / "rejects.jsonl"
    items = read_items(jsonl(tmp_path / "items.jsonl", rows), rejects=rejects)
    assert items.ids.ids.tolist() == ["a"]
    refused = json.loads(rejects.read_text())
    assert (refused["row"], refused["reason"]) == (2, f"title is {kind}, expected text")


def test_missing_title_counts_as_empty(tmp_path):
    rows = [{"item_id": "a", "title": None, "brand": "Acme"}, {"item_id": "b", "title": None}]
    assert read_items(jsonl(tmp_path / "items.jsonl", rows)).ids.ids.tolist() == ["a"]


@pytest.mark.parametrize("values", [[12, 13], [b"tea", b"mug"], [1.5, None]])
def test_text_column_of_another_type_in_parquet_names_both_types(tmp_path, values):
    file = parquet(tmp_path / "items.parquet", {"item_id": ["a", "b"], "title": values})
    with pytest.raises(ValueError, match=r"column 'title': expected text, found (int64|binary|double)"):
        read_items(file)


def test_control_characters_leave_text_and_line_breaks_stay(tmp_path):
    rows = [{"item_id": "a", "title": "Te\x00a\x1b[31m\u0085 \u202ered", "description": "one\ntwo\tthree"}]
    frame = read_items(jsonl(tmp_path / "items.jsonl", rows)).frame
    assert frame["title"].tolist() == ["Tea[31m \u202ered"]
    assert frame["description"].tolist() == ["one\ntwo\tthree"]


def test_lone_surrogate_in_text_is_refused(tmp_path):
    file = write(tmp_path / "items.jsonl", '{"item_id": "a", "title": "T\\ud800"}\n{"item_id": "b", "title": "Tea"}\n')
    items = read_items(file)
    assert dict(items.report.rejected) == {"title holds half of a surrogate pair": 1}


# Items: how many


def test_no_items_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no items"):
        read_items(
            parquet(tmp_path / "items.parquet", {"item_id": pa.array([], pa.string()), "title": pa.array([], "str")})
        )


def test_one_item_works(tmp_path):
    assert len(items_csv(tmp_path, "item_id,title\na,Tea\n")) == 1


def test_only_refused_items_is_an_error_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match=r"no items left: all 1 rows were refused: .*items\.csv:2: text is empty"):
        items_csv(tmp_path, "item_id,title\na,\n")


def test_repeated_item_ids_list_the_first_five(tmp_path):
    rows = "".join(f"{n},Tea {n}\n" for n in [*range(7), *range(7)])
    with pytest.raises(ValueError, match=r"7 rows with a repeated one: '0', '1', '2', '3', '4'; .*on_duplicate='last'"):
        items_csv(tmp_path, "item_id,title\n" + rows)


def test_ids_equal_after_normalising_are_repeated(tmp_path):
    with pytest.raises(ValueError, match="1 rows with a repeated one"):
        items_csv(tmp_path, "item_id,title\nCafe\u0301,Tea\nCaf\u00e9,Mug\n")


@pytest.mark.parametrize(("choice", "titles"), [("first", ["old", "Mug"]), ("last", ["Mug", "new"])])
def test_repeated_item_ids_can_be_settled(tmp_path, choice, titles):
    items = items_csv(tmp_path, "item_id,title\na,old\nb,Mug\na,new\n", on_duplicate=choice)
    assert items.frame["title"].tolist() == titles
    assert items.frame["item_id"].tolist() == items.ids.ids.tolist()
    assert items.report.n_replaced == 1


# Ids


def test_csv_ids_stay_as_they_are_written(tmp_path):
    spellings = ["007", "1e5", "true", "NA", "null", "None", "nan", "1.0", "-0", "1_000"]
    items = items_csv(tmp_path, "item_id,title\n" + "".join(f"{text},Tea\n" for text in spellings))
    assert items.ids.ids.tolist() == spellings


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_large_whole_ids_with_a_gap_keep_every_digit(tmp_path, kind):
    big = 2**53 + 1
    if kind == "parquet":
        file = parquet(tmp_path / "x.parquet", {"user_id": [big, None], "item_id": ["a", "a"], "timestamp": [1, 2]})
    else:
        file = jsonl(tmp_path / "x.jsonl", [{"user_id": u, "item_id": "a", "timestamp": 1} for u in (big, None)])
    table = read_interactions(file, items=None)
    assert table.users.ids.tolist() == ["9007199254740993"]
    assert dict(table.report.rejected) == {"user_id is missing": 1}


def test_ids_as_fractions_are_refused_as_a_column(tmp_path):
    file = parquet(tmp_path / "x.parquet", {"user_id": [1.0, None], "item_id": ["a", "a"], "timestamp": [1, 2]})
    with pytest.raises(
        ValueError, match=r"column 'user_id': expected text or whole numbers, found double; write ids as text"
    ):
        read_interactions(file, items=None)


def test_whole_number_ids_join_text_ids_and_warn(tmp_path):
    items = read_items(parquet(tmp_path / "items.parquet", {"item_id": ["1", "2"], "title": ["Tea", "Mug"]}))
    file = parquet(tmp_path / "x.parquet", {"user_id": ["u", "u"], "item_id": [2, 1], "timestamp": [1, 2]})
    table = read_interactions(file, items=items)
    assert table.item_rows.tolist() == [1, 0]
    assert "item_id is whole numbers here and text in the item table" in table.report.warnings[0]


def test_files_of_a_folder_may_write_ids_in_both_ways_and_warn(tmp_path):
    parquet(tmp_path / "a.parquet", {"user_id": ["1"], "item_id": ["x"], "timestamp": [1]})
    parquet(tmp_path / "b.parquet", {"user_id": [1], "item_id": ["x"], "timestamp": [2]})
    table = read_interactions(tmp_path, items=None)
    assert table.users.ids.tolist() == ["1"]
    assert "user_id comes as text and as whole numbers" in table.report.warnings[0]


def test_hostile_ids_are_refused_by_row_and_counted_by_reason(tmp_path):
    bad = ["", " ", "a\x00", "\x1b[1m", "a\u202e", "\u200bb", " 012 ", "x" * 300, True, 1.5]
    rows = [{"user_id": user, "item_id": "i", "timestamp": 1} for user in [*bad, "ok"]]
    table = read_interactions(jsonl(tmp_path / "x.jsonl", rows), items=None, max_bad_rows=len(bad))
    assert table.users.ids.tolist() == ["ok"]
    assert table.report.n_rejected == len(bad)


def test_newline_in_an_id_cannot_forge_a_line_of_the_rejects_file(tmp_path):
    rejects = tmp_path / "rejects.jsonl"
    rows = [
        {"user_id": 'a\n{"row": 99}', "item_id": "i", "timestamp": 1},
        {"user_id": "b", "item_id": "i", "timestamp": 1},
    ]
    read_interactions(jsonl(tmp_path / "x.jsonl", rows), items=None, rejects=rejects)
    assert len(rejects.read_text().splitlines()) == 1


@pytest.mark.parametrize(("choice", "gone"), [("first", [4, 5]), ("last", [2, 3])])
def test_rows_that_gave_way_to_another_of_their_id_are_kept_with_their_reason(tmp_path, choice, gone):
    log = tmp_path / "rejects.jsonl"
    rows = "item_id,title\na,old\nb,Mug\nb,Cup\na,new\n"
    items = items_csv(tmp_path, rows, on_duplicate=choice, rejects=log, max_bad_rows=0)
    kept = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["row"] for entry in kept] == gone
    texts = {"first": {"a": "new", "b": "Cup"}, "last": {"a": "old", "b": "Mug"}}[choice]
    assert {entry["values"]["item_id"]: entry["values"]["title"] for entry in kept} == texts
    assert {entry["reason"] for entry in kept} == {f"item_id is there more than once; the {choice} row is kept"}
    assert items.report is not None
    assert "dropped 2 rows with a repeated id" in items.report.summary()
    assert str(log) in items.report.summary()


def test_items_without_a_title_are_told(tmp_path):
    items = items_csv(tmp_path, "item_id,title,category\na,,Mugs\nb,Cup,\n")
    assert items.report is not None
    assert "1 items have no title and are shown by their other text" in items.report.warnings
