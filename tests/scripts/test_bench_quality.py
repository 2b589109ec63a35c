"""The quality benchmark: a line per data set with the agreed keys, resumed from what is kept, open about failures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from retrieval.benchmark import read_folder, repeats_matter
from retrieval.data import repeat_share
from retrieval.kept_lists import read_lists, write_lists
from retrieval.report_benchmark import plot_benchmark, render_markdown, stage_order
from retrieval.stage_figures import Rankings
from scripts import bench_quality
from tests import world

KEYS = {
    "dataset", "split", "n_users", "ndcg10", "recall100", "cold", "final_vs", "oracle", "segments", "seconds", "seeds",
    "yardsticks", "best_baseline", "final_over_best", "candidates_over_ease", "ms_per_user", "keep_seen",
}  # fmt: skip
STAGES = {"popularity", "neighbours", "ease", "content", "lexical", "dense", "recall", "fusion", "final"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world as a data folder, with segments."""
    folder = tmp_path_factory.mktemp("data") / "rings"
    folder.mkdir()
    world.item_frame().to_parquet(folder / "items.parquet", index=False)
    taken = world.interaction_frame()
    taken.to_parquet(folder / "interactions.parquet", index=False)
    users = pd.DataFrame({"user_id": sorted(set(taken["user_id"]))})
    users["segment"] = users["user_id"].str.split("-").str[0]
    users.to_parquet(folder / "users.parquet", index=False)
    return folder


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world's configuration, with few passes."""
    return world.write_files(tmp_path_factory.mktemp("files")).config


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], config_file: Path):
    """Runs the script: exit code, the JSON lines, what it said."""

    def call(*arguments: object):
        capsys.readouterr()
        fixed = ["--json", "--config", config_file, "--set", "head_training.max_passes=3"]
        code = bench_quality.main([str(argument) for argument in [*fixed, *arguments]])
        printed, said = capsys.readouterr()
        return code, [json.loads(line) for line in printed.splitlines()], said

    return call


@pytest.fixture(scope="module")
def options(folder: Path, out: Path) -> list[object]:
    return [
        "--data", folder, "--seeds", 2, "--cold-items", 0.2, "--out", out,
        "--no-yardsticks", "als", "bpr", "sasrec", "neighbours_tuned",
    ]  # fmt: skip


def test_a_line_has_the_agreed_keys_and_the_next_run_trains_nothing(run, options, out, tmp_path):
    code, lines, said = run(*options)
    assert code == 0
    (line,) = lines
    assert set(line) >= KEYS
    assert set(line["ndcg10"]) >= STAGES | {"neighbours_only", "ease_tuned"}
    assert set(line["recall100"]) == set(line["ndcg10"]) | {"candidates"}
    assert set(line["final_vs"]) == set(line["ndcg10"]) - {"final"}
    assert line["seeds"]["n"] == 2
    assert line["seeds"]["ndcg10"]["ease_tuned"]["deviation"] == 0  # nothing random in it
    assert line["oracle"] >= line["ndcg10"]["final"]
    assert set(line["segments"]["segment"]) == set(world.TOPICS)
    assert set(line["seconds"]) >= {"train_encoder", "build", "train_reranker", "evaluate"}
    assert line["final_over_best"] == pytest.approx(line["ndcg10"]["final"] / line["ndcg10"][line["best_baseline"]])
    assert line["yardsticks"]["ease_tuned"]["settings"]["decay"] > 0
    assert said.count("train the recall head") == 3  # two seeds, and the run with cold items

    again_code, again, told = run(*options, "--markdown", tmp_path / "tables.md", "--plot", tmp_path / "plot.png")
    assert again_code == 0
    assert "train the recall head" not in told
    for found in (line, again[0]):
        found["seconds"].pop("benchmark")
    assert again == lines
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "| ease_tuned |" in (tmp_path / "tables.md").read_text()
    assert json.loads((out / "rings-leave-last-out.json").read_text())["ndcg10"] == line["ndcg10"]


def test_methods_without_text_find_no_cold_item_and_neighbours_borrow(run, options):
    _, lines, _ = run(*options)  # kept by the test before, or made now
    cold = lines[0]["cold"]
    assert cold["n_users"] > 0
    for stage in ("ease", "popularity"):
        assert cold["ndcg10"][stage] < 0.05, stage
    assert cold["ndcg10"]["neighbours"] > 0.2
    assert cold["recall100"]["content"] > 0


def test_other_settings_are_not_mistaken_for_kept_ones(run, options, folder, out):
    arguments = ["--data", folder, "--out", out, "--no-yardsticks", "--set", "use_reranker=false"]
    _, lines, said = run(*arguments)
    assert said.count("train the recall head") == 1
    assert lines[0]["reranker"] is None


