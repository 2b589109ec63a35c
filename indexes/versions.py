"""A root of versions: published in one step, read without a lock, rolled back by moving a pointer.

    root/versions/000007/...      complete and immutable, with its manifest.json
    root/CURRENT                  "000007 <sha256 of its manifest>": the version that is served
    root/.lock                    held while somebody publishes

A version is written in a hidden directory, synced, verified, renamed; then CURRENT is replaced. A crash at
any point leaves the old version current or the new one, never a mix; the next publisher removes its debris.
"""

import os
import re
import shutil
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from indexes.errors import DamagedArtefact, Locked
from indexes.files import exclusive, fingerprint, make_directories, replace_file, sync
from indexes.manifest import (
    MANIFEST_NAME,
    Json,
    check_facts,
    has_manifest,
    list_files,
    read_manifest,
    verify_directory,
    write_manifest,
)

CURRENT_NAME = "CURRENT"
LOCK_NAME = ".lock"
DEBRIS_PREFIX = ".tmp-"
PREVIOUS_FACT = "previous_version"


def publish(
    root: Path | str,
    fill: Callable[[Path], None],
    *,
    facts: Mapping[str, Json],
    keep: int = 3,
    based_on: Path | None = None,
) -> Path:
    """Publish what `fill` writes as the new current version.

    Args:
        root: made if it is not there.
        fill: called once with an empty directory; directories in it with a manifest of their own (an index)
            are verified too.
        facts: stored in the manifest, read after `fill` has returned, which may add to them; the version it replaces
            is added.
        keep: how many versions stay: the new one, the one it replaced (readers may be loading it), and the newest of
            the others; a reader must have loaded an older one by the time it goes.
        based_on: the version that was read to make this one: once it is no longer current nothing is published, as
            what came between would be undone.

    Returns:
        The directory of the new version.

    Raises:
        ValueError: facts that JSON cannot hold; those that are there before `fill` is called are looked at first. Or a
            root that is a version itself.
        Locked: somebody else is publishing, or has done so since `based_on`.
        OSError: the disk is full; the current version is as before.
        DamagedArtefact: what was written is not what is on the disk; it names the place in the version.
    """
    if keep < 1:
        raise ValueError(f"keep: expected at least 1, got {keep!r}")
    check_facts(facts)
    root = Path(root)
    check_root(root)
    make_directories(root / "versions")
    with _lock(root):
        _require_current(root, based_on)
        _remove_debris(root)
        sync(root.parent)
        sync(root)
        number = _next_number(root)
        temporary = root / "versions" / f"{DEBRIS_PREFIX}{number:06d}-{os.getpid()}"
        version = root / "versions" / f"{number:06d}"
        temporary.mkdir()
        previous = _current_name(root)
        try:
            fill(temporary)
            _seal(temporary, {**facts, PREVIOUS_FACT: previous})
            os.rename(temporary, version)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, DamagedArtefact) and error.path.is_relative_to(temporary):
                raise _at_its_place(error, temporary, version) from error
            raise
        _serve(root, version)
        _prune(root, keep, spared={version.name, previous})
    return version


def check_root(root: Path) -> None:
    """Raise ValueError for one version in place of the root: what is published never changes."""
    if (root / MANIFEST_NAME).is_file():
        raise ValueError(f"{root}: expected the root of a bundle, got one version of it; it never changes")


def _require_current(root: Path, version: Path | None) -> None:
    if version is not None and resolve(root).resolve() != version.resolve():
        problem = f"expected {version.name} to be current, another version was published meanwhile"
        raise Locked(f"{root}: {problem}; do it again")


def _next_number(root: Path) -> int:
    return 1 + max((int(path.name) for path in (root / "versions").iterdir() if path.name.isdecimal()), default=0)


def _serve(root: Path, version: Path) -> None:
    """Make a version current that has just come into place; if that fails it goes, since nobody was served it."""
    try:
        sync(root / "versions")
        _point(root, version)
    except BaseException:
        if _current_name(root) != version.name:
            _discard(version)
        raise


def _seal(directory: Path, facts: Mapping[str, Json]) -> None:
    for name in list_files(directory):
        if name.endswith("/" + MANIFEST_NAME):
            verify_directory((directory / name).parent)
    write_manifest(directory, facts=facts)
    verify_directory(directory)


def _at_its_place(error: DamagedArtefact, temporary: Path, version: Path) -> DamagedArtefact:
    """The fault by the place that the file was meant for: the hidden directory is gone when anybody reads of it."""
    problem = error.problem.replace(str(temporary), str(version))
    cure = "nothing was published; check the disk and publish again"
    return DamagedArtefact(version / error.path.relative_to(temporary), problem, cure=cure)


