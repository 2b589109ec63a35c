"""The built wheel: exactly the three packages and the command, and it works from where it is installed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    pytest.importorskip("hatchling", reason="builds the wheel; it is in the extra `test`")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def read(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = [entry for entry in archive.namelist() if entry.endswith(f".dist-info/{name}")]
        return archive.read(entry).decode()


def test_it_holds_the_three_packages_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"retrieval", "rerank", "indexes"}
    shipped = {name for name in names if name.endswith(".py")}
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in ("retrieval", "rerank", "indexes")
        for path in (ROOT / package).rglob("*.py")
    }
    assert shipped == sources
    assert not [name for name in names if "__pycache__" in name or "test" in name.split("/")[-1]]


def test_it_brings_the_command_and_the_requirements(wheel):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "tandem = retrieval.cli:main" in read(wheel, "entry_points.txt").splitlines()
    metadata = read(wheel, "METADATA").splitlines()
    assert f"Name: {project['name']}" in metadata
    assert f"Version: {project['version']}" in metadata
    required = [line for line in metadata if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert len(required) == len(project["dependencies"])


def test_installed_elsewhere_it_serves_a_bundle(wheel, bundle, tmp_path):
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile"]
    pip += ["--disable-pip-version-check", "--target", str(target), str(wheel)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (target / "bin" / "tandem").is_file()
    source = f"""
import sys
sys.path.insert(0, {str(target)!r})
import indexes, rerank, retrieval
from retrieval.cli import main
assert all(module.__file__.startswith({str(target)!r}) for module in (indexes, rerank, retrieval))
assert main(["--version"]) == 0
sys.exit(main(["recommend", {str(bundle)!r}, "--user", "toy-fan-01", "-k", "3"]))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", source], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert done.stdout.startswith(f"tandem {version}\nuser toy-fan-01: 6 items")
