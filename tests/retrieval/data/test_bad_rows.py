"""Bad interactions: refused row by row, counted by reason, and too many of them are an error."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from retrieval.data import IdMap, read_interactions, read_items
from tests.retrieval.data.writing import HEADER, interactions_csv, jsonl, parquet, write

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


def test_a_table_most_of_which_is_refused_is_an_error_unless_so_many_are_expected(tmp_path):
    """Ids that another table writes otherwise: what is left would be trained on without a word."""
    rejects, rows = tmp_path / "rejects.jsonl", HEADER + "u,a,1\n" * 4 + "".join(f"u,SKU-{n},2\n" for n in range(6))
    known = IdMap.of(["a"])
    with pytest.raises(ValueError, match=r"6 of 10 refused \(6 item_id is not in .*:6: .*max_bad_rows=6 \(--max-bad"):
        interactions_csv(tmp_path, rows, items=known, rejects=rejects)
    assert len(rejects.read_text().splitlines()) == 6
    assert len(interactions_csv(tmp_path, rows, items=known, max_bad_rows=6)) == 1
    few = HEADER + "u,a,1\n" + "u,b,2\n" * 8  # of nine rows nobody can tell
    assert len(interactions_csv(tmp_path, few, items=known)) == 1


def test_an_empty_cell_of_a_refused_row_is_kept_as_it_was(tmp_path):
    file, rejects = tmp_path / "x.jsonl", tmp_path / "rejects.jsonl"
    rows = [{"user_id": "", "item_id": "a", "timestamp": 1}, {"user_id": "u", "item_id": "a", "timestamp": 1}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read_interactions(file, items=None, rejects=rejects)
    assert json.loads(rejects.read_text())["values"]["user_id"] == ""


def test_events_that_shall_not_count_are_no_bad_rows(tmp_path):
    rows = "user_id,item_id,timestamp,event\nu,a,1,buy\n" + "".join(f"u,a,{n},view\n" for n in range(2, 30))
    table = interactions_csv(tmp_path, rows, events={"buy": 1.0})
    assert (len(table), table.report.n_rejected) == (1, 28)


def test_rejects_file_is_empty_when_all_is_well(tmp_path):
    rejects = tmp_path / "rejects.jsonl"
    interactions_csv(tmp_path, HEADER + "u,a,1\n", rejects=rejects)
    assert rejects.read_text() == ""


def test_values_in_the_rejects_file_are_cut(tmp_path):
    rejects = tmp_path / "rejects.jsonl"
    interactions_csv(tmp_path, HEADER + f"{'x' * 1000},a,1\nu,a,1\n", rejects=rejects)
    assert json.loads(rejects.read_text())["values"] == {"user_id": "x" * 200, "item_id": "a", "timestamp": "1"}


@pytest.mark.parametrize("place", ["x.csv", "link.csv", "sub/../x.csv"])
def test_the_table_itself_is_no_place_for_refused_rows(tmp_path, place):
    text = HEADER + "u,a,1\n,a,1\n"
    file = write(tmp_path / "x.csv", text)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.csv").symlink_to(file)
    with pytest.raises(ValueError, match="rejects: expected a place apart from the table"):
        read_interactions(file, items=None, rejects=tmp_path / place)
    assert file.read_text() == text


def test_refused_rows_do_not_become_a_part_of_the_folder_that_is_read(tmp_path):
    write(tmp_path / "x.csv", HEADER + "u,a,1\n,a,1\n")
    with pytest.raises(ValueError, match="rejects: expected a place apart from the table"):
        read_interactions(tmp_path, items=None, rejects=tmp_path / "rejects.jsonl")
    for apart in ("_rejects.jsonl", "rejects.txt", "sub/rejects.jsonl"):  # these are not read as tables
        read_interactions(tmp_path, items=None, rejects=tmp_path / apart)
        assert "user_id is empty" in (tmp_path / apart).read_text()
    assert len(read_interactions(tmp_path, items=None)) == 1


def test_a_date_beyond_the_calendar_is_refused_and_shown(tmp_path):
    times = pa.array([10**15, 2**62], pa.timestamp("us"))
    strange = pa.array([[0], [2**62]], pa.list_(pa.timestamp("us")))
    file = parquet(tmp_path / "x.parquet", {"user_id": ["u", "v"], "item_id": ["a", "b"], "timestamp": times})
    rejects = tmp_path / "rejects.jsonl"
    assert len(read_interactions(file, items=None, rejects=rejects)) == 1
    assert "out of range" in json.loads(rejects.read_text())["values"]["timestamp"]
    items = parquet(tmp_path / "items.parquet", {"item_id": ["a", ""], "title": ["cat", "dog"], "seen": strange})
    assert len(read_items(items, rejects=rejects)) == 1
    assert "cannot be shown" in json.loads(rejects.read_text())["values"]["seen"]


@pytest.mark.parametrize("event", [["view"], {"kind": "view"}])
def test_events_that_are_lists_or_objects_are_refused_by_the_columns_name(tmp_path, event):
    file = jsonl(tmp_path / "x.jsonl", [{"user_id": "u", "item_id": "a", "timestamp": 1, "event": event}])
    with pytest.raises(ValueError, match=r"x\.jsonl: column 'event': expected text, found (list|struct)"):
        read_interactions(file, items=None)


def test_data_frame_is_read_with_the_same_checks():
    frame = pd.DataFrame({"user_id": ["u", None], "item_id": [1, 2], "timestamp": [1, 2]})
    table = read_interactions(frame, items=None)
    assert table.items.ids.tolist() == ["1", "2"]
    assert dict(table.report.rejected) == {"user_id is missing": 1}