@pytest.mark.parametrize("change", ["title", "timestamp"])
def test_lists_of_other_texts_or_times_are_not_mistaken_for_kept_ones(run, folder, tmp_path, change):
    data = Path(shutil.copytree(folder, tmp_path / "rings"))
    arguments = ["--data", data, "--out", tmp_path / "out", "--set", "use_reranker=false", "--max-users", 4]
    arguments += ["--no-yardsticks", "als", "bpr", "sasrec", "neighbours_tuned", "neighbours_only"]
    assert "fit on validation" in run(*arguments)[2]
    assert "fit on validation" not in run(*arguments)[2]
    table = data / ("items.parquet" if change == "title" else "interactions.parquet")
    frame = pd.read_parquet(table)
    frame[change] += "!" if change == "title" else 1_000
    frame.to_parquet(table, index=False)
    assert "fit on validation" in run(*arguments)[2]


def test_a_data_set_that_cannot_be_measured_has_a_line_that_says_why(run, folder, tmp_path):
    code, lines, _ = run("--data", tmp_path / "missing", "--no-yardsticks")
    assert code == 2
    assert "expected items.parquet (or .csv, .jsonl) in" in lines[0]["error"]


def test_unknown_yardsticks_are_refused(run, folder):
    code, lines, said = run("--data", folder, "--no-yardsticks", "magic")
    assert (code, lines) == (2, [])
    assert "--no-yardsticks: expected some of neighbours_only" in said


def test_yardsticks_are_left_out_by_name_or_all_together():
    assert bench_quality.yardsticks_but([]) == ()
    assert "sasrec" in bench_quality.yardsticks_but(None)
    assert "sasrec" not in bench_quality.yardsticks_but(["sasrec"])


def test_a_folder_is_read_with_its_segments(folder):
    data = read_folder(folder)
    assert data.name == "rings"
    assert data.segments is not None
    assert data.segments[world.user_id("toy", 3)] == "toy"


def test_repeats_matter_where_people_buy_again(folder):
    data = read_folder(folder)
    assert not repeats_matter(data.interactions, "leave-last-out")
    items = world.make_items()
    taken = pd.DataFrame({"user_id": ["a"] * 3 + ["b"] * 3, "item_id": [items.ids.ids[0]] * 6, "timestamp": range(6)})
    again = world.make_interactions(items, taken)
    assert repeat_share(again) == 1
    assert repeats_matter(again, "leave-last-out")


def test_kept_lists_come_back_as_they_were(tmp_path):
    rankings = Rankings({"final": np.array([[3, -1]]), "ease": np.array([[1, 2]])}, np.array([0.5]), {"rank_ease": 1.5})
    assert read_lists(tmp_path / "a") is None
    write_lists(tmp_path / "a", rankings, {"reranker": None})
    found = read_lists(tmp_path / "a")
    assert found is not None
    assert {name: rows.tolist() for name, rows in found[0].ranked.items()} == {"final": [[3, -1]], "ease": [[1, 2]]}
    assert found[0].candidate_recall.tolist() == [0.5]
    assert found[0].seconds == {"rank_ease": 1.5}
    (tmp_path / "a.json").unlink()
    assert read_lists(tmp_path / "a") is None


def line(name: str, **more: object) -> dict:
    interval = {"diff": 0.02, "low": 0.01, "high": 0.03, "p": 0.001, "p_holm": 0.004}
    return {
        "dataset": name, "split": "time", "n_users": 1234,
        "ndcg10": {"ease": 0.1, "fusion": 0.11, "final": 0.12}, "recall100": {"ease": 0.2, "candidates": 0.3},
        "best_baseline": "ease", "final_over_best": 1.2, "candidates_over_ease": 1.5, "oracle": 0.3,
        "final_vs": {"ease": interval, "fusion": interval}, **more,
    }  # fmt: skip


def test_tables_show_deviations_cold_items_and_failures():
    seeds = {"n": 3, "ndcg10": {"final": {"mean": 0.12, "deviation": 0.0014}}}
    cold = {"n_users": 80, "ndcg10": {"final": 0.03}, "recall100": {"final": 0.2}}
    text = render_markdown([line("films", seeds=seeds, cold=cold), {"dataset": "bad", "split": "time", "error": "why"}])
    assert "| final | 0.1200 ± 0.0014 |" in text
    assert "| films, time split | 1,234 | 0.1200 ± 0.0014 | ease 0.1000 | 1.200 |" in text
    assert "+0.0200 (+0.0100 to +0.0300), 0.0040" in text
    assert "| final | 0.0300 / 0.2000 |" in text
    assert text.endswith("bad · time: why\n")


def test_a_plot_needs_figures():
    with pytest.raises(ValueError, match="expected at least one line with figures"):
        plot_benchmark([{"dataset": "bad", "split": "time", "error": "why"}])


def test_baselines_come_first_and_final_last():
    blocks = [{"final": 1, "sasrec": 1, "recall": 1, "ease": 1}, {"popularity": 1, "dense": 1}]
    assert stage_order(blocks) == ["popularity", "ease", "sasrec", "dense", "recall", "final"]
