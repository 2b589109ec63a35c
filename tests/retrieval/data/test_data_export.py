"""Export: complete or absent, exact in parquet and JSON lines, safe in a spreadsheet as CSV."""

import json

import pandas as pd
import pyarrow.parquet as pq
import pytest

from retrieval.data.export import spreadsheet_safe, write_table

FRAME = pd.DataFrame(
    {"user_id": ["007", "u2"], "title": ["=1+1", "Tea"], "rank": [1, 2], "score": [-0.5, float("nan")]}
)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(tmp_path, start):
    frame = pd.DataFrame({"title": [start + "cmd", "Tea"]})
    written = pd.read_csv(write_table(frame, tmp_path / "x.csv"), keep_default_na=False)
    assert written["title"].tolist() == ["'" + start + "cmd", "Tea"]


def test_numbers_and_plain_text_are_left_alone_in_csv(tmp_path):
    text = write_table(FRAME, tmp_path / "x.csv").read_text()
    assert text == "user_id,title,rank,score\n007,'=1+1,1,-0.5\nu2,Tea,2,\n"


def test_header_is_made_safe_as_well(tmp_path):
    assert write_table(pd.DataFrame({"@sum": [1]}), tmp_path / "x.csv").read_text() == "'@sum\n1\n"


def test_categorical_text_is_made_safe_as_well(tmp_path):
    frame = pd.DataFrame({"title": pd.Categorical(["=x", None])})
    assert write_table(frame, tmp_path / "x.csv").read_text() == 'title\n\'=x\n""\n'


def test_apostrophe_goes_only_before_a_dangerous_start():
    assert [spreadsheet_safe(text) for text in ("", "a=b", "=", "'=")] == ["", "a=b", "'=", "'="]


@pytest.mark.parametrize("text", ["-17", "-0.5", "-1,5", "-1e5"])
def test_an_id_that_is_a_negative_number_stays_as_it_is_in_csv(tmp_path, text):
    file = write_table(pd.DataFrame({"user_id": [text]}), tmp_path / "x.csv")
    assert pd.read_csv(file, dtype="str")["user_id"].tolist() == [text]


@pytest.mark.parametrize("text", ["-17+cmd|' /C calc'!A0", "-", "--1", "-1-1", "-a1", "-17\n=1", "+17", "@bob"])
def test_what_only_begins_as_a_negative_number_gets_an_apostrophe(text):
    assert spreadsheet_safe(text) == "'" + text


def test_parquet_keeps_values_and_has_page_checksums(tmp_path):
    file = write_table(FRAME, tmp_path / "x.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(file), FRAME)
    content = bytearray(file.read_bytes())
    content[8] ^= 1  # in the first page
    file.write_bytes(content)
    with pytest.raises(OSError, match=r"CRC|deserialize|Corrupt|page"):
        pq.ParquetFile(file, page_checksum_verification=True).read()


def test_json_lines_keep_values_and_turn_nan_into_null(tmp_path):
    lines = write_table(FRAME, tmp_path / "x.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"user_id": "007", "title": "=1+1", "rank": 1, "score": -0.5},
        {"user_id": "u2", "title": "Tea", "rank": 2, "score": None},
    ]


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.tsv", "x.jsonl"])
def test_nothing_but_the_file_is_left_behind(tmp_path, name):
    write_table(FRAME, tmp_path / "out" / name)
    assert [file.name for file in (tmp_path / "out").iterdir()] == [name]


def test_failed_write_leaves_the_old_file(tmp_path):
    file = write_table(FRAME, tmp_path / "x.parquet")
    before = file.read_bytes()
    with pytest.raises(Exception, match=r"object|mixed|Expected|tried to convert"):
        write_table(pd.DataFrame({"a": [object(), 1]}), file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["x.xlsx", "x", "x.csv.gz"])
def test_unknown_format_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=r"expected \.parquet, \.csv"):
        write_table(FRAME, tmp_path / name)
