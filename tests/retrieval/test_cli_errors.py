"""What the command says when something is wrong: one line, the code a scheduler needs, and before any work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from indexes import list_versions
from retrieval.cli import main
from retrieval.exit_codes import error_line, exit_code_of
from tests import world

ROOT = Path(__file__).resolve().parents[2]


def test_a_full_disk_is_a_want_of_resources_whoever_tells_it():
    told = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    for error in (told, OSError(28, "No space left on device", "x.parquet")):
        line = error_line(error)
        assert exit_code_of(error) == 4
        assert line.startswith("expected room on the disk, got none")
        assert line.endswith("free some and give the command again")
    missing = SafetensorError("Error while serializing: I/O error: No such file or directory (os error 2)")
    assert exit_code_of(missing) == exit_code_of(FileNotFoundError(2, "x")) == 2


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            "pass the file's encoding, for example encoding='latin-1'",
            "pass the file's encoding, for example --encoding latin-1",
        ),
        ("mend them or pass on_duplicate='last' (or 'first')", "mend them or pass --on-duplicate last (or 'first')"),
        ("--map users.user_id=COLUMN, in Python column_map={'user_id': 'COLUMN'}.", "--map users.user_id=COLUMN."),
        ("device='cuda': no CUDA device", "--device cuda: no CUDA device"),
    ],
)
def test_an_error_speaks_of_options_and_not_of_arguments(error, line):
    assert error_line(ValueError(error)) == line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("index move {bundle} --to foo", "--to: expected one of milvus, auto, exact, "),
        (
            "index move {bundle} --to milvus",
            "--uri: expected with --to milvus, got none; give http://HOST:19530, or FILE",
        ),
        (
            "index move {bundle} --to exact --uri x.db",
            "--uri: expected only with --to milvus, got 'x.db' with --to exact",
        ),
        ("rollback {bundle}", "expected an intact version before the current one, but 000001 is the only one"),
        ("rollback {bundle} --to 7", "--to: expected a version that is kept (000001), got '000007'"),
    ],
)
def test_a_choice_that_is_not_there_names_those_that_are(bundle, capsys, arguments, said):
    assert main(arguments.format(bundle=bundle).split()) == 2
    assert said in capsys.readouterr().err


def test_what_there_is_nothing_to_say_of_is_left_out_or_said(bundle, capsys):
    assert main(["index", "clean", str(bundle)]) == 0
    assert capsys.readouterr().err.startswith("nothing to delete")
    assert main(["check", str(bundle)]) == main(["versions", str(bundle)]) == 0
    printed = capsys.readouterr().out
    assert "None" not in printed
    assert printed.splitlines()[-2].split() == ["version", "items", "users", "validation", "ndcg@10"]


# Before anything heavy

_COMMANDS = """
import os, sys
from retrieval.cli import main
os.chdir(sys.argv[1])
for line in sys.stdin.read().splitlines():
    code = main(line.split())
    print("\\n@", code, *sorted({"torch", "transformers", "sentence_transformers"} & set(sys.modules)), flush=True)
