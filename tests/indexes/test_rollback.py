"""Going back: to what was served before, never to what was withdrawn or never served, and that is kept."""

import shutil
from pathlib import Path

import pytest

import indexes.files
import indexes.versions
from indexes import list_versions, read_manifest, resolve, rollback, write_manifest
from tests.indexes.world import mark_of, publish_mark


def names(root: Path) -> list[str]:
    return [version.name for version in list_versions(root)]


def claim_previous(version: Path, previous: object) -> None:
    """Let a version name another one, or nonsense, as what it replaced."""
    facts = {**read_manifest(version).facts, "previous_version": previous}
    (version / "manifest.json").unlink()
    write_manifest(version, facts=facts)  # type: ignore[arg-type]


def test_the_version_that_was_served_outlives_the_one_that_replaces_it(tmp_path: Path) -> None:
    for mark in (1, 2, 3):
        publish_mark(tmp_path, mark)
    served = rollback(tmp_path, to="000001")
    publish_mark(tmp_path, 4)
    assert mark_of(served) == 1
    assert names(tmp_path) == ["000001", "000003", "000004"]
    rollback(tmp_path)
    assert mark_of(tmp_path) == 1


def test_rollback_passes_over_what_was_withdrawn(tmp_path: Path) -> None:
    for mark in (1, 2, 3):
        publish_mark(tmp_path, mark)
    rollback(tmp_path)
    publish_mark(tmp_path, 4, keep=9)
    (tmp_path / "versions" / "000002" / "items.txt").write_text("altered")
    rollback(tmp_path)  # 4 replaced 2, which is damaged and had replaced 1
    assert mark_of(tmp_path) == 1
    with pytest.raises(
        ValueError, match=r"an intact version before the current one, found none; .*--to 000002 or 000003 or 000004"
    ):
        rollback(tmp_path)


def test_rollback_passes_over_what_was_never_served(tmp_path: Path) -> None:
    publish_mark(tmp_path, 1)
    complete = publish_mark(tmp_path, 2)
    shutil.copytree(complete, complete.with_name("000003"))  # as a kill before the pointer is replaced leaves it
    publish_mark(tmp_path, 4, keep=9)
    for expected in (2, 1):
        rollback(tmp_path)
        assert mark_of(tmp_path) == expected


def test_where_a_manifest_is_lost_the_newest_before_it_is_taken(tmp_path: Path) -> None:
    for mark in (1, 2, 3, 4):
        publish_mark(tmp_path, mark, keep=9)
    (tmp_path / "versions" / "000003" / "manifest.json").write_text("nonsense")
    rollback(tmp_path)
    assert mark_of(tmp_path) == 2


@pytest.mark.parametrize("previous", ["000003", "000002", "../000001", 1, ["000001"]])
def test_a_version_that_names_no_older_one_goes_back_to_none(tmp_path: Path, previous: object) -> None:
    publish_mark(tmp_path, 1)
    claim_previous(publish_mark(tmp_path, 2), previous)
    with pytest.raises(ValueError, match="expected an intact version before the current one, found none"):
        rollback(tmp_path)


def test_a_version_that_cannot_be_made_current_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    publish_mark(tmp_path, 1)
    monkeypatch.setattr(indexes.versions, "replace_file", full)
    with pytest.raises(OSError, match="No space left"):
        publish_mark(tmp_path, 2)
    assert names(tmp_path) == ["000001"]
    assert mark_of(tmp_path) == 1
    assert [path.name for path in (tmp_path / "versions").iterdir()] == ["000001"]


def test_a_version_that_became_current_stays_though_the_disk_fails_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_mark(tmp_path, 1)
    sync = indexes.files.sync

    def failing(path: Path) -> None:
        if path == tmp_path:
            raise OSError(5, "Input/output error")
        sync(path)

    monkeypatch.setattr(indexes.files, "sync", failing)
    with pytest.raises(OSError, match="Input/output error"):
        publish_mark(tmp_path, 2)
    assert resolve(tmp_path).name == "000002"
    assert mark_of(tmp_path) == 2
