"""Versions: published, found, rolled back, locked and pruned."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from indexes import (
    DamagedArtefact,
    LiveIndex,
    Locked,
    build_exact,
    list_versions,
    publish,
    read_manifest,
    resolve,
    rollback,
    save_index,
    save_live,
    verify_directory,
)
from tests.indexes.contract import make_vectors
from tests.indexes.world import mark_of, publish_mark

HOLD_LOCK = """
import sys
from pathlib import Path
from indexes import publish
def fill(directory):
    (directory / "file").write_text("x")
    print("filling", flush=True)
    sys.stdin.read()
publish(sys.argv[1], fill, facts={})
"""


def write_file(directory: Path) -> None:
    (directory / "file.txt").write_text("content")


def test_a_published_version_is_current_and_its_facts_can_be_read(tmp_path: Path) -> None:
    version = publish(tmp_path / "root", write_file, facts={"dim": 4, "model": "sha256:abc"})
    assert resolve(tmp_path / "root") == resolve(version) == version
    assert read_manifest(version).facts == {"dim": 4, "model": "sha256:abc", "previous_version": None}
    assert list(verify_directory(version).files) == ["file.txt"]


def test_facts_may_be_collected_while_filling(tmp_path: Path) -> None:
    facts: dict = {}

    def fill(directory: Path) -> None:
        write_file(directory)
        facts["ndcg"] = 0.5

    assert read_manifest(publish(tmp_path, fill, facts=facts)).facts["ndcg"] == 0.5


def test_what_is_made_of_a_version_is_published_only_while_that_is_current(tmp_path: Path) -> None:
    first = publish(tmp_path, write_file, facts={})
    second = publish(tmp_path, write_file, facts={}, based_on=first)
    filled = []
    with pytest.raises(Locked, match="expected 000001 to be current, another version was published meanwhile"):
        publish(tmp_path, filled.append, facts={}, based_on=first)
    assert (resolve(tmp_path), list_versions(tmp_path), filled) == (second, [first, second], [])


def test_nothing_is_published_inside_a_version(tmp_path: Path) -> None:
    version = publish(tmp_path, write_file, facts={})
    with pytest.raises(ValueError, match="expected the root of a bundle, got one version of it; it never changes"):
        publish(version, write_file, facts={})
    verify_directory(version)


def test_only_the_newest_versions_are_kept(tmp_path: Path) -> None:
    for mark in range(5):
        publish_mark(tmp_path, mark, keep=2)
    assert [version.name for version in list_versions(tmp_path)] == ["000004", "000005"]


def test_readers_see_whole_versions_while_new_ones_are_published(tmp_path: Path) -> None:
    publish_mark(tmp_path, 0)
    seen: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(mark_of(tmp_path))

    reader = threading.Thread(target=read)
    reader.start()
    for mark in range(1, 9):
        publish_mark(tmp_path, mark, keep=100)
    done.set()
    reader.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 1


def test_what_lies_in_the_way_of_a_number_is_passed_over(tmp_path: Path) -> None:
    publish_mark(tmp_path, 1)
    (tmp_path / "versions" / "000002").mkdir()
    (tmp_path / "versions" / "000002" / "half").write_text("deleted by hand")
    assert publish_mark(tmp_path, 2).name == "000003"
    assert mark_of(tmp_path) == 2


def test_a_fill_that_fails_changes_nothing(tmp_path: Path) -> None:
    publish_mark(tmp_path, 1)

    def fail(directory: Path) -> None:
        write_file(directory)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        publish(tmp_path, fail, facts={})
    assert mark_of(tmp_path) == 1
    assert [path.name for path in (tmp_path / "versions").iterdir()] == ["000001"]


def test_rollback_returns_to_the_version_before(tmp_path: Path) -> None:
    for mark in (1, 2, 3):
        publish_mark(tmp_path, mark)
    rollback(tmp_path)
    assert mark_of(tmp_path) == 2
    publish_mark(tmp_path, 4)
    rollback(tmp_path)  # 4 replaced 2; 3 had been withdrawn
    assert mark_of(tmp_path) == 2
    rollback(tmp_path, to="000003")
    assert mark_of(tmp_path) == 3


def test_rollback_passes_over_damaged_versions(tmp_path: Path) -> None:
    for mark in (1, 2, 3):
        publish_mark(tmp_path, mark)
    (tmp_path / "versions" / "000002" / "items.txt").write_text("altered")
    rollback(tmp_path)
    assert mark_of(tmp_path) == 1
    with pytest.raises(DamagedArtefact, match=r"items\.txt"):
        rollback(tmp_path, to="000002")
    assert mark_of(tmp_path) == 1
    with pytest.raises(ValueError, match="expected an intact version before the current one, found none"):
        rollback(tmp_path)


def test_rollback_repairs_a_lost_pointer(tmp_path: Path) -> None:
    publish_mark(tmp_path, 1)
    publish_mark(tmp_path, 2)
    (tmp_path / "CURRENT").write_text("nonsense")
    with pytest.raises(DamagedArtefact, match="CURRENT: expected a version number and a checksum"):
        resolve(tmp_path)
    rollback(tmp_path)
    assert mark_of(tmp_path) == 2


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    publish_mark(tmp_path, 1)
    with pytest.raises(ValueError, match=r"to: expected one of \['000001'\], got '\.\./000001'"):
        rollback(tmp_path, to="../000001")


def test_a_second_publisher_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD_LOCK, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "filling\n"
        with pytest.raises(Locked, match=f"locked by process {first.pid}"):
            publish_mark(tmp_path, 2)
        with pytest.raises(Locked, match="locked by process"):
            rollback(tmp_path)
        first.communicate("")
    assert resolve(tmp_path).name == "000001"
    assert publish_mark(tmp_path, 2).name == "000002"


def test_a_dead_publisher_holds_no_lock_and_its_debris_goes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD_LOCK, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        first.stdout.readline()
        first.kill()
    assert [path.name[:5] for path in (tmp_path / "versions").iterdir()] == [".tmp-"]
    publish_mark(tmp_path, 2)
    assert [path.name for path in (tmp_path / "versions").iterdir()] == ["000001"]


def test_what_fill_leaves_running_holds_no_lock(tmp_path: Path) -> None:
    copies: list[int] = []
    lock = str(tmp_path / ".lock")

    def leave_open(directory: Path) -> None:
        entries = [entry for entry in Path("/proc/self/fd").iterdir() if os.path.realpath(entry) == lock]
        copies.extend(os.dup(int(entry.name)) for entry in entries)  # what a forked process has, too

    publish(tmp_path, leave_open, facts={})
    assert len(copies) == 1
    assert publish(tmp_path, write_file, facts={}).name == "000002"
    os.close(copies[0])


def test_every_directory_made_for_a_root_is_brought_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    root = tmp_path / "a" / "b" / "root"
    publish(root, write_file, facts={})
    assert {str(folder) for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b", root)} <= synced


def test_links_are_refused_when_publishing_and_when_loading(tmp_path: Path) -> None:
    def link(directory: Path) -> None:
        (directory / "passwd").symlink_to("/etc/passwd")

    with pytest.raises(ValueError, match="found a link or special file"):
        publish(tmp_path, link, facts={})
    version = publish(tmp_path, write_file, facts={})
    os.rename(version / "file.txt", tmp_path / "elsewhere")
    (version / "file.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedArtefact, match="found a link or special file"):
        verify_directory(version)


def test_missing_and_added_files_are_named(tmp_path: Path) -> None:
    version = publish(tmp_path, write_file, facts={})
    (version / "modules.json").write_text("{}")
    with pytest.raises(DamagedArtefact, match=r"modules\.json: expected no such file"):
        verify_directory(version)
    (version / "modules.json").unlink()
    (version / "file.txt").unlink()
    with pytest.raises(DamagedArtefact, match=r"file\.txt: expected this file, it is missing"):
        verify_directory(version)


def test_facts_are_looked_at_before_anything_is_written(tmp_path: Path) -> None:
    facts: dict = {"loss": np.float32(1)}
    vectors, called = make_vectors(20, 8), []
    for write in (
        lambda: publish(tmp_path / "root", called.append, facts=facts),
        lambda: save_index(build_exact(vectors), tmp_path / "index", facts=facts),
        lambda: save_live(LiveIndex(build_exact(vectors)), tmp_path / "live", facts=facts),
    ):
        with pytest.raises(ValueError, match=r"facts: expected values that JSON gives back.* got TypeError: .*float32"):
            write()
    assert called == []
    assert list(tmp_path.iterdir()) == []


def test_facts_collected_while_filling_are_looked_at_too(tmp_path: Path) -> None:
    facts: dict = {}
    with pytest.raises(ValueError, match="facts: expected values that JSON gives back"):
        publish(tmp_path / "root", lambda directory: facts.update(loss=np.float32(1)), facts=facts)
    assert list_versions(tmp_path / "root") == []


def test_a_place_without_versions_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected manifest\.json or CURRENT in it"):
        resolve(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a directory of versions"):
        rollback(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="expected a directory of versions"):
        rollback(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="keep: expected at least 1, got 0"):
        publish_mark(tmp_path, 1, keep=0)


def test_a_root_that_lost_its_pointer_is_damaged_and_not_empty(tmp_path: Path) -> None:
    publish_mark(tmp_path, 1)
    version = resolve(tmp_path)
    (tmp_path / "CURRENT").unlink()
    with pytest.raises(DamagedArtefact, match=r"CURRENT: it is missing beside published versions; roll back"):
        resolve(tmp_path)
    rollback(tmp_path)
    assert resolve(tmp_path) == version
    (version / "manifest.json").unlink()
    with pytest.raises(
        DamagedArtefact, match=r"manifest\.json: it is missing or a link in a published version; roll back"
    ):
        resolve(version)
