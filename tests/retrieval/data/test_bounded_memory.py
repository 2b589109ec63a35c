"""Files that unpack to far more than they are: refused, or read, in bounded memory."""

import gzip
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval.data import files, parquet_chunks, read_interactions, read_items
from tests.retrieval.data.writing import HEADER, write

ROOT = Path(__file__).resolve().parents[3]

MEASURE = """
import sys
from pathlib import Path
from retrieval.data import read_items
try:
    print("read", len(read_items(sys.argv[1])))
except MemoryError as error:
    print("refused", error)
if Path("/proc/self/status").exists():
    print("peak_mb", int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024)
"""


def repeated_text(path, *, n_rows, n_chars):
    """One text of n_chars in a dictionary, named by every row: a few hundred bytes for n_rows * n_chars."""
    places = pa.array([0] * n_rows, pa.int32())
    titles = pa.DictionaryArray.from_arrays(places, pa.array(["t" * n_chars]))
    table = pa.table({"item_id": pa.array([str(n) for n in range(n_rows)]), "title": titles})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=64 << 20, store_schema=False)
    return path


def read_apart(path):
    """Reads items in a fresh process; gives what it printed."""
    command = [sys.executable, "-c", MEASURE, str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout


def test_parquet_that_stands_for_20_gb_of_text_is_refused_in_bounded_memory(tmp_path):
    file = repeated_text(tmp_path / "items.parquet", n_rows=20_000, n_chars=1_000_000)
    assert file.stat().st_size < 200_000
    printed = read_apart(file)
    assert "refused" in printed
    assert "column 'title' unpacks to more than 1 GB" in printed
    if "peak_mb" in printed:
        assert int(printed.split("peak_mb")[1]) < 1_500


def test_parquet_with_a_few_huge_texts_is_read_and_cut(tmp_path):
    items = read_items(repeated_text(tmp_path / "items.parquet", n_rows=50, n_chars=1_000_000))
    assert items.report.n_cut == {"title": 50}


def test_single_value_beyond_the_budget_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_chunks, "BATCH_BYTES", 1 << 20)
    file = repeated_text(tmp_path / "items.parquet", n_rows=50, n_chars=2 << 20)
    with pytest.raises(MemoryError, match="column 'title' holds a value of 2 MB"):
        read_items(file)


def test_batches_shrink_to_the_longest_entry_of_the_dictionary(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_chunks, "BATCH_BYTES", 1 << 20)
    file = repeated_text(tmp_path / "items.parquet", n_rows=100, n_chars=100_000)
    sizes = [len(chunk) for chunk in parquet_chunks.read_parquet_chunks(file, required={}, wanted=None)]
    assert sizes == [10] * 10  # 2 ** 20 // 100_000 rows each


def test_line_that_does_not_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 1 << 20)
    for name in ("items.csv.gz", "items.jsonl.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"item_id,title\n" + b"x" * (12 << 20)))
        with pytest.raises(ValueError, match=rf"{name}: a line is longer than 1 MB"):
            read_items(tmp_path / name)


def test_line_over_many_blocks_is_refused_before_its_end_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 1 << 20)
    file = tmp_path / "items.csv"
    file.write_bytes(b"item_id,title\na," + b"x" * (24 << 20) + b"\n" + b"b,y\n")
    with pytest.raises(ValueError, match=r"items\.csv: a line is longer than 1 MB"):
        read_items(file)


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_bad_byte_in_an_endless_line_is_named_in_bounded_memory(tmp_path, monkeypatch, byte):
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 8 << 20)
    file = tmp_path / "items.csv.gz"
    file.write_bytes(gzip.compress(b"item_id,title\na,cat\n" + byte * (256 << 20), compresslevel=1))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"items\.csv\.gz:3: "):
        read_items(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 << 20


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_file_of_many_short_lines_may_be_longer_than_the_longest_line(tmp_path, monkeypatch, name, quote):
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 1 << 10)
    rows = [(f"u{n}", "a", n) for n in range(2000)]
    if name == "x.csv":
        text = HEADER + "".join(f"{quote}{user}{quote},{item},{time}\n" for user, item, time in rows)
    else:
        text = "".join(
            f'{{"user_id": "{user}", "item_id": "{item}", "timestamp": {time}}}\n' for user, item, time in rows
        )
    assert len(read_interactions(write(tmp_path / name, text), items=None)) == 2000


def test_quoted_field_that_never_ends_is_refused_before_it_fills_memory(tmp_path):
    rows = b'item_id,title\na,"' + b"open\n" * (4 << 20)  # 20 MB
    (tmp_path / "items.csv").write_bytes(rows)
    with pytest.raises(ValueError, match=r"items\.csv:2: a quote opens in this row"):
        read_items(tmp_path / "items.csv")
