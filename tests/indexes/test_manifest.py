"""A manifest is read only if it is one, whole, and of a format that is known."""

from pathlib import Path

import pytest

from indexes import DamagedArtefact, read_manifest, verify_directory, write_manifest
from indexes.files import Fingerprint
from indexes.manifest import Manifest, _encode


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a//b", "a/../b", "", ".", "a\\b", "a\nb"])
def test_paths_that_leave_the_directory_are_refused(tmp_path: Path, name: str) -> None:
    forged = Manifest(facts={}, files={name: Fingerprint(0, "0" * 64)})
    (tmp_path / "manifest.json").write_bytes(_encode(forged))
    with pytest.raises(DamagedArtefact, match="its own checksum does not fit its content"):
        verify_directory(tmp_path)


def test_a_newer_format_is_refused_with_both_versions_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": "tandem-manifest", "format_version": 7, "parts": []}')
    with pytest.raises(DamagedArtefact, match="expected format version up to 1, got 7; install a newer tandem"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000, b'{"format": 1}'])
def test_anything_else_is_no_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(DamagedArtefact, match="expected a manifest, cannot read it"):
        read_manifest(tmp_path)


def test_facts_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_manifest(tmp_path, facts={"loss": float("nan")})
    with pytest.raises(ValueError, match="facts: expected values that JSON gives back as they were"):
        write_manifest(tmp_path, facts={1: "one"})  # type: ignore[dict-item]
