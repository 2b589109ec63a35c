"""A directory in, MovieLens-100K in it as two parquet tables out: the data of the demo.

The rows are not ours to hand out (GroupLens: research use, no redistribution), so they are fetched on the user's
machine: the original archive where it can be reached, else the copy inside the wheel of a public package, of which
the files are read and the code is never installed. Whoever has neither puts one of the two archives into the
directory by hand. F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from retrieval.movielens import read_original, read_wheel

MAX_ARCHIVE_BYTES = 64 << 20  # the original has 5 MB, the wheel 2 MB
DOWNLOAD_S = 120  # a download that takes longer is given up for the next way
CACHE_FORMAT = 1  # raised when the tables written here change, so that older ones are made again

Progress = Callable[[str], None]


@dataclass(frozen=True)
class DemoData:
    """Where the tables lie and where they came from.

    items: parquet with item_id, title, category (genres), year. interactions: parquet with user_id, item_id,
    rating (1 to 5), timestamp (Unix seconds). Ids are strings.
    """

    items: Path
    interactions: Path
    source: str


@dataclass(frozen=True)
class Origin:
    """Where a MovieLens archive is had from, and how many rows prove that it is whole."""

    url: str = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
    timeout_s: float = 5.0  # without internet the demo must not wait long before it goes the other way
    requirement: str = "recbole==1.2.1"
    wheel: str = "recbole-1.2.1-py3-none-any.whl"
    wheel_sha256: str = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
    n_users: int = 943
    n_items: int = 1682
    n_ratings: int = 100_000


def fetch_movielens(directory: str | Path, *, progress: Progress | None = None, origin: Origin = Origin()) -> DemoData:
    """Leave the two tables in `directory` and say where they are; fetch nothing if they are there and whole.

    Tried in this order: the tables of an earlier call, an archive put into the directory by hand, the original
    download, the wheel. Files appear whole or not at all, so a killed call leaves nothing that a later one trusts.

    Args:
        directory: made if it is missing.
        progress: called with one line of text per step.

    Raises:
        OSError: none of the ways led to the data (what each one said is in the message), or a full disk.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    say = progress or (lambda _line: None)
    cached = _read_cache(directory)
    if cached is not None:
        say(f"MovieLens-100K is in {directory} already ({cached.source})")
        return cached
    zip_path, wheel_path = directory / origin.url.rsplit("/", 1)[-1], directory / origin.wheel
    ways: list[tuple[str, Callable[[], tuple[pd.DataFrame, pd.DataFrame]]]] = [
        ("original archive", lambda: _tables_of_zip(_download(origin), origin)),
        (f"wheel of {origin.requirement}", lambda: _tables_of_wheel(_pip_download(origin), origin)),
    ]
    if wheel_path.exists():
        ways.insert(0, (f"{wheel_path.name} put there by hand", lambda: _tables_of_wheel(_read(wheel_path), origin)))
    if zip_path.exists():
        ways.insert(0, (f"{zip_path.name} put there by hand", lambda: _tables_of_zip(_read(zip_path), origin)))
    reasons = []
    for source, read in ways:
        say(f"MovieLens-100K: trying the {source}")
        try:
            items, interactions = read()
        except (OSError, ValueError, http.client.HTTPException) as error:
            reasons.append(f"{source}: {_without_addresses(str(error) or type(error).__name__)}")
            say(f"MovieLens-100K: {reasons[-1]}")
            continue
        say(f"MovieLens-100K: {len(items):,} films, {len(interactions):,} ratings")
        return _write_cache(directory, items, interactions, source)
    raise OSError(
        f"MovieLens-100K could not be had ({'; '.join(reasons)}). Put {zip_path.name} from grouplens.org, or the "
        f"wheel {origin.wheel}, into {directory} and run this again"
    )


