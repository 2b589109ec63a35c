"""Bad files: each kind of damage gets one line that names the file and, where there is one, the line."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from indexes.errors import DamagedArtefact
from retrieval.data import read_interactions, read_items
from tests.retrieval.data.writing import HEADER, interactions_csv, items_csv, parquet, write

ROOT = Path(__file__).resolve().parents[3]


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


@pytest.mark.parametrize("encoding", ["utf-9", "rot13", "hex", "base64", "zlib", "undefined"])
def test_what_is_no_encoding_of_text_is_named(tmp_path, encoding):
    with pytest.raises(ValueError, match=f"text encoding, such as utf-8 or latin-1, got '{encoding}'"):
        items_csv(tmp_path, "item_id,title\na,Tea\n", encoding=encoding)


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


def test_semicolons_between_columns_are_recognised(tmp_path):
    with pytest.raises(ValueError, match="seems to be separated by semicolons"):
        items_csv(tmp_path, "item_id;title\na;Tea\n")


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


# Damage anywhere

FLIP_EVERY_BYTE = """
import sys
from pathlib import Path
from retrieval.data import read_items
file = Path(sys.argv[1])
whole = file.read_bytes()
for place in range(len(whole)):
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
    try:
        read_items(file, on_duplicate="last")
    except (ValueError, MemoryError) as error:
        assert "\\n" not in str(error) and "items.parquet" in str(error), error
print("survived")
"""


def test_no_flipped_bit_of_a_parquet_file_ends_the_process_or_gives_a_traceback(tmp_path):
    columns = {"item_id": ["a", "b"], "title": ["Tea", None], "tags": [["x"], ["y", "z"]]}
    file = parquet(tmp_path / "items.parquet", columns)
    command = [sys.executable, "-c", FLIP_EVERY_BYTE, str(file)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert run.stdout == "survived\n", run.stderr[-2000:]


def test_column_names_from_a_file_are_escaped_where_they_are_shown(tmp_path):
    file = write(
        tmp_path / "x.jsonl", '{"user_id": "u", "item_id": "a", "timestamp": 1, "\\u001b[1m": 2, "\\ud800": 3}\n'
    )
    assert read_interactions(file, items=None).report.unknown_columns == ("\\ud800", "\\x1b[1m")
    with pytest.raises(ValueError, match=r"found 'a\\nb', 'title'"):
        items_csv(tmp_path, '"a\nb",title\n1,2\n')