def resolve(path: Path | str) -> Path:
    """Return the version to load: `path` itself if it is one, else the one its CURRENT names.

    Raises:
        FileNotFoundError: neither a version nor a root with a published one.
        DamagedArtefact: CURRENT is altered or names a version that is not the published one.
    """
    path = Path(path)
    if has_manifest(path):
        return path
    pointer = path / CURRENT_NAME
    if not pointer.is_file():
        if list_versions(path):
            raise DamagedArtefact(pointer, "it is missing beside published versions", cure="roll back")
        if path.parent.name == "versions" and re.fullmatch(r"\d{6,}", path.name) and path.is_dir():
            raise DamagedArtefact(
                path / MANIFEST_NAME, "it is missing or a link in a published version", cure="roll back"
            )
        found = "neither" if path.is_dir() else "a file" if path.exists() else "no such folder"
        raise FileNotFoundError(
            f"{path}: expected {MANIFEST_NAME} or {CURRENT_NAME} in it, found {found}; publish a version first"
        )
    match = re.fullmatch(rb"(\d{6,}) ([0-9a-f]{64})\n", pointer.read_bytes())
    if match is None:
        raise DamagedArtefact(pointer, "expected a version number and a checksum", cure="roll back")
    version = path / "versions" / match[1].decode()
    manifest = version / MANIFEST_NAME
    if not has_manifest(version):
        raise DamagedArtefact(
            manifest, "CURRENT names this version, its manifest is missing or a link", cure="roll back"
        )
    if fingerprint(manifest).sha256 != match[2].decode():
        raise DamagedArtefact(manifest, f"its checksum is not the one in {pointer}", cure="roll back")
    return version


def list_versions(root: Path | str) -> list[Path]:
    """Return the complete versions, oldest first; they are complete, not verified."""
    versions = Path(root) / "versions"
    if not versions.is_dir():
        return []
    found = [path for path in versions.iterdir() if re.fullmatch(r"\d{6,}", path.name) and path.is_dir()]
    return sorted((path for path in found if has_manifest(path)), key=lambda path: int(path.name))


def rollback(root: Path | str, *, to: str | None = None) -> Path:
    """Make an older version current again, after verifying it; nothing is deleted.

    Args:
        to: the name of a version; None takes the one that the current version replaced or, if that is damaged, the one
            that it had replaced, and so on; where the manifest that says so is lost, the newest intact one before it.

    Raises:
        ValueError: there is no such version.
        FileNotFoundError: nothing was ever published there.
        DamagedArtefact: the version asked for is damaged; CURRENT is as before.
        Locked: somebody is publishing.
    """
    root = Path(root)
    with _lock(root):
        versions = {version.name: version for version in list_versions(root)}
        if to is not None:
            if to not in versions:
                raise ValueError(f"to: expected one of {sorted(versions)}, got {to!r}")
            verify_directory(versions[to])
            return _point(root, versions[to])
        older = _older(root, versions)
        for version in [versions[name] for name in older if name in versions]:
            try:
                verify_directory(version)
            except DamagedArtefact:
                continue
            return _point(root, version)
    newer = sorted(set(versions) - {_current_name(root)} - set(older))
    found = f"but {min(versions)} is the only one" if len(versions) == 1 else "found none; publish again"
    if newer:
        found = f"found none; name a newer one (--to {' or '.join(newer)}), or publish again"
    raise ValueError(f"{root}: expected an intact version before the current one, {found}")


def _older(root: Path, versions: Iterable[str]) -> list[str]:
    """Names of the versions to fall back to, best first: those served before, gone ones too.

    Each version names the one it replaced, so one that was withdrawn, or never made current, is passed over. Where the
    manifest of one is lost, all older ones follow, newest first.
    """
    newest_first = sorted(versions, key=int, reverse=True)
    name = _current_name(root)
    if name is None:
        return newest_first
    older: list[str] = []
    while True:
        try:
            previous = read_manifest(root / "versions" / name).facts[PREVIOUS_FACT]
        except (DamagedArtefact, FileNotFoundError, KeyError):
            return older + [other for other in newest_first if int(other) < int(name)]
        if not isinstance(previous, str) or not previous.isdecimal() or int(previous) >= int(name):
            return older
        name = previous
        older.append(name)


def _current_name(root: Path) -> str | None:
    """Name in CURRENT, whatever state its version is in; None if CURRENT is missing or unreadable."""
    pointer = root / CURRENT_NAME
    match = re.match(rb"(\d{6,}) ", pointer.read_bytes()) if pointer.is_file() else None
    return None if match is None else match[1].decode()


def _point(root: Path, version: Path) -> Path:
    checksum = fingerprint(version / MANIFEST_NAME).sha256
    replace_file(root / CURRENT_NAME, f"{version.name} {checksum}\n".encode())
    return version


def _prune(root: Path, keep: int, *, spared: Container[str | None]) -> None:
    newest_first = reversed(list_versions(root))
    for version in sorted(newest_first, key=lambda version: version.name not in spared)[keep:]:
        _discard(version)


def _remove_debris(root: Path) -> None:
    for path in (root / "versions").iterdir():
        if path.name.startswith(DEBRIS_PREFIX):
            shutil.rmtree(path, ignore_errors=True)
    (root / f"{CURRENT_NAME}.tmp").unlink(missing_ok=True)


def _discard(version: Path) -> None:
    """Take a version out of sight in one step before its files go one by one."""
    hidden = version.with_name(f"{DEBRIS_PREFIX}old-{version.name}")
    os.rename(version, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    if not (root / "versions").is_dir():  # else the lock file would be left in somebody's directory
        raise FileNotFoundError(f"{root}: expected a directory of versions; publish a version first")
    with exclusive(root / LOCK_NAME) as holder:
        if holder is not None:
            raise Locked(f"{root}: expected to be the only publisher, locked by process {holder}; try again later")
        yield
