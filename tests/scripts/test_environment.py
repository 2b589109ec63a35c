"""The bootstrap's refusals: what it says on a machine where it cannot work. Its success is what runs these tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path):
    """A checkout with a space in its path that holds only what the bootstrap reads."""
    root = tmp_path / "a checkout"
    (root / "scripts").mkdir(parents=True)
    for name in ("pyproject.toml", "scripts/environment.sh", "scripts/constraints.txt"):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.fixture
def bare_path(tmp_path):
    """A PATH with the tools the bootstrap needs and no Python at all."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("bash", "dirname", "uname", "sed", "tr", "sort", "paste"):
        (folder / tool).symlink_to(shutil.which(tool) or tool)
    return folder


def run(checkout: Path, path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(path / "bash"), str(checkout / "scripts/environment.sh"), "test"],
        cwd="/", env={"PATH": str(path), "HOME": str(checkout), **settings},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_no_python_is_said_with_what_to_do(checkout, bare_path):
    done = run(checkout, bare_path)
    assert done.returncode == 4
    assert "found no Python 3.11 or newer (tried: python3.11 python3.12" in done.stderr
    assert "TANDEM_PYTHON=/path/to/python3" in done.stderr
    assert done.stdout == ""
    assert not (checkout / ".venv").exists()


def test_a_name_that_does_not_run_is_passed_over(checkout, bare_path):
    for name in ("python3.11", "python3"):
        (bare_path / name).write_text("#!/bin/sh\nexit 127\n")
        (bare_path / name).chmod(0o755)
    assert "found no Python 3.11" in run(checkout, bare_path).stderr


def test_a_wrong_choice_of_python_is_not_replaced_by_another(checkout, bare_path):
    os.symlink(sys.executable, bare_path / "python3")
    done = run(checkout, bare_path, TANDEM_PYTHON="/no/such/python")
    assert done.returncode == 4
    assert "TANDEM_PYTHON=/no/such/python is no Python 3.11 or newer that runs" in done.stderr
