"""The command as its users meet it: what it prints, on which stream, and the exit codes it ends with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from indexes import DamagedArtefact, Locked
from indexes.files import exclusive
from retrieval.cli import main
from retrieval.exit_codes import Terminated, error_line, exit_code_of, guarded
from retrieval.recommend import Recommender
from retrieval.storage import save_bundle

ROOT = Path(__file__).resolve().parents[2]
EXACT = ("--device", "cpu", "--precision", "float32")
SERVING = ("recommend", "search", "similar", "rerank", "batch", "check", "versions", "rollback")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """Runs a command line: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


# Help


def test_help_imports_nothing_heavy():
    source = """
import sys
from retrieval.cli import main
codes = [main(["--help"]), main(["batch", "--help"]), main(["--version"])]
heavy = {"torch", "faiss", "numpy", "pandas", "pyarrow", "transformers", "scipy"} & set(sys.modules)
assert (codes, heavy) == ([0, 0, 0], set()), (codes, heavy)
"""
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Exit codes: 0 done, 2 bad input" in done.stdout


@pytest.mark.parametrize("verb", SERVING)
def test_the_help_of_every_verb_shows_an_example(run, verb):
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert f"\n  tandem {verb} bundle" in out


def test_without_a_verb_the_help_goes_to_stderr_and_the_code_is_2(run):
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "Usage: tandem" in err


# Exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("x"), 2),
        (KeyError("x"), 2),
        (FileNotFoundError("x"), 2),
        (NotADirectoryError("x"), 2),
        (DamagedArtefact("file", "x"), 3),
        (Locked("x"), 4),
        (OSError(28, "No space left on device"), 4),
        (MemoryError(), 4),
        (ImportError("pip install"), 4),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
        (Terminated(), 143),
        (RuntimeError("x"), 1),
    ],
)
def test_every_class_of_error_has_its_code(error, code):
    assert exit_code_of(error) == code


def test_a_full_gpu_is_a_want_of_resources():
    import torch

    assert exit_code_of(torch.OutOfMemoryError("CUDA out of memory")) == 4


def test_an_error_is_one_line_without_control_characters():
    assert error_line(ValueError("a\nb\x1b[31m\u2028c")) == "a b [31m c"
    assert error_line(KeyError("unknown id")) == "unknown id"
    assert error_line(MemoryError()) == "MemoryError"


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interr")]
)
def test_a_signal_ends_the_call_after_its_clean_up(capsys, number, code, said):
    cleaned = []

    def call() -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            cleaned.append(True)
        return 0

    # A shell that starts its tests in the background has them ignore Ctrl-C.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert guarded(call) == code
    finally:
        signal.signal(signal.SIGINT, interrupt)
    assert cleaned == [True]
    assert f"error: {said}" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("pipe", "code"), [("| true", 141), ("> /dev/full", 4)])
def test_output_that_cannot_be_written_is_no_success(pipe, code):
    command = f"set -o pipefail; {sys.executable} -m retrieval.cli config {pipe}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["recommend", "{bundle}", "--user", "toy-fan-01", "-k", "0"],
            "k: expected a whole number from 1 to 1000, got 0",
        ),
        (["recommend", "{bundle}"], "expected a user_id or a history"),
        (["recommend", "{bundle}", "--user", "toy-fan-01", "--filter", "colour ="], "filter"),
        (["recommend", "{bundle}", "--user", "\u202eevil"], "invisible character"),
        (
            ["recommend", "{bundle}", "--user", "x", "--device", "tpu"],
            "--device: expected auto, cpu or cuda, got 'tpu'",
        ),
        (["recommend", "{bundle}", "--user", "x", "--precision", "int8"], "--precision: expected"),
        (["recommend", "{bundle}", "--history", "[1, 2.5]"], "--history: id is float"),
        (["recommend", "nowhere", "--user", "toy-fan-01"], "nowhere: expected manifest.json or CURRENT"),
        (["similar", "{bundle}", "nothing"], "1 unknown: nothing"),
        (["search", "{bundle}", "  "], "search: expected some text"),
        (["rerank", "{bundle}", "--history", "toy-01"], "expected candidates, got none; give them as --items"),
        (["rerank", "{bundle}", "--items", "toy-01,toy-01"], "expected distinct candidates"),
        (["batch", "{bundle}", "--users", "nowhere.csv", "--out", "lists"], "nowhere.csv: expected a file"),
        (["batch", "{bundle}", "--users", "u.csv", "--out", "x", "--map", "user_id"], "--map: expected NAME=COLUMN"),
        (["check", "nowhere"], "nowhere: expected"),
        (["rollback", "{bundle}"], "expected an intact version before the current one"),
        (["rollback", "{bundle}", "--to", "7"], "got '000007'"),
        (["recommend", "{bundle}", "--usr", "1"], "see tandem recommend --help"),
        (["recommed", "{bundle}"], "see tandem --help"),
        (["search", "{bundle}"], "see tandem search --help"),
    ],
)
def test_bad_input_is_one_line_and_code_2(run, bundle, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*[part.replace("{bundle}", str(bundle)) for part in arguments])
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err


def test_a_flipped_byte_in_any_file_of_a_bundle_is_code_3(run, own_bundle):
    files = [file for file in (own_bundle / "versions" / "000001").rglob("*") if file.is_file()]
    assert len(files) > 15
    for file in files:
        whole = file.read_bytes()
        place = len(whole) // 2
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        code, out, err = run("check", own_bundle)
        assert (code, out) == (3, ""), file
        assert file.name in err
        file.write_bytes(whole)
    assert run("check", own_bundle)[0] == 0