"""


def after_commands(directory: Path, *lines: str) -> list[str]:
    """Per command line, run one after another in a new process: its exit code and what heavy was imported by then."""
    command = [sys.executable, "-c", _COMMANDS, str(directory)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, input="\n".join(lines), env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    return [line.removeprefix("@ ") for line in done.stdout.splitlines() if line.startswith("@ ")]


def test_a_mistake_is_told_without_torch(own_bundle: Path, tmp_path: Path) -> None:
    files = world.write_files(tmp_path)
    fit = f"fit --items {files.items} --interactions {files.interactions} --out new"
    lines = [
        "check nope",
        "versions nope",
        "recommend bundle -k 0 --user a",
        "recommend nope --user a",
        "recommend bundle",
        "recommend bundle --user a --filter colour=",
        "recommend bundle --history [1,2.5]",
        "search nope cat",
        "batch bundle --users nope.csv --out lists",
        "batch bundle --users items.csv --out lists --map user=item_id",
        f"{fit} --set rerank.n_layers=2",
        f"{fit} --config nope.toml",
        f"{fit} --map users=item_id",
        f"{fit} --map user_id=nope",
        f"{fit} --device tpu",
        fit.replace("items.csv", "itemz.csv"),
        fit.replace("fit", "evaluate", 1).replace("--out new", "--set rerank.n_layers=2"),
        f"train-reranker bundle --items {files.items} --interactions {files.interactions} --set rerank.n_layers=2",
        "build-index nope --items items.csv",
        "build-index bundle --items nope.csv",
        "index move nope --to exact",
        f"{fit} --out /proc/bundle",
        f"{fit} --out bundle/versions/000001",
        "build-index bundle/versions/000001 --items items.csv",
        f"train-reranker bundle/versions/000001 --items {files.items} --interactions {files.interactions}",
    ]
    assert dict(zip(lines, after_commands(tmp_path, *lines), strict=True)) == dict.fromkeys(lines, "2")
    assert not (tmp_path / "new").exists()


def test_tables_that_would_empty_a_bundle_train_no_reranker(own_bundle, tmp_path, capsys):
    files = world.write_files(tmp_path)
    few = world.interaction_frame()
    few[few["user_id"].str.startswith("toy")].to_parquet(tmp_path / "few.parquet")
    train = ["train-reranker", str(own_bundle), "--items", str(files.items), "--interactions"]
    assert main([*train, str(tmp_path / "few.parquet"), "-q"]) == 2
    assert "--interactions: expected most of the bundle's" in capsys.readouterr().err
    assert main([*train, str(files.interactions), "--set", "use_reranker=false", "-q"]) == 2
    assert "use_reranker: expected true" in capsys.readouterr().err
    assert [version.name for version in list_versions(own_bundle)] == ["000001"]


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path, capsys):
    files = world.write_files(tmp_path)
    tables = ["--items", str(files.items), "--interactions", str(files.interactions), "-q"]
    for arguments, said in (
        (["evaluate", "--json", "/proc/e.json"], "--json: expected a place to write, got '/proc/e.json'"),
        (["evaluate", "--json", f"{files.items}/e.json"], "--json: expected a place to write, got"),
        (["evaluate", "--report", "/proc/e.txt"], "--report: expected a place to write, got '/proc/e.txt'"),
        (["fit", "--out", str(tmp_path / "new"), "--rejects", str(files.items)], "--rejects: expected a folder, got"),
    ):
        assert main([arguments[0], *tables, *arguments[1:]]) == 2
        assert capsys.readouterr().err.startswith(f"error: {said}")


def test_a_template_that_names_no_column_is_refused(tmp_path, capsys):
    files = world.write_files(tmp_path)
    fit = ["fit", "--items", str(files.items), "--interactions", str(files.interactions), "-q"]
    fit += ["--config", str(files.config), "--out", str(tmp_path / "new")]
    assert main([*fit, "--set", "text.item_template={title} {colours}"]) == 2
    err = capsys.readouterr().err
    assert "text.item_template: expected a column of the items (item_id, title, " in err
    assert err.endswith("in braces, got ['colours']\n")


def test_damage_is_told_as_json_too(own_bundle, capsys):
    titles = own_bundle / "versions" / "000001" / "items.parquet"
    titles.write_bytes(titles.read_bytes()[:-1])
    assert main(["check", str(own_bundle), "--json"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["intact"] is False
    assert err == f"error: {json.loads(out)['error']}\n"


def test_a_want_of_permission_says_what_to_look_at():
    error = PermissionError(13, "Permission denied", "bundle/.lock")
    assert error_line(error) == (
        "bundle/.lock: expected to be allowed to read or write it, got: Permission denied; see its permissions"
    )
    assert exit_code_of(error) == 4


def test_a_bundle_is_checked_and_rolled_back_without_torch(own_bundle: Path, tmp_path: Path) -> None:
    lines = ["check bundle", "versions bundle", "rollback bundle", "rollback bundle --to 1", "config"]
    assert after_commands(tmp_path, *lines) == ["0", "0", "2", "0", "0"]


def test_it_runs_as_a_module_too():
    done = subprocess.run(
        [sys.executable, "-m", "retrieval", "similar", "nowhere", "1"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nowhere: expected manifest.json or CURRENT in it")
