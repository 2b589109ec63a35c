"""The catalogue of bad input: each kind of bad file or row gets the answer that was promised for it."""

import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexes.errors import DamagedArtefact
from retrieval.data import IdMap, read_interactions, read_items

HEADER = "user_id,item_id,timestamp\n"


def write(path, content, *, encoding="utf-8"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def items_csv(tmp_path, content, **options):
    return read_items(write(tmp_path / "items.csv", content), **options)


def interactions_csv(tmp_path, content, **options):
    file = write(tmp_path / "interactions.csv", content)
    return read_interactions(file, items=options.pop("items", None), **options)


def parquet(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def jsonl(path, rows):
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


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
    table = read_interactions(jsonl(tmp_path / "x.jsonl", rows), items=None)
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


# CSV files


def test_byte_order_mark_is_skipped(tmp_path):
    assert interactions_csv(tmp_path, ("\ufeff" + HEADER + "u,a,1\n")).users.ids.tolist() == ["u"]


def test_byte_order_mark_is_skipped_before_a_quoted_header(tmp_path):
    content = '\ufeff"user_id","item_id","timestamp"\n"u","a","1"\n'
    assert interactions_csv(tmp_path, content).users.ids.tolist() == ["u"]


@pytest.mark.parametrize("quote", ["", '"'])
def test_latin_1_bytes_name_line_byte_and_cure(tmp_path, quote):
    content = f"item_id,title\na,Tea\nb,{quote}Café{quote}\n".encode("latin-1")
    with pytest.raises(ValueError, match=r"items\.csv:3: byte 0xe9 .* is not utf-8; .*encoding='latin-1'"):
        items_csv(tmp_path, content)


def test_latin_1_bytes_in_a_column_that_is_not_read_are_an_error_too(tmp_path):
    with pytest.raises(ValueError, match=r"interactions\.csv:2: byte 0xe9"):
        interactions_csv(tmp_path, b"user_id,item_id,timestamp,note\nu,a,1,Caf\xe9\n")


def test_latin_1_is_read_when_named(tmp_path):
    content = "item_id,title\nb,Café\n".encode("latin-1")
    assert items_csv(tmp_path, content, encoding="latin-1").frame["title"].tolist() == ["Café"]


def test_unknown_encoding_is_named(tmp_path):
    with pytest.raises(ValueError, match="got 'utf-9'"):
        items_csv(tmp_path, "item_id,title\na,Tea\n", encoding="utf-9")


def test_utf_16_is_recognised_and_read_when_named(tmp_path):
    content = "item_id,title\na,Tea\n".encode("utf-16")
    with pytest.raises(ValueError, match=r"items\.csv:1: looks like UTF-16 .*encoding='utf-16'"):
        items_csv(tmp_path, content)
    assert items_csv(tmp_path, content, encoding="utf-16").frame["title"].tolist() == ["Tea"]


def test_nul_byte_is_an_error_with_its_line(tmp_path):
    with pytest.raises(ValueError, match=r"items\.csv:3: holds a NUL byte"):
        items_csv(tmp_path, b"item_id,title\na,Tea\nb,M\0ug\n")


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_any_line_break_works(tmp_path, line_break):
    content = line_break.join(["user_id,item_id,timestamp", "u,a,1", "v,b,2"]).encode()
    assert interactions_csv(tmp_path, content).users.ids.tolist() == ["u", "v"]


def test_unclosed_quote_is_an_error_with_the_line_where_it_opens(tmp_path):
    content = 'item_id,title\na,Tea\nb,"two\nlines"\nc,"open\n' + "d,Mug\n" * 5000
    with pytest.raises(ValueError, match=r"items\.csv:5: a quote opens in this row and does not close"):
        items_csv(tmp_path, content)


def test_badly_quoted_row_is_refused_alone(tmp_path):
    items = items_csv(tmp_path, 'item_id,title\na,Tea\nb,"Big" mug\nc,Pot\n')
    assert items.ids.ids.tolist() == ["a", "c"]
    assert next(iter(items.report.rejected)).startswith("is badly quoted")


def test_one_column_too_many_in_every_row_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"items\.csv:2: none .* fits the header: has 3 fields, the header has 2"):
        items_csv(tmp_path, "item_id,title\n0,a,Tea\n1,b,Mug\n")


def test_one_row_with_a_column_too_many_or_too_few_is_refused(tmp_path):
    rejects = tmp_path / "rejects.jsonl"
    table = interactions_csv(tmp_path, HEADER + "u,a,1\nu,b,2,9\nu\nu,c,3\n", rejects=rejects)
    assert len(table) == 2
    rows = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(row["row"], row["reason"]) for row in rows] == [
        (3, "has 4 fields, the header has 3"),
        (4, "has 1 fields, the header has 3"),
    ]
    assert rows[0]["values"] == {"line": "u,b,2,9"}


