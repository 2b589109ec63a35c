"""An index can be tried in a process of its own before it is trusted here."""

import subprocess
import sys
from pathlib import Path

import pytest

from indexes import DamagedArtefact, build_exact, save_index
from indexes.check import check_apart, main
from tests.indexes.contract import make_vectors


def save(directory: Path) -> Path:
    save_index(build_exact(make_vectors(300, 8)), directory)
    return directory


def test_an_intact_index_passes(tmp_path: Path) -> None:
    check_apart(save(tmp_path / "index"))


def test_a_damaged_index_is_refused_with_the_file_named(tmp_path: Path) -> None:
    path = save(tmp_path / "index") / "index.faiss"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        DamagedArtefact, match=r"could not load it \(error: .*index\.faiss: expected 9645 bytes, got 9644"
    ):
        check_apart(tmp_path / "index")


def test_one_that_takes_too_much_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "index")
    with pytest.raises(DamagedArtefact, match=r"expected it to load within 0\.01 s"):
        check_apart(tmp_path / "index", timeout_s=0.01)
    with pytest.raises(DamagedArtefact, match="a process of its own could not load it"):
        check_apart(tmp_path / "index", memory_bytes=30_000_000)


def test_the_command_says_what_it_found_by_its_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "indexes.check", str(save(tmp_path / "index"))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert result.stdout == f"{tmp_path / 'index'}: intact, exact, 300 items of 8 dimensions\n"
    assert main([str(tmp_path / "nowhere")]) == 2
    assert main([]) == 2
    (tmp_path / "index" / "added").write_text("x")
    assert main([str(tmp_path / "index")]) == 3
    assert "added: expected no such file" in capsys.readouterr().err
