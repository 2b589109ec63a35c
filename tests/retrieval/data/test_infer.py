"""A stray cell does not turn a column of numbers into text: it becomes missing, its row stays, and both are said."""

import json

import numpy as np
import pytest

from indexes.filters import filter_mask
from retrieval.data import read_items
from tests.retrieval.data.writing import items_csv, jsonl, parquet


def priced(tmp_path, cells, **options):
    """An item table whose prices are these cells."""
    rows = "".join(f"i{n},Mug {n},{cell}\n" for n, cell in enumerate(cells))
    return items_csv(tmp_path, "item_id,title,price\n" + rows, **options)


def test_one_bad_number_becomes_missing_and_range_filters_work(tmp_path):
    rejects = tmp_path / "rejects.jsonl"
    items = priced(tmp_path, [*range(1, 15), "n/a", "12.5"], rejects=rejects)
    assert items.frame["price"].dtype == "float64"
    assert len(items) == 16
    assert filter_mask(items.frame, "price < 10").sum() == 9
    assert items.frame["item_id"][items.frame["price"].isna()].tolist() == ["i14"]
    file = str(tmp_path / "items.csv")
    assert [json.loads(line) for line in rejects.read_text().splitlines()] == [
        {
            "file": file,
            "row": 16,
            "reason": "price is no number; the row is kept without it",
            "values": {"price": "n/a"},
            "kept": True,
        }
    ]
    report = items.report
    assert dict(report.emptied) == {"price is no number; the row is kept without it": 1}
    assert (report.n_kept, report.n_rejected) == (16, 0)
    assert f"1 cells of price are no numbers and were emptied (first: 'n/a', {file}:16)" in report.summary()


def test_a_column_of_fewer_than_ten_cells_must_be_all_numbers(tmp_path):
    report = priced(tmp_path, [1, 2, 3, "", "?"]).report
    assert report.emptied == {}
    assert "price is kept as text, though most of it are numbers: 1 cells are none (first: '?'" in report.warnings[0]


@pytest.mark.parametrize(("n_bad", "kind"), [(5, "int64"), (6, "text")])
def test_the_bound_is_one_in_twenty(tmp_path, n_bad, kind):
    items = priced(tmp_path, ["1"] * (100 - n_bad) + ["x"] * n_bad)
    kept = items.frame["price"]
    if kind == "text":
        assert kept.tolist() == ["1"] * 94 + ["x"] * 6
    else:
        assert kept.fillna(0).tolist() == [1] * 95 + [0] * 5


@pytest.mark.parametrize("code", ["007", "12345678901234567890"])
def test_codes_stay_text(tmp_path, code):
    items = priced(tmp_path, [*range(1, 40), code])
    assert items.frame["price"].tolist()[-1] == code
    assert items.report.emptied == {}


def test_another_spelling_of_a_number_is_no_stray(tmp_path):
    assert priced(tmp_path, [*range(1, 20), "1e2"]).frame["price"].tolist()[-1] == 100
    assert priced(tmp_path, ["1e2", "1e3"]).frame["price"].tolist() == ["1e2", "1e3"]


def test_json_of_mixed_types_follows_the_same_rule(tmp_path):
    rows = [{"item_id": f"i{n}", "title": "Mug", "price": n + 0.5} for n in range(20)]
    rows[3]["price"], rows[4]["price"], rows[5]["price"] = "on request", None, "7.25"
    items = read_items(jsonl(tmp_path / "items.jsonl", rows))
    assert items.frame["price"].dtype == "float64"
    assert np.flatnonzero(items.frame["price"].isna()).tolist() == [3, 4]
    assert items.frame["price"].tolist()[5] == 7.25
    assert sum(items.report.emptied.values()) == 1


def test_a_folder_whose_files_disagree_follows_the_same_rule(tmp_path):
    folder = tmp_path / "items"
    folder.mkdir()
    ids = [f"i{n}" for n in range(30)]
    parquet(folder / "a.parquet", {"item_id": ids, "title": ids, "price": [1.5] * 30})
    parquet(folder / "b.parquet", {"item_id": ["x", "y"], "title": ["x", "y"], "price": ["2", "cheap"]})
    items = read_items(folder)
    assert items.frame["price"].tolist()[:31] == [1.5] * 30 + [2.0]
    assert items.frame["price"].isna().tolist()[31]


def test_dates_stay_text_and_lose_what_is_none(tmp_path):
    items = priced(tmp_path, [f"2024-01-{day:02d}" for day in range(1, 21)] + ["2024-02-30"])
    assert items.frame["price"].tolist()[:2] == ["2024-01-01", "2024-01-02"]
    assert filter_mask(items.frame, "price > '2024-01-15'").sum() == 5
    assert dict(items.report.emptied) == {"price is no date; the row is kept without it": 1}


def test_emptied_cells_are_no_bad_rows(tmp_path):
    assert len(priced(tmp_path, [*range(1, 20), "x"], max_bad_rows=0)) == 20