def test_repeated_header_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="expected every column once, got 'item_id' more than once"):
        items_csv(tmp_path, "item_id,title,item_id\na,Tea,b\n")


def test_header_without_rows_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="expected items, got no rows"):
        items_csv(tmp_path, "item_id,title\n")


@pytest.mark.parametrize("name", ["items.csv", "items.jsonl"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_file_is_an_error(tmp_path, name, content):
    with pytest.raises(ValueError, match="got an empty file"):
        read_items(write(tmp_path / name, content))


def test_csv_without_a_required_column_names_what_is_there(tmp_path):
    with pytest.raises(ValueError, match=r"expected columns item_id, title; found 'id', 'title'; missing item_id"):
        items_csv(tmp_path, "id,title\na,Tea\n")


# Parquet and packed files


def test_parquet_without_a_required_column_names_both_schemas(tmp_path):
    file = parquet(tmp_path / "items.parquet", {"id": ["a"], "title": ["Tea"]})
    with pytest.raises(ValueError, match=r"items\.parquet: expected columns item_id, title; found 'id', 'title'"):
        read_items(file)


def test_truncated_parquet_is_a_damaged_artefact_that_is_named(tmp_path):
    file = parquet(tmp_path / "items.parquet", {"item_id": ["a"] * 100, "title": ["Tea"] * 100})
    whole = file.read_bytes()
    for size in (0, 3, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(DamagedArtefact, match=r"items\.parquet"):
            read_items(file)


def test_flipped_bit_in_a_parquet_page_with_checksums_is_found(tmp_path):
    titles = [f"Tea {n}" for n in range(100)]
    columns = {"item_id": [str(n) for n in range(100)], "title": titles}
    file = parquet(
        tmp_path / "items.parquet", columns, compression="NONE", write_page_checksum=True, use_dictionary=False
    )
    content = bytearray(file.read_bytes())
    content[content.index(b"Tea 50")] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedArtefact, match="CRC checksum"):
        read_items(file)


def test_text_that_is_not_utf_8_in_parquet_is_an_error(tmp_path):
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 4], np.int32)), pa.py_buffer(b"Caf\xe9")]
    )
    file = parquet(tmp_path / "items.parquet", {"item_id": ["a"], "title": bad})
    with pytest.raises(ValueError, match="column 'title' holds text that is not UTF-8"):
        read_items(file)


