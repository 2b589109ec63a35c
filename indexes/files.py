"""Files that are on the disk when the call returns: written, synced, read again and compared."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Fingerprint:
    """What a file must be again when it is read."""

    size_bytes: int
    sha256: str
    """64 hexadecimal digits."""


class CheckedWriter:
    """A file being written, which knows what its fingerprint must be: that of the bytes it was given."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor, self._path = descriptor, path
        self._hash, self._size = hashlib.sha256(), 0

    def write(self, data: bytes | memoryview) -> int:
        """Write all of `data`; a short write (a full disk) is an OSError, never a shorter file."""
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self._size += len(view)
        done = 0
        while done < len(view):
            written = os.write(self._descriptor, view[done:])
            if written == 0:
                raise OSError(f"{self._path}: expected to write {len(view) - done} more bytes, wrote none; free space")
            done += written
        return len(view)

    def fingerprint(self) -> Fingerprint:
        """Return the fingerprint that a file has which holds all that was written so far."""
        return Fingerprint(size_bytes=self._size, sha256=self._hash.hexdigest())


def write_checked(path: Path, fill: Callable[[CheckedWriter], None]) -> Fingerprint:
    """Create `path` from what `fill` writes, sync it, read it again and compare.

    Raises:
        FileExistsError: there is such a file already.
        OSError: the disk is full, or holds something else than was written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        writer = CheckedWriter(descriptor, path)
        fill(writer)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    written, found = writer.fingerprint(), fingerprint(path, uncached=True)
    if written != found:
        raise OSError(f"{path}: expected {written} after writing, read {found}; check the disk")
    return written


def write_bytes(path: Path, data: bytes) -> Fingerprint:
    """Create `path` with this content; see `write_checked`."""
    return write_checked(path, lambda writer: _write(writer, data))


def _write(writer: CheckedWriter, data: bytes) -> None:
    writer.write(data)


def fingerprint(path: Path, *, uncached: bool = False) -> Fingerprint:
    """Read a file for its size and sha256; never follows a link.

    Args:
        uncached: ask the system to drop its cached copy first, so that the disk itself is read.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with open(descriptor, "rb", buffering=0) as file:
        if uncached and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        digest, size = hashlib.sha256(), 0
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return Fingerprint(size_bytes=size, sha256=digest.hexdigest())


def sync(path: Path) -> None:
    """Bring a file, or the list of names of a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(path: Path) -> None:
    """Make a directory and those above it that are missing, and bring the names of the new ones to the disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Give `path` a new content in one step: a reader sees the old bytes or the new ones."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    write_bytes(temporary, data)
    os.replace(temporary, path)
    sync(path.parent)


@contextmanager
def exclusive(path: Path) -> Iterator[int | None]:
    """Hold the lock file `path`; yields None, or the process id that holds it already.

    The system drops the lock when its holder ends, however it ends, so there are no stale locks.
    """
    import fcntl  # not on every system, and only publishing needs it

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            yield int(holder) if holder.isdigit() else -1
            return
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            yield None
        finally:
            # Closing would not do: a process forked meanwhile has the same open file.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
