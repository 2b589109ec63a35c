"""The parts of an attribute, as files and chunks give them, become one column without losing anything."""

import pyarrow as pa
import pytest

from retrieval.data import arrow, read_items
from retrieval.data.infer import infer
from tests.retrieval.data.writing import parquet


def folder_of(tmp_path, *parts, name="x"):
    """A folder with a parquet file for each of these arrays, as the attribute `name`; ids and titles are made."""
    folder = tmp_path / "items"
    folder.mkdir()
    for number, part in enumerate(parts):
        ids = [f"i{number}-{row}" for row in range(len(part))]
        parquet(folder / f"{number}.parquet", {"item_id": ids, "title": ids, name: part})
    return folder


# Text


@pytest.mark.parametrize("choice", ["error", "first"])
def test_texts_of_any_size_are_joined_in_parts(tmp_path, choice):
    """In one piece, or with offsets of 32 bits, a column could not hold more than 2 GiB."""
    folder = folder_of(tmp_path, ["a", "b"], ["c"])
    if choice == "first":
        parquet(folder / "9.parquet", {"item_id": ["i0-0", "new"], "title": ["again", "new"], "x": ["again", "d"]})
    frame = read_items(folder, on_duplicate=choice).frame
    for name in ("title", "x"):
        column = pa.chunked_array(pa.array(frame[name]))
        assert column.type == pa.large_string()
        assert [len(part) for part in column.chunks] == [2, 1] + [1] * (choice == "first")
    assert frame["x"].tolist() == ["a", "b", "c"] + ["d"] * (choice == "first")


@pytest.mark.parametrize("cells", [["1", "2", "x"] * 4, ["2024-01-01"] * 20 + ["none"], ["a"]])
def test_what_a_column_of_texts_holds_is_told_with_offsets_of_64_bits(cells):
    column = pa.chunked_array([pa.array(cells, arrow.TEXT)] * 2)
    assert infer(column, mixed=False).column.type == pa.large_string()
    assert arrow.trimmed(column.combine_chunks()).type == pa.large_string()
