"""Tables of users for a batch: formats, histories, segments, repeats and bad rows."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from retrieval.batch import UserStream
from retrieval.batch.users import parse_history
from tests.retrieval.batch_runs import K, score

ROOT = Path(__file__).resolve().parents[2]


def test_a_history_column_stands_in_for_the_users_own(recommender, tmp_path):
    users = pd.DataFrame(
        {
            "user_id": ["guest", "toy-fan-01", "toy-fan-02", "nobody"],
            "history": [["film-01", "film-02"], None, [], ["unknown item"]],
        }
    )
    report = score(recommender, users, tmp_path / "lists")
    found = pd.read_parquet(tmp_path / "lists")
    lists = {user: rows["item_id"].tolist() for user, rows in found.groupby("user_id")}
    assert lists["guest"] == recommender.recommend(history=["film-01", "film-02"], k=K).item_ids
    assert lists["toy-fan-01"] == recommender.recommend("toy-fan-01", k=K).item_ids
    assert lists["toy-fan-02"] == lists["nobody"] == recommender.recommend("stranger", k=K).item_ids
    assert report["n_unknown"] == 0


@pytest.mark.parametrize(
    ("cell", "history"),
    [
        (None, None),
        ("", ()),
        ("a, b,c", ("a", "b", "c")),
        ('["a,b", 7]', ("a,b", "7")),
        ([1, "1"], ("1", "1")),
        ([], ()),
    ],
)
def test_a_history_cell_is_a_list_or_text(cell, history):
    assert parse_history(cell) == history


@pytest.mark.parametrize("cell", [3, 'a,,"', "[1,", {"a": 1}, [None], [1.5], "a\u200b"])
def test_other_history_cells_are_refused(cell):
    with pytest.raises(ValueError, match=r"id|history|Expecting|delimiter"):
        parse_history(cell)


def test_csv_and_json_lines_bring_the_same_users(tmp_path):
    (tmp_path / "u.csv").write_text('user_id,segment,history\n007,gold,"a,b"\n8,,\n9,new,"[""c""]"\n')
    (tmp_path / "u.jsonl").write_text(
        '{"user_id": "007", "segment": "gold", "history": ["a", "b"]}\n{"user_id": 8}\n'
        '{"user_id": "9", "segment": "new", "history": ["c"]}\n'
    )
    chunks = [list(UserStream(tmp_path / name, chunk_users=2)) for name in ("u.csv", "u.jsonl")]
    assert chunks[0] == chunks[1]
    assert chunks[0][0].user_ids == ("007", "8")
    assert chunks[0][0].histories == (("a", "b"), None)
    assert chunks[0][1].segments == ("new",)


def test_a_segment_that_looks_the_same_is_the_same():
    users = pd.DataFrame({"user_id": ["a", "b", "c"], "segment": ["Zo\u00eb", "Zoe\u0308", "x"]})
    for segment in users["segment"][:2]:
        chunks = list(UserStream(users, chunk_users=5, segment=segment))
        assert [chunk.user_ids for chunk in chunks] == [("a", "b")]


def test_repeated_users_are_refused_with_the_first_five(recommender, tmp_path):
    ids = [f"u{number}" for number in range(30)]
    twice = pd.DataFrame({"user_id": [*ids, *ids[3:12]]})
    with pytest.raises(ValueError, match="got 9 more than once: 'u3', 'u4', 'u5', 'u6', 'u7'; leave the repeats out"):
        score(recommender, twice, tmp_path / "lists")
    with pytest.raises(ValueError, match="got 1 more than once"):
        score(recommender, pd.DataFrame({"user_id": ["Zo\u00eb", "Zoe\u0308"]}), tmp_path / "lists")
    assert not list(tmp_path.iterdir())


def test_a_user_may_stand_in_two_segments_if_one_is_chosen(recommender, tmp_path):
    users = pd.DataFrame({"user_id": ["toy-fan-01", "toy-fan-01"], "segment": ["gold", "new"]})
    with pytest.raises(ValueError, match="or choose one --segment"):
        score(recommender, users, tmp_path / "lists")
    assert score(recommender, users, tmp_path / "lists", segment="new")["n_users"] == 1


def test_bad_rows_are_counted_and_kept_with_their_reason(recommender, tmp_path):
    file = tmp_path / "users.csv"
    file.write_text('user_id,history\ntoy-fan-01,\n,\ntoy-fan-02,"[1.5]"\n')
    report = score(recommender, file, tmp_path / "lists", stream={"rejects": tmp_path / "rejects.jsonl"})
    assert report["rejected"] == {"user_id is empty": 1, "history is no list of item ids": 1}
    refused = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert [row["row"] for row in refused] == [3, 4]
    with pytest.raises(ValueError, match="expected at most 1 bad rows, got 2"):
        score(recommender, file, tmp_path / "other", stream={"max_bad_rows": 1})


def test_a_table_most_users_of_which_are_refused_stops_before_anything_is_computed(recommender, tmp_path):
    file, out = tmp_path / "users.csv", tmp_path / "lists"
    file.write_text("user_id\ntoy-fan-00\n" + "\u200b\n" * 11)
    holds = r"got 11 of 12 refused \(11 user_id holds an invisible character \(U\+200B\)\): .*users.csv:3: user_id"
    with pytest.raises(ValueError, match=holds + r".*Mend them, or allow for them: max_bad_rows=11 \(--max-bad-rows\)"):
        score(recommender, file, out)
    assert [entry.name for entry in tmp_path.iterdir()] == ["users.csv"]
    assert score(recommender, file, out, stream={"max_bad_rows": 11})["n_users"] == 1


@pytest.mark.parametrize(
    ("text", "segment", "said"),
    [
        ("user_id\n", None, "got no rows"),
        ("customer\n1\n", None, "missing user_id"),
        ("user_id\n1\n", "gold", "expected a column segment to choose 'gold' by, found none"),
        ("user_id,segment\n1,new\n2,new\n3,\n", "gold", r"found only new \(2\), \(none\) \(1\)"),
        ("user_id\n\u200b\n", None, "all 1 rows were refused"),
    ],
)
def test_bad_tables_of_users_are_refused(tmp_path, text, segment, said):
    (tmp_path / "users.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        list(UserStream(tmp_path / "users.csv", chunk_users=8, segment=segment))