def _download(origin: Origin) -> bytes:
    if not origin.url.startswith(("https://", "http://127.0.0.1:")):
        raise ValueError(f"expected an https address, got {origin.url!r}")
    give_up = time.monotonic() + DOWNLOAD_S
    with urllib.request.urlopen(origin.url, timeout=origin.timeout_s) as answer:  # noqa: S310 - checked above
        body = bytearray()
        while block := answer.read(1 << 16):
            body += block
            if len(body) > MAX_ARCHIVE_BYTES or time.monotonic() > give_up:
                raise OSError(f"given up after {len(body):,} bytes: too large or too slow")
    return bytes(body)


def _pip_download(origin: Origin) -> bytes:
    """The bytes of the wheel, fetched by pip as it is configured on this machine; nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--disable-pip-version-check", "--dest", folder, origin.requirement]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise OSError(f"pip gave no answer within {DOWNLOAD_S} s") from error
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
            raise OSError(f"pip download failed: {lines[-1][:300]}")
        return _read(Path(folder) / origin.wheel)


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_ARCHIVE_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes, expected at most {MAX_ARCHIVE_BYTES:,}")
    return path.read_bytes()


def _tables_of_zip(body: bytes, origin: Origin) -> tuple[pd.DataFrame, pd.DataFrame]:
    return _checked(*read_original(_open_zip(body)), origin)


def _tables_of_wheel(body: bytes, origin: Origin) -> tuple[pd.DataFrame, pd.DataFrame]:
    found = hashlib.sha256(body).hexdigest()
    if found != origin.wheel_sha256:
        raise ValueError(f"expected the sha256 {origin.wheel_sha256}, got {found}; the file is not used")
    return _checked(*read_wheel(_open_zip(body)), origin)


def _open_zip(body: bytes) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(body))
    except zipfile.BadZipFile as error:
        raise ValueError(f"not a zip archive ({len(body):,} bytes)") from error


def _checked(items: pd.DataFrame, interactions: pd.DataFrame, origin: Origin) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same tables, if they are the whole data set: no checksum of the original is published with it."""
    found = (interactions["user_id"].nunique(), len(items), len(interactions))
    expected = (origin.n_users, origin.n_items, origin.n_ratings)
    if found != expected:
        raise ValueError(f"expected {expected} users, films and ratings, got {found}")
    films = set(items["item_id"])
    if len(films) != len(items) or not films.issuperset(interactions["item_id"]):
        raise ValueError("expected every film once and no rating of an unknown film; the archive is damaged")
    return items, interactions


def _read_cache(directory: Path) -> DemoData | None:
    """What an earlier call left, or None where anything is missing, older, or not as it was written."""
    data = DemoData(directory / "items.parquet", directory / "interactions.parquet", source="")
    try:
        facts = json.loads((directory / "SOURCE.json").read_text(encoding="utf-8"))
        whole = facts["format"] == CACHE_FORMAT and all(
            hashlib.sha256(path.read_bytes()).hexdigest() == facts["sha256"][path.name]
            for path in (data.items, data.interactions)
        )
        return DemoData(data.items, data.interactions, str(facts["source"])) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_cache(directory: Path, items: pd.DataFrame, interactions: pd.DataFrame, source: str) -> DemoData:
    data = DemoData(directory / "items.parquet", directory / "interactions.parquet", source)
    hashes = {}
    for path, frame in ((data.items, items), (data.interactions, interactions)):
        body = io.BytesIO()
        frame.to_parquet(body, index=False)
        hashes[path.name] = hashlib.sha256(body.getvalue()).hexdigest()
        _replace(path, body.getvalue())
    facts = {"format": CACHE_FORMAT, "source": source, "sha256": hashes}
    _replace(directory / "SOURCE.json", json.dumps(facts, indent=1).encode())  # last: it vouches for the others
    return data


def _replace(path: Path, body: bytes) -> None:
    """Write a file so that a reader sees the old one or the whole new one."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def _without_addresses(text: str) -> str:
    """A message without the addresses in it: a package registry may be a company's own."""
    return re.sub(r"host=\S+", "host=<host>,", re.sub(r"\S+://\S+", "<address>", text))