def test_truncated_gzip_is_a_damaged_artefact(tmp_path):
    packed = gzip.compress((HEADER + "u,a,1\n" * 1000).encode())
    with pytest.raises(DamagedArtefact, match=r"interactions\.csv\.gz"):
        read_interactions(write(tmp_path / "interactions.csv.gz", packed[: len(packed) // 2]), items=None)


def test_no_gzip_under_a_gz_name_is_a_damaged_artefact(tmp_path):
    with pytest.raises(DamagedArtefact, match=r"interactions\.csv\.gz"):
        read_interactions(write(tmp_path / "interactions.csv.gz", HEADER + "u,a,1\n"), items=None)


# Labels, weights, ratings


def labelled(tmp_path, cells, **options):
    rows = "".join(f"u,i{n},{n + 1},{cell}\n" for n, cell in enumerate(cells))
    return interactions_csv(tmp_path, "user_id,item_id,timestamp,label\n" + rows, **options)


def test_labels_other_than_1_and_0_are_refused_and_counted(tmp_path):
    table = labelled(tmp_path, ["1", "0", "nan", "yes", "-1", "0.5", ""])
    assert len(table) == 1
    assert len(table.negatives) == 1
    assert dict(table.report.rejected) == {
        "label is no number": 2,
        "label is neither 1 nor 0": 2,
        "label is missing": 1,
    }


@pytest.mark.parametrize("cells", [["1", "1"], ["0", "0"]])
def test_labels_that_are_all_equal_are_an_error(tmp_path, cells):
    with pytest.raises(ValueError, match="expected labels of both kinds"):
        labelled(tmp_path, cells)


def test_label_column_can_be_left_unread(tmp_path):
    table = labelled(tmp_path, ["1", "1"], column_map={"label": ""})
    assert np.isnan(table.labels).all()


def test_labels_as_true_and_false_are_1_and_0(tmp_path):
    table = labelled(tmp_path, ["True", "false", " TRUE "])
    assert (len(table), len(table.negatives)) == (2, 1)


def test_empty_label_is_an_interaction_when_asked(tmp_path):
    table = labelled(tmp_path, ["1", "0", ""], unlabelled="keep")
    assert len(table) == 2
    assert np.isnan(table.labels[1])


@pytest.mark.parametrize("cell", ["nan", "inf", "1e999", "-1", "0", "many", ""])
def test_weight_that_is_no_positive_number_is_refused(tmp_path, cell):
    content = f"user_id,item_id,timestamp,weight\nu,a,1,{cell}\nu,b,2,2.5\n"
    table = interactions_csv(tmp_path, content)
    assert table.weights.tolist() == [2.5]
    assert next(iter(table.report.rejected)).startswith("weight is")


def test_rating_may_be_missing_but_not_be_text(tmp_path):
    table = interactions_csv(tmp_path, "user_id,item_id,timestamp,rating\nu,a,1,4.5\nu,b,2,\nu,c,3,good\n")
    assert table.ratings[0] == 4.5
    assert np.isnan(table.ratings[1])
    assert dict(table.report.rejected) == {"rating is no finite number": 1}


def test_interactions_with_unknown_items_are_refused(tmp_path):
    table = interactions_csv(tmp_path, HEADER + "u,a,1\nu,x,2\nv,y,1\n", items=IdMap.of(["a"]))
    assert dict(table.report.rejected) == {"item_id is not in the item table": 2}
    assert table.users.ids.tolist() == ["u"], "a user without a good row has no row"


def test_interactions_that_are_all_of_unknown_items_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no interactions left: all 1 rows were refused: .*:2: item_id is not in"):
        interactions_csv(tmp_path, HEADER + "u,x,2\n", items=IdMap.of(["a"]))


# Too many bad rows


def test_more_bad_rows_than_allowed_is_an_error_with_three_reasons_and_the_rejects_file(tmp_path):
    rejects = tmp_path / "out" / "rejects.jsonl"
    with pytest.raises(ValueError, match=r"at most 1 bad rows, got 4 so far: .*:2: .*; .*:3: .*; .*:4: [^;]*$"):
        interactions_csv(tmp_path, HEADER + "u,a,x\n,a,1\nu,,1\nu,a,\nu,a,1\n", max_bad_rows=1, rejects=rejects)
    assert len(rejects.read_text().splitlines()) == 4
    assert list(rejects.parent.iterdir()) == [rejects]


def test_as_many_bad_rows_as_allowed_pass(tmp_path):
    assert len(interactions_csv(tmp_path, HEADER + "u,a,x\nu,a,1\n", max_bad_rows=1)) == 1


def test_rejects_file_is_empty_when_all_is_well(tmp_path):
    rejects = tmp_path / "rejects.jsonl"
    interactions_csv(tmp_path, HEADER + "u,a,1\n", rejects=rejects)
    assert rejects.read_text() == ""


def test_values_in_the_rejects_file_are_cut(tmp_path):
    rejects = tmp_path / "rejects.jsonl"
    interactions_csv(tmp_path, HEADER + f"{'x' * 1000},a,1\nu,a,1\n", rejects=rejects)
    assert json.loads(rejects.read_text())["values"] == {"user_id": "x" * 200, "item_id": "a", "timestamp": "1"}


def test_data_frame_is_read_with_the_same_checks():
    frame = pd.DataFrame({"user_id": ["u", None], "item_id": [1, 2], "timestamp": [1, 2]})
    table = read_interactions(frame, items=None)
    assert table.items.ids.tolist() == ["1", "2"]
    assert dict(table.report.rejected) == {"user_id is missing": 1}
