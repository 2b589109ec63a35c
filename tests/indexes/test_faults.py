"""Publishing survives kill -9, a full disk and a lost power supply: the old version is there, or the new.

TANDEM_LONG_TESTS=1 runs the full numbers (200 kills, 100 sizes).
"""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from indexes import DamagedArtefact
from tests.indexes.world import mark_of, publish_mark

LONG = bool(os.environ.get("TANDEM_LONG_TESTS"))


def drive(scenario: str, root: Path, points: int) -> dict:
    command = [sys.executable, "-m", "tests.indexes.fault_driver", scenario, str(root), str(points)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_publisher_killed_at_any_point_leaves_a_complete_version(tmp_path: Path) -> None:
    points = 200 if LONG else 40
    seen = drive("kill", tmp_path / "root", points)
    assert seen["old"] + seen["new"] == points
    assert seen["new"] >= 1  # some died after the switch
    assert seen["old"] >= points / 2
    assert (seen["debris"], seen["versions"]) == ([], 1)


def test_a_full_disk_fails_the_publisher_and_changes_nothing(tmp_path: Path) -> None:
    points = 100 if LONG else 20
    seen = drive("full", tmp_path / "root", points)
    assert seen["statuses"] == {"4": points + 3 + points}  # while the version is written, and then its pointer
    assert (seen["after"], seen["debris"]) == (2, [])


class PowerLoss:
    """Knows what a disk holds that forgets all that was not synced: contents and directory entries alike."""

    def __init__(self) -> None:
        self.contents: dict[int, bytes] = {}
        self.entries: dict[int, dict[str, int]] = {}
        self.folders: set[int] = set()
        self.held: list[int] = []

    def synced(self, path: Path) -> None:
        number = self.hold(path)
        if path.is_dir():
            self.entries[number] = {child.name: self.hold(child) for child in path.iterdir()}
            self.folders |= {child.stat().st_ino for child in path.iterdir() if child.is_dir()} | {number}
        else:
            self.contents[number] = path.read_bytes()

    def hold(self, path: Path) -> int:
        """Return the inode number of `path`, kept open: a file system gives the number of a removed file away again."""
        self.held.append(os.open(path, os.O_RDONLY))
        return os.fstat(self.held[-1]).st_ino

    def close(self) -> None:
        for descriptor in self.held:
            os.close(descriptor)

    def restart(self, number: int, target: Path) -> None:
        """Write what is left of directory `number`; a file whose content was not synced is empty."""
        target.mkdir()
        for name, inode in self.entries.get(number, {}).items():
            if inode in self.folders:
                self.restart(inode, target / name)
            else:
                (target / name).write_bytes(self.contents.get(inode, b""))

    def restart_with_names(self, root: Path, target: Path) -> None:
        """The same where the disk kept all names but only the synced contents."""
        target.mkdir()
        for entry in os.scandir(root):
            if entry.is_dir():
                self.restart_with_names(Path(entry.path), target / entry.name)
            else:
                (target / entry.name).write_bytes(self.contents.get(entry.inode(), b""))


def test_whatever_was_not_synced_may_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, disk, seen = tmp_path / "root", PowerLoss(), []
    root.mkdir()
    number = root.stat().st_ino
    fsync, rename, replace = os.fsync, os.rename, os.replace
    allowed: list[int] = []

    def crash() -> None:
        for name in ("forgetful", "names"):
            target = tmp_path / name
            shutil.rmtree(target, ignore_errors=True)
            disk.restart(number, target) if name == "forgetful" else disk.restart_with_names(root, target)
            if allowed:
                mark = mark_of(target)
                assert mark in allowed
                seen.append(mark)

    def recorded_fsync(descriptor: int) -> None:
        fsync(descriptor)
        disk.synced(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        crash()

    def recorded(move):
        def moved(*args) -> None:
            move(*args)
            crash()

        return moved

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded(rename))
    monkeypatch.setattr(os, "replace", recorded(replace))
    publish_mark(root, 1, keep=2)
    for mark in (2, 3):
        allowed[:] = [mark - 1, mark]
        publish_mark(root, mark, keep=2)
        allowed[:] = [mark]
        crash()
    disk.close()
    assert len(seen) > 50
    assert {1, 2, 3} == set(seen)


def spoil(data: bytes, kind: str, rng: random.Random) -> bytes:
    """Return damaged bytes, never the same as `data`."""
    if kind == "flip":
        at = rng.randrange(8 * len(data))
        return data[: at // 8] + bytes([data[at // 8] ^ (1 << at % 8)]) + data[at // 8 + 1 :]
    if kind == "cut":
        return data[: rng.randrange(len(data))]
    if kind == "grow":
        return data + b"\0" * rng.randrange(1, 1000)
    start = rng.randrange(len(data))
    page = data[start : start + 4096]
    return data[:start] + bytes(byte ^ 0xFF for byte in page) + data[start + 4096 :]


def test_no_damage_to_any_file_is_ever_served(tmp_path: Path) -> None:
    root, rng = tmp_path / "root", random.Random(0)
    version = publish_mark(root, 1)
    files = [path for path in [*version.rglob("*"), root / "CURRENT"] if path.is_file()]
    kinds = ["flip"] * 800 + ["cut"] * 100 + ["page"] * 50 + ["grow"] * 50
    for number, kind in enumerate(kinds if LONG else kinds[::3]):
        path = files[number % len(files)]
        good = path.read_bytes()
        path.write_bytes(spoil(good, kind, rng))
        with pytest.raises((DamagedArtefact, FileNotFoundError), match=str(root)):
            mark_of(root)
        path.write_bytes(good)
    assert mark_of(root) == 1


def test_files_of_another_version_are_refused(tmp_path: Path) -> None:
    old, new = publish_mark(tmp_path, 1), publish_mark(tmp_path, 2)
    for path in [path for path in new.rglob("*") if path.is_file()]:
        good = path.read_bytes()
        shutil.copyfile(old / path.relative_to(new), path)
        if path.read_bytes() != good:
            with pytest.raises(DamagedArtefact, match=path.name):
                mark_of(tmp_path)
        path.write_bytes(good)
    assert mark_of(tmp_path) == 2
