"""A path becomes a sorted list of table files, and a text file becomes lines, with bounds on what is held in memory."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from indexes.errors import DamagedArtefact

MAX_LINE_BYTES = 64 << 20  # one line longer than this is a damaged or hostile file, not a row
BLOCK_BYTES = 8 << 20
_FORMATS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv"}
_FORMATS |= {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
_READABLE = ".parquet, .csv, .tsv, .jsonl, .ndjson, .json (one object per line); the text formats also with .gz"


def format_of(file: Path) -> str | None:
    """Gives "parquet", "csv", "tsv" or "jsonl" by the file's name, None for other names."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes[-1:] == [".gz"]:
        found = _FORMATS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return None if found == "parquet" else found
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def find_files(path: str | Path) -> tuple[list[Path], list[str]]:
    """Gives the table files of a path, by name, and the names of files in the folder that are not tables.

    A folder's own files count, not those of folders inside; names that begin with "." or "_" are passed over.

    Raises:
        FileNotFoundError: nothing there, or a folder without a table.
        ValueError: one file of an unknown format.
    """
    path = Path(path)
    if path.is_dir():
        present = sorted(file for file in path.iterdir() if file.is_file() and file.name[0] not in "._")
        tables = [file for file in present if format_of(file)]
        if not tables:
            raise FileNotFoundError(f"{path}: expected a folder with tables ({_READABLE}), found none")
        return tables, [file.name for file in present if not format_of(file)]
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected a file or a folder, found nothing there")
    if format_of(path) is None:
        raise ValueError(f"{path}: expected {_READABLE}, got {''.join(path.suffixes)!r}")
    return [path], []


def is_part_of(file: Path, table: Path) -> bool:
    """Whether a file that is to be written is the table, or would be read as a part of the folder that it is."""
    there, written = table.resolve(), file.resolve()
    if there == written:
        return True
    is_hidden = written.name[:1] in ("", ".", "_")
    return written.parent == there and format_of(written) is not None and not is_hidden


class BoundedLines(io.RawIOBase):
    """Passes bytes on, and stops before a reader gathers a file's worth of them in one line or one batch of rows.

    Args:
        first: bytes that were already taken from `raw`.
        refuse_nul: a NUL is an error that names its line.
    """

    def __init__(self, raw: IO[bytes], file: Path, *, first: bytes = b"", refuse_nul: bool = False) -> None:
        self._raw, self._file, self._first, self._refuse_nul = raw, file, first, refuse_nul
        self._since_break = 0
        self._allowed = float("inf")

    def allow(self, n_bytes: int) -> None:
        """Sets how many bytes may pass until the next call; without a call there is no such limit."""
        self._allowed = n_bytes

    def readable(self) -> bool:
        """Always: bytes come out of it."""
        return True

    def readinto(self, buffer) -> int:  # type: ignore[override]
        """Fills the start of `buffer` and gives the number of bytes, 0 at the end.

        Raises:
            ValueError: a line beyond MAX_LINE_BYTES, or a NUL where none may be. MemoryError: more than was allowed.
        """
        block = self._first[: len(buffer)] or self._raw.read(len(buffer))
        self._first = self._first[len(block) :]
        if self._refuse_nul and b"\0" in block:
            raise ValueError(_explain_nul(self._file))
        last_break = max(block.rfind(b"\n"), block.rfind(b"\r"))
        self._since_break = self._since_break + len(block) if last_break < 0 else len(block) - last_break
        self._allowed -= len(block)
        if self._since_break > MAX_LINE_BYTES:
            raise ValueError(f"{self._file}: a line is longer than {MAX_LINE_BYTES >> 20} MB; is it a table of rows?")
        if self._allowed < 0:
            raise MemoryError(f"{self._file}: rows are too wide to be read in bounded memory; cut or split them")
        buffer[: len(block)] = block
        return len(block)


def _explain_nul(file: Path) -> str:
    number = 1
    with open_bytes(file) as raw:
        while block := raw.read(BLOCK_BYTES):  # not line by line: the line may be the whole file
            before, nul, _ = block.partition(b"\0")
            number += before.count(b"\n")
            if nul:
                break
    return f"{file}:{number}: holds a NUL byte; if the file is UTF-16, pass encoding='utf-16', else remove it"


@contextmanager
def open_bytes(file: Path) -> Iterator[IO[bytes]]:
    """Opens a file, unpacked when its name ends in .gz. Damage in the packing raises DamagedArtefact."""
    try:
        with gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb") as raw:
            yield raw  # type: ignore[misc]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedArtefact(file, f"cannot be unpacked ({error})", cure="copy or export it again") from error


def as_text(raw: io.RawIOBase, encoding: str) -> io.TextIOWrapper:
    """Decodes a byte stream, line breaks untouched."""
    return io.TextIOWrapper(io.BufferedReader(raw, 1 << 20), encoding=encoding, newline="")


def check_encoding(file: Path, encoding: str) -> str:
    """Gives the codec to read with (a UTF-8 byte order mark is skipped).

    Raises:
        ValueError: no such encoding of text, or the file begins with a UTF-16 or UTF-32 mark and another one was asked
            for.
    """
    try:
        codec = codecs.lookup(encoding).name
        "a".encode(codec)  # base64 and its like are codecs, but of bytes, which this refuses
    except (LookupError, UnicodeError):
        raise ValueError(
            f"encoding: expected the name of a text encoding, such as utf-8 or latin-1, got {encoding!r}"
        ) from None
    with open_bytes(file) as raw:
        start = raw.read(4)
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and not codec.startswith(("utf-16", "utf-32")):
        raise ValueError(f"{file}:1: looks like UTF-16 (begins with {start[:2].hex(' ')}); pass encoding='utf-16'")
    return "utf-8-sig" if codec == "utf-8" else codec


def explain_decode_error(file: Path, encoding: str) -> ValueError:
    """Finds the first line that does not decode and says line, byte and what to do."""
    with open_bytes(file) as raw:
        for number, line in enumerate(iter(lambda: raw.readline(MAX_LINE_BYTES), b""), start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                return ValueError(
                    f"{file}:{number}: byte 0x{line[error.start]:02x} at place {error.start + 1} of the line is not "
                    f"{encoding.removesuffix('-sig')}; pass the file's encoding, for example encoding='latin-1'"
                )
    return ValueError(f"{file}: is not {encoding.removesuffix('-sig')}; pass the file's encoding")
