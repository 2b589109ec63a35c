"""What a batch run writes: the same lists as one by one, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from retrieval import cli
from retrieval.batch import BatchOptions
from retrieval.cli_show import show_batch
from retrieval.recommend import Recommender
from retrieval.storage import save_bundle
from retrieval.update import replace_catalogue
from scripts import batch_score
from tests import world
from tests.retrieval.batch_runs import COLUMNS, K, one_by_one, score, some_users

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def users() -> pd.DataFrame:
    """Every user of the world and a stranger; two segments."""
    return some_users()


def test_the_lists_are_those_of_recommend_one_by_one(recommender, users, tmp_path):
    report = score(recommender, users, tmp_path / "lists")
    found = pd.read_parquet(tmp_path / "lists")
    wanted = one_by_one(recommender, users)
    assert list(found.columns) == COLUMNS
    for column in ("user_id", "segment", "rank", "item_id"):
        assert found[column].tolist() == wanted[column].tolist()
    np.testing.assert_allclose(found["score"], wanted["score"], rtol=1e-4, atol=1e-7)
    assert (report["n_users"], report["n_rows"], report["n_unknown"], report["n_empty"]) == (41, 41 * K, 1, 0)


def test_history_items_that_nobody_knows_are_counted_and_told(recommender, tmp_path, capsys):
    histories = [["nope", "toy-01"], ["nope", "nada"], [], None]
    users = pd.DataFrame({"user_id": ["a", "b", "c", "toy-fan-00"], "history": histories})
    report = score(recommender, users, tmp_path / "lists", chunk_users=2)
    assert (report["n_ignored"], report["n_cold"], report["n_unknown"]) == (3, 1, 0)
    assert [(part["n_ignored"], part["n_cold"]) for part in report["parts"]] == [(3, 1), (0, 0)]
    found = pd.read_parquet(tmp_path / "lists")
    for user in ("b", "c"):
        assert found["item_id"][found["user_id"] == user].tolist() == recommender.recommend("stranger", k=K).item_ids
    show_batch(report, tmp_path / "lists", as_json=False)
    told = capsys.readouterr().out
    assert "note: 3 items of histories are not in the catalogue and were left out\n" in told
    assert "note: 1 users without any item in the catalogue got the popular list\n" in told


def test_known_users_all_of_whose_items_were_removed_are_counted_and_told(recommender, tmp_path, capsys):
    frame = recommender.model.catalogue.items.frame
    without_toys = world.make_items(frame[frame["category"] != "toy"].reset_index(drop=True))
    save_bundle(tmp_path / "bundle", replace_catalogue(recommender, without_toys))
    rebuilt = Recommender.load(tmp_path / "bundle", device="cpu", precision="float32")
    report = score(rebuilt, some_users(), tmp_path / "lists")
    toy_fans = [user for user in some_users()["user_id"] if user.startswith("toy")]
    assert (report["n_cold"], report["n_unknown"], report["n_ignored"]) == (len(toy_fans), 1, 0)
    found = pd.read_parquet(tmp_path / "lists").groupby("user_id")["item_id"].agg(list)
    assert all(found[user] == rebuilt.recommend("stranger", k=K).item_ids for user in toy_fans)
    show_batch(report, tmp_path / "lists", as_json=False)
    assert f"note: {len(toy_fans)} users without any item in the catalogue got the popular" in capsys.readouterr().out


def test_parts_of_a_version_that_did_not_count_them_still_stand(recommender, users, tmp_path):
    score(recommender, users[:8], tmp_path / "lists")
    success = tmp_path / "lists" / "_SUCCESS"
    report = json.loads(success.read_text())
    for counts in (report, *report["parts"]):
        del counts["n_ignored"], counts["n_cold"]
    success.write_text(json.dumps(report))
    again = score(recommender, users[:8], tmp_path / "lists")
    assert again["n_computed"] == 0
    show_batch(again, tmp_path / "lists", as_json=False)


def test_all_parts_have_the_same_types_and_success_tells_what_they_are(recommender, users, tmp_path):
    out = tmp_path / "lists"
    score(recommender, users, out)
    success = json.loads((out / "_SUCCESS").read_text())
    parts = sorted(out.glob("part-*.parquet"))
    assert [part["file"] for part in success["parts"]] == [part.name for part in parts]
    assert [part["n_users"] for part in success["parts"]] == [8, 8, 8, 8, 8, 1]
    assert success["bundle_version"] == "000001"
    assert sum(part["n_rows"] for part in success["parts"]) == success["n_rows"]
    assert len({str(pq.read_schema(part).remove_metadata()) for part in parts}) == 1
    assert not list(tmp_path.glob(".*"))


def test_users_without_a_segment_have_none(recommender, users, tmp_path):
    score(recommender, users[["user_id"]], tmp_path / "lists")
    assert set(pd.read_parquet(tmp_path / "lists")["segment"].isna()) == {True}
    assert pq.read_schema(tmp_path / "lists" / "part-000000.parquet").field("segment").type == "large_string"


def test_a_segment_is_chosen_by_name(recommender, users, tmp_path):
    report = score(recommender, users, tmp_path / "gold", segment="gold")
    assert report["n_users"] == 20
    assert set(pd.read_parquet(tmp_path / "gold")["segment"]) == {"gold"}


def test_a_filter_and_seen_items_hold_for_everyone(recommender, users, tmp_path):
    score(recommender, users[:40], tmp_path / "lists", filters="colour = 'red'")
    found = pd.read_parquet(tmp_path / "lists")
    colour = world.item_frame().set_index("item_id")["colour"]
    assert set(colour[found["item_id"]]) == {"red"}
    for user, items in found.groupby("user_id")["item_id"]:
        history = recommender.histories[int(recommender.users.to_rows([user])[0])]
        assert not set(items) & set(recommender.item_ids.to_ids(history))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_other_formats_hold_the_same_rows(recommender, users, tmp_path, form):
    score(recommender, users[:10], tmp_path / "one")
    score(recommender, users[:10], tmp_path / "other", format=form)
    read = {"csv": pd.read_csv, "jsonl": lambda file: pd.read_json(file, lines=True)}[form]
    found = pd.concat([read(file) for file in sorted((tmp_path / "other").glob("part-*"))], ignore_index=True)
    wanted = pd.read_parquet(tmp_path / "one")
    assert found[COLUMNS[:4]].astype(str).to_numpy().tolist() == wanted[COLUMNS[:4]].astype(str).to_numpy().tolist()
    np.testing.assert_allclose(found["score"], wanted["score"], rtol=1e-6)


def test_a_folder_of_other_things_is_never_touched(recommender, users, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    for restart in (False, True):
        with pytest.raises(ValueError, match="found files that no batch wrote"):
            score(recommender, users, tmp_path / "photos", restart=restart)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"
    with pytest.raises(ValueError, match="expected a folder or nothing"):
        score(recommender, users, tmp_path / "photos" / "cat.jpg")


def test_a_recommender_without_a_bundle_is_refused(unpublished, users, tmp_path):
    with pytest.raises(ValueError, match="expected a recommender loaded from a bundle"):
        score(unpublished, users, tmp_path / "lists")


@pytest.mark.parametrize("bad", [{"format": "xml"}, {"chunk_users": 0}, {"chunk_users": True}, {"k": 0}, {"k": 1001}])
def test_bad_options_are_refused(bad):
    with pytest.raises(ValueError, match=r"(format|chunk_users|k): expected"):
        BatchOptions(**bad)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-k", "0"], "k: expected a whole number from 1 to 1000, got 0"),
        (["--filter", "colour ="], "filter"),
        (["--filter", "shade = 'red'"], "filter: expected a column of the item table"),
        (["--filter", "size < 'red'"], "filter: expected a number to compare 'size'"),
    ],
)
@pytest.mark.parametrize("command", [cli.main, batch_score.main], ids=["tandem batch", "batch_score.py"])
def test_a_bad_k_or_filter_is_refused_before_anything_is_written(
    bundle, users, tmp_path, capsys, command, arguments, said
):
    users.to_csv(tmp_path / "users.csv", index=False)
    place = ["--users", str(tmp_path / "users.csv"), "--out", str(tmp_path / "out" / "lists")]
    verb = ["batch"] if command is cli.main else []
    rejects = ["--rejects", str(tmp_path / "rejects.jsonl")]
    assert command([*verb, str(bundle), *place, *rejects, *arguments]) == 2
    assert said in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["users.csv"]
