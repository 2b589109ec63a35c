"""The folder of a batch run and the hidden one beside it: what may be replaced, and who works there."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from indexes import Locked
from indexes.files import exclusive

SUCCESS = "_SUCCESS"


@dataclass(frozen=True)
class Place:
    """Where a run works: everything but `out` is inside the hidden working folder."""

    out: Path
    work: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "work", self.out.with_name(f".{self.out.name}.partial"))

    @property
    def parts(self) -> Path:
        """The folder of finished parts; at the end it becomes `out`."""
        return self.work / "parts"

    @property
    def receipts(self) -> Path:
        """The folder of what the finished parts must be."""
        return self.work / "receipts"

    @property
    def run_file(self) -> Path:
        """What the run is made of: parts of another one are not its own."""
        return self.work / "run.json"


def check_place(out: Path) -> None:
    """Tell that a batch may write here. Raises ValueError for anything but a new or empty folder or one of a batch."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ValueError(f"{out}: expected a folder or nothing, found something else; name another --out")
    if out.is_dir() and os.path.ismount(out):
        raise ValueError(f"{out}: expected a folder that can be replaced, this is a mount point; name one inside it")
    strangers = [file.name for file in out.iterdir() if not _is_ours(file)] if out.is_dir() else []
    if strangers:
        raise ValueError(
            f"{out}: expected an empty or new folder, or lists of an earlier batch, found files that no batch wrote "
            f"({', '.join(sorted(strangers)[:3])}); name another --out"
        )


def _is_ours(file: Path) -> bool:
    """Whether a batch wrote this file of its folder: what it did not write it never replaces."""
    if file.name == SUCCESS:  # others leave an empty one
        try:
            report = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(report, dict) and "run" in report
    is_part = re.fullmatch(r"part-\d{6}\.\w+", file.name) is not None and file.is_file()
    return is_part and (file.parent / SUCCESS).is_file()


@contextmanager
def locked(place: Place) -> Iterator[None]:
    """Be the only run in the working folder, which is made. Raises indexes.Locked where there is another."""
    place.work.mkdir(parents=True, exist_ok=True)
    lock = place.work / ".lock"
    with exclusive(lock) as holder:
        if holder is not None:
            raise Locked(f"{place.out}: expected to be the only batch run, locked by process {holder}; try again later")
        own = _inode(lock)  # it is held open, so that no other file gets this number
        try:
            yield
        finally:
            # Once the work is committed its folder is gone, and one of that name is another run's.
            if _inode(lock) == own and {file.name for file in place.work.iterdir()} == {".lock"}:
                shutil.rmtree(place.work, ignore_errors=True)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