def test_a_damaged_bundle_is_not_served(run, own_bundle):
    titles = own_bundle / "versions" / "000001" / "items.parquet"
    titles.write_bytes(titles.read_bytes()[:-1])
    code, out, err = run("recommend", own_bundle, "--user", "toy-fan-01")
    assert (code, out) == (3, "")
    assert err.startswith(f"error: {titles}: expected")


def test_a_bundle_that_somebody_publishes_is_code_4(run, own_bundle):
    with exclusive(own_bundle / ".lock"):
        code, _, err = run("rollback", own_bundle)
    assert code == 4
    assert f"locked by process {os.getpid()}" in err


def test_a_traceback_is_shown_only_when_asked_for(run, monkeypatch):
    assert "Traceback" not in run("check", "nowhere")[2]
    monkeypatch.setenv("TANDEM_TRACEBACK", "1")
    assert "Traceback" in run("check", "nowhere")[2]


# What is printed


def test_recommend_prints_what_the_recommender_answers(run, bundle, recommender):
    code, out, err = run("recommend", bundle, "--user", "toy-fan-01", "-k", 4, "--json", *EXACT)
    document = json.loads(out)
    wanted = recommender.recommend("toy-fan-01", k=4)
    assert (code, err) == (0, "")
    assert [item["item_id"] for item in document["items"]] == wanted.item_ids
    assert [item["score"] for item in document["items"]] == [item.score for item in wanted]
    assert document["bundle_version"] == "000001"


def test_recommend_shows_titles_under_what_the_user_took_last(run, bundle, recommender):
    _, out, _ = run("recommend", bundle, "--user", "toy-fan-01", "-k", 3, *EXACT)
    lines = out.splitlines()
    row = int(recommender.users.to_rows(["toy-fan-01"])[0])
    newest = recommender.model.catalogue.titles[recommender.histories[row][-1]]
    assert lines[0].startswith(f"user toy-fan-01: 6 items, the newest: {newest}; ")
    assert lines[2].split() == ["rank", "score", "item_id", "title", "found", "by"]
    first = recommender.recommend("toy-fan-01", k=1)[0]
    assert lines[3].split()[0] == "1"
    assert f"{first.item_id}  {first.title}" in " ".join(lines[3].split(" ")).replace("   ", "  ")


def test_a_history_may_come_in_one_option_or_item_by_item(run, bundle):
    whole = run("recommend", bundle, "--history", "toy-01,toy-02", "--json", *EXACT)[1]
    assert run("recommend", bundle, "--item", "toy-01", "--item", "toy-02", "--json", *EXACT)[1] == whole
    assert run("recommend", bundle, "--history", '["toy-01", "toy-02"]', "--json", *EXACT)[1] == whole


def test_what_was_not_as_asked_is_said(run, bundle):
    out = run("recommend", bundle, "--history", "toy-01,zzz")[1]
    assert "1 items of the history are not in the catalogue and were left out: zzz (ids" in out
    assert "unknown user 'stranger': the most popular items" in run("recommend", bundle, "--user", "stranger")[1]
    few = ("search", bundle, "cat", "--filter", "colour = 'new'")
    assert run(*few)[1].endswith("\nnote: only 4 of the 10 items asked for fit\n")
    assert json.loads(run(*few, "--json")[1])["note"] == "only 4 of the 10 items asked for fit"


def test_a_filter_that_nothing_passes_gives_an_empty_list(run, bundle):
    code, out, _ = run("recommend", bundle, "--user", "toy-fan-01", "--filter", "colour = 'pink'")
    assert (code, out.splitlines()[-1]) == (0, "note: no item fits; is the filter too narrow?")


def test_explain_gives_sentences_and_both_scores(run, bundle):
    _, out, _ = run("recommend", bundle, "--user", "toy-fan-01", "--explain")
    assert out.splitlines()[2].split() == ["rank", "score", "item_id", "title", "recall", "rerank", "why"]
    assert "found by" in out


def test_search_similar_and_rerank_print_what_the_recommender_answers(run, bundle, recommender):
    for arguments, wanted in [
        (["search", bundle, "a red cat", "-k", 3, "--device", "cpu"], recommender.search("a red cat", k=3)),
        (["similar", bundle, "toy-01", "-k", 3, "--device", "cpu"], recommender.similar("toy-01", k=3)),
        (
            ["rerank", bundle, "--history", "toy-01", "--items", "film-01,toy-02", "--candidate", "toy-03", *EXACT],
            recommender.rerank(["toy-01"], ["film-01", "toy-02", "toy-03"]),
        ),
        (
            ["rerank", bundle, "--user", "toy-fan-01", "--items", "film-01,toy-02", *EXACT],
            recommender.rerank(None, ["film-01", "toy-02"], user_id="toy-fan-01"),
        ),
    ]:
        document = json.loads(run(*arguments, "--json")[1])
        assert [item["item_id"] for item in document["items"]] == wanted.item_ids
        assert all(item.title in run(*arguments)[1] for item in wanted)


def test_check_tells_what_the_bundle_is(run, bundle):
    code, out, _ = run("check", bundle)
    assert code == 0
    assert "intact" in out.splitlines()[0]
    assert json.loads(run("check", bundle, "--json")[1])["n_items"] == 52


def test_rollback_makes_the_version_before_current_again(run, own_bundle, recommender):
    save_bundle(own_bundle, recommender)
    assert [row["current"] for row in json.loads(run("versions", own_bundle, "--json")[1])["versions"]] == [False, True]
    code, out, _ = run("rollback", own_bundle)
    assert (code, out) == (0, f"{own_bundle}/versions/000001\n")
    assert run("versions", own_bundle)[1].splitlines()[1].split()[:2] == ["*", "000001"]
    assert run("rollback", own_bundle, "--to", "2")[0] == 0
    assert Recommender.load(own_bundle, device="cpu").facts["previous_version"] == "000001"
