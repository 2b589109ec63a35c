"""A directory's manifest: which files it holds, with size and sha256, and facts about them.

The manifest guards itself too: it is written in one exact form and ends with the checksum of that form.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from indexes.errors import DamagedArtefact
from indexes.files import Fingerprint, fingerprint, sync, write_bytes

MANIFEST_NAME = "manifest.json"
FORMAT = "tandem-manifest"
FORMAT_VERSION = 1
MAX_MANIFEST_BYTES = 64 << 20

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True)
class Manifest:
    """What a directory must hold."""

    facts: Mapping[str, Json]
    """What the writer wanted known: model fingerprint, dimension, counts, figures."""
    files: Mapping[str, Fingerprint]
    """By path relative to the directory, with `/`; the manifest itself is not among them."""


def write_manifest(directory: Path | str, *, facts: Mapping[str, Json]) -> Manifest:
    """Sync and fingerprint every file below `directory` and write its manifest.

    Raises:
        ValueError: facts that JSON cannot hold (NaN too), a link, or something else that is no plain file.
        FileExistsError: there is a manifest already.
    """
    check_facts(facts)
    directory = Path(directory)
    files = {}
    for name in list_files(directory):
        if name == MANIFEST_NAME:
            raise FileExistsError(f"{directory / name}: expected no manifest yet; write into a new directory")
        sync(directory / name)
        files[name] = fingerprint(directory / name, uncached=True)
    manifest = Manifest(facts=dict(facts), files=files)
    write_bytes(directory / MANIFEST_NAME, _encode(manifest))
    for folder, _, _ in os.walk(directory, topdown=False):
        sync(Path(folder))
    return manifest


def read_manifest(directory: Path | str) -> Manifest:
    """Read and check the manifest alone, not the files it names.

    Raises:
        FileNotFoundError: there is no manifest.
        DamagedArtefact: it was altered, or has a newer format than this program knows.
    """
    path = Path(directory) / MANIFEST_NAME
    if not has_manifest(Path(directory)):
        raise FileNotFoundError(f"{path}: expected a manifest; is this a published directory?")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise DamagedArtefact(path, f"expected at most {MAX_MANIFEST_BYTES} bytes, got {path.stat().st_size}")
    data = path.read_bytes()
    try:
        content = json.loads(data)
        written_by = content["format"], content["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedArtefact(path, f"expected a manifest, cannot read it ({type(error).__name__})") from error
    if written_by[0] != FORMAT or not isinstance(written_by[1], int):
        raise DamagedArtefact(path, f"expected format {FORMAT!r}, got {written_by!r}")
    if written_by[1] > FORMAT_VERSION:
        problem = f"expected format version up to {FORMAT_VERSION}, got {written_by[1]}"
        raise DamagedArtefact(path, problem, cure="install a newer tandem")
    try:
        entries = {file["path"]: Fingerprint(file["size_bytes"], file["sha256"]) for file in content["files"]}
        manifest = Manifest(facts=dict(content["facts"]), files=entries)
        intact = data == _encode(manifest) and all(is_safe_name(name) for name in entries)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedArtefact(path, f"expected a manifest, cannot read it ({type(error).__name__})") from error
    if not intact:
        raise DamagedArtefact(path, "its own checksum does not fit its content")
    return manifest


def check_facts(facts: Mapping[str, Json]) -> None:
    """Raise ValueError unless JSON gives the facts back as they are; asked before anything is written for them."""
    expected = "facts: expected values that JSON gives back as they were (str keys, lists, finite numbers)"
    try:
        returned = json.loads(json.dumps(dict(facts), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{expected}, got {type(error).__name__}: {error}") from error
    if returned != dict(facts):
        raise ValueError(expected)


def has_manifest(directory: Path) -> bool:
    """Tell whether there is a manifest to read; a link is none."""
    path = directory / MANIFEST_NAME
    return path.is_file() and not path.is_symlink()


def verify_directory(directory: Path | str) -> Manifest:
    """Read every byte below `directory` and compare with its manifest; nothing may lack, differ or be added.

    Raises:
        DamagedArtefact: naming the first file that is not as written.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    try:
        found = set(list_files(directory)) - {MANIFEST_NAME}
    except ValueError as error:
        raise DamagedArtefact(directory, str(error)) from error
    if missing := sorted(manifest.files.keys() - found):
        raise DamagedArtefact(directory / missing[0], "expected this file, it is missing")
    if added := sorted(found - manifest.files.keys()):
        raise DamagedArtefact(directory / added[0], "expected no such file, it is not in the manifest")
    for name, expected in manifest.files.items():
        check_file(directory / name, expected)
    return manifest


def check_file(path: Path, expected: Fingerprint) -> None:
    """Compare one file with its fingerprint; the size first, since that costs nothing."""
    size = path.lstat().st_size
    if size != expected.size_bytes:
        raise DamagedArtefact(path, f"expected {expected.size_bytes} bytes, got {size}")
    found = fingerprint(path)
    if found != expected:
        raise DamagedArtefact(path, f"expected sha256 {expected.sha256[:12]}..., got {found.sha256[:12]}...")


def list_files(directory: Path) -> list[str]:
    """Return the relative names of all files below, sorted; links and special files are a ValueError."""
    names = []
    for folder, folders, files in os.walk(directory):
        for name in [*folders, *files]:
            path = Path(folder) / name
            relative = path.relative_to(directory).as_posix()
            plain = path.is_dir() if name in folders else path.is_file()
            if path.is_symlink() or not plain:
                raise ValueError(f"{path}: expected plain files and directories, found a link or special file")
            if not is_safe_name(relative):
                raise ValueError(f"{path!r}: expected a plain name without control characters or backslash")
            if name in files:
                names.append(relative)
    return sorted(names)


def is_safe_name(name: str) -> bool:
    """Tell whether `name` is a relative POSIX path that stays inside its directory."""
    parts = PurePosixPath(name).parts
    plain = name.isprintable() and "\\" not in name and not name.startswith("/")
    return bool(parts) and plain and ".." not in parts and "/".join(parts) == name


def _encode(manifest: Manifest) -> bytes:
    """Return the one exact form of a manifest; its last line is the sha256 of the lines before."""
    entries = [
        {"path": name, "size_bytes": _size(file.size_bytes), "sha256": _digest(file.sha256)}
        for name, file in sorted(manifest.files.items())
    ]
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "facts": manifest.facts, "files": entries}
    body = json.dumps(content, indent=1, ensure_ascii=True, allow_nan=False)
    checksum = hashlib.sha256(body.encode()).hexdigest()
    return f'{body[:-2]},\n "checksum": "{checksum}"\n}}\n'.encode()


def _size(n_bytes: int) -> int:
    if type(n_bytes) is not int or n_bytes < 0:
        raise ValueError(f"size_bytes: expected a count, got {n_bytes!r}")
    return n_bytes


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ValueError(f"sha256: expected 64 hexadecimal digits, got {text!r}")
    return text
