"""`tandem evaluate` with cold items, seeds, segments and a budget."""

from __future__ import annotations

import json
import sys

import pandas as pd
import pytest

from indexes.files import exclusive
from retrieval import report
from retrieval.cli import main
from tests import world

QUICK = ["--set", "use_reranker=false", "--set", "head_training.max_passes=1", "--quiet"]


def test_cold_items_seeds_and_segments_reach_the_evaluation(tmp_path, capsys):
    files = world.write_files(tmp_path)
    users = pd.DataFrame({"user_id": [world.user_id("toy", number) for number in range(24)], "segment": "toy fans"})
    users.to_csv(tmp_path / "users.csv", index=False)
    arguments = [
        "evaluate", "--items", files.items, "--interactions", files.interactions, "--config", files.config,
        "--cold-items", 0.2, "--seeds", 2, "--users", tmp_path / "users.csv", "--json", tmp_path / "found.json",
    ]  # fmt: skip
    assert main([str(argument) for argument in [*arguments, *QUICK]]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["cold_items"]["n_items"] == 10  # of 48 items that anybody took
    assert found["seeds"]["n"] == 2
    assert found["seeds"]["stages"]["ease"]["ndcg@10"]["deviation"] == 0  # the same items are cold for every seed
    assert found["segments"]["segment"]["toy fans"]["n_users"] == 24
    printed = capsys.readouterr().out
    assert "by segment of the user" in printed
    assert "Deviation over the seeds" in printed


def test_an_impossible_share_of_cold_items_is_bad_input(tmp_path, capsys):
    files = world.write_files(tmp_path)
    arguments = ["--items", files.items, "--interactions", files.interactions, "--config", files.config]
    assert main([str(a) for a in ["evaluate", *arguments, "--cold-items", 1.5, *QUICK]]) == 2
    assert "expected a share between 0 and 1, got 1.5" in capsys.readouterr().err


def test_a_budget_fits_a_bundle(tmp_path, capsys):
    files = world.write_files(tmp_path)
    arguments = ["--items", files.items, "--interactions", files.interactions, "--config", files.config]
    code = main([str(a) for a in ["fit", *arguments, "--out", tmp_path / "bundle", "--budget", 0.1, *QUICK]])
    assert code == 0
    assert (tmp_path / "bundle" / "CURRENT").exists()


def test_a_second_fit_for_the_same_bundle_is_told_at_once(tmp_path, capsys):
    files = world.write_files(tmp_path)
    arguments = ["--items", files.items, "--interactions", files.interactions, "--config", files.config]
    (tmp_path / "bundle").mkdir()
    with exclusive(tmp_path / "bundle" / ".fit.lock") as holder:
        assert holder is None
        code = main([str(a) for a in ["fit", *arguments, "--out", tmp_path / "bundle", *QUICK]])
    assert code == 4
    assert "expected to be the only fit for this bundle, process" in capsys.readouterr().err
    assert not (tmp_path / "bundle" / "CURRENT").exists()


def test_where_an_evaluation_goes_is_made_before_the_work(tmp_path, capsys):
    files = world.write_files(tmp_path)
    arguments = ["--items", files.items, "--interactions", files.interactions, "--config", files.config]
    code = main([str(a) for a in ["evaluate", *arguments, "--json", tmp_path / "new" / "found.json", *QUICK]])
    assert code == 0
    assert (tmp_path / "new" / "found.json").is_file()
    assert main([str(a) for a in ["evaluate", *arguments, "--json", tmp_path / "new", *QUICK]]) == 2
    assert "expected a file to write, got the directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--segment-column", "segment", "expected --users FILE with it, got 'segment'"),
        ("--split", "times", "expected one of leave-last-out, time, got 'times'"),
    ],
)
def test_an_option_that_cannot_be_is_told_before_the_tables_are_read(capsys, option, value, said):
    assert main(["evaluate", "--items", "nowhere.csv", "--interactions", "nowhere.csv", option, value]) == 2
    assert capsys.readouterr().err.startswith(f"error: {option}: {said}")


@pytest.mark.parametrize(
    ("ending", "code", "said"), [("html", 4, 'pip install ".[report]"'), ("pdf", 2, "ends in .html")]
)
def test_a_report_that_cannot_be_made_is_told_before_the_tables_are_read(
    tmp_path, capsys, monkeypatch, ending, code, said
):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"] or ["matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "retrieval.report_plots", raising=False)
    arguments = ["--items", "nowhere.csv", "--interactions", "nowhere.csv", "--report", str(tmp_path / f"r.{ending}")]
    assert main(["evaluate", *arguments]) == code
    assert said in capsys.readouterr().err


def test_the_figures_are_printed_although_the_report_fails(tmp_path, capsys, monkeypatch):
    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "write_report", fails)
    files = world.write_files(tmp_path)
    arguments = ["--items", files.items, "--interactions", files.interactions, "--config", files.config]
    assert main([str(a) for a in ["evaluate", *arguments, "--report", tmp_path / "r.txt", *QUICK]]) == 4
    assert "recall@10" in capsys.readouterr().out
