"""The unit of work: a chunk of users in, one finished part file out, with a receipt that says what it holds.

A part counts only with its receipt, and the receipt is written after the part is on the disk: a run that is killed
anywhere leaves parts that are complete or not counted. What is asked of a chunk depends on nothing but the chunk, the
bundle and the options, so it may run anywhere, in any order, and twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from indexes import DamagedArtefact
from indexes.files import fingerprint, replace_file
from retrieval.batch.users import UserChunk
from retrieval.data.export import write_table
from retrieval.recommend import Filters, Recommender
from retrieval.results import check_k
from retrieval.two_stage import BATCH_USERS

Format = Literal["parquet", "csv", "jsonl"]
_TEXTS = ("file", "sha256", "digest")
COLUMNS = ("user_id", "segment", "rank", "item_id", "score")


@dataclass(frozen=True)
class BatchOptions:
    """What is asked for; changed options mean other lists.

    k: items per user. filters: an attribute filter (see `indexes.filters`). segment: only these users; None takes all.
    chunk_users: users per part, which is also what is lost at most when a run is killed.
    """

    k: int = 10
    filters: Filters = None
    segment: str | None = None
    chunk_users: int = 2_048
    format: Format = "parquet"

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise ValueError(f"format: expected one of {', '.join(get_args(Format))}, got {self.format!r}")
        if isinstance(self.chunk_users, bool) or not isinstance(self.chunk_users, int) or self.chunk_users < 1:
            raise ValueError(f"chunk_users: expected 1 or more, got {self.chunk_users!r}")
        check_k(self.k)


@dataclass(frozen=True)
class Part:
    """A finished part file: its name, what it must be again, and what it holds.

    digest: that of the chunk. n_empty: users for whom the filter left no item. n_unknown: users without a history here
    and unknown to the bundle, who got the popular list. n_ignored: items of histories given here that the catalogue
    does not know. n_cold: users left without any item of such a history, or of their own in the bundle (a rebuild may
    have removed them), who got the popular list as well. A part of an earlier version, which did not count them, has 0.
    """

    file: str
    sha256: str
    size_bytes: int
    digest: str
    n_users: int
    n_rows: int
    n_empty: int
    n_unknown: int
    n_ignored: int = 0
    n_cold: int = 0


def part_name(number: int, options: BatchOptions) -> str:
    """The file name of a part; names sort in the order of the users."""
    return f"part-{number:06d}.{options.format}"


def score_chunk(
    recommender: Recommender,
    chunk: UserChunk,
    options: BatchOptions,
    *,
    done: Callable[[int], object] = lambda n_users: None,
) -> pd.DataFrame:
    """The lists of a chunk's users, the same as `recommend` gives one by one: columns `COLUMNS`, one row per item.

    Users in the order of the chunk, best item first. segment is null where there is none.

    Args:
        done: told how many users were finished, some at a time.
    """
    frames = []
    for start in range(0, len(chunk), BATCH_USERS):
        part = slice(start, start + BATCH_USERS)
        ids = list(chunk.user_ids[part])
        histories = chunk.histories[part]
        frames.append(recommender.recommend_many(ids, histories=histories, k=options.k, filters=options.filters))
        done(len(ids))
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*COLUMNS])
    segment_of = {user: name or None for user, name in zip(chunk.user_ids, chunk.segments, strict=True)}
    users = [str(user) for user in frame["user_id"]]
    return pd.DataFrame(
        {
            "user_id": pd.Series(users, dtype="str"),
            "segment": pd.Series([segment_of[user] for user in users], dtype="str"),
            "rank": frame["rank"].to_numpy(dtype=np.int32),
            "item_id": pd.Series([str(item) for item in frame["item_id"]], dtype="str"),
            "score": frame["score"].to_numpy(dtype=np.float32),
        }
    )


def finish_chunk(
    recommender: Recommender,
    chunk: UserChunk,
    options: BatchOptions,
    *,
    parts: Path,
    receipts: Path,
    done: Callable[[int], object] = lambda n_users: None,
) -> Part:
    """Score a chunk, write its part into `parts` and then its receipt into `receipts`; both are on disk on return.

    Raises:
        OSError: the disk is full; nothing counts that was not complete.
    """
    frame = score_chunk(recommender, chunk, options, done=done)
    file = write_table(frame, parts / part_name(chunk.number, options))
    written = fingerprint(file, uncached=True)
    if options.format == "parquet" and pq.read_table(file, page_checksum_verification=True).num_rows != len(frame):
        raise OSError(f"{file}: expected {len(frame)} rows after writing, read another number; check the disk")
    users = recommender.users.to_rows(chunk.user_ids, unknown="ignore")
    users = users[[history is None for history in chunk.histories]]
    n_left = [len(recommender.histories[row]) for row in users[users >= 0]]
    given = [recommender.item_ids.to_rows(history, unknown="ignore") for history in chunk.histories if history]
    part = Part(
        file=file.name,
        sha256=written.sha256,
        size_bytes=written.size_bytes,
        digest=chunk.digest,
        n_users=len(chunk),
        n_rows=len(frame),
        n_empty=len(chunk) - len(set(frame["user_id"])),
        n_unknown=int((users < 0).sum()),
        n_ignored=sum(int((rows < 0).sum()) for rows in given),
        n_cold=sum(int((rows < 0).all()) for rows in given) + n_left.count(0),
    )
    replace_file(receipts / f"{file.name}.json", json.dumps(asdict(part)).encode())
    return part


def finished_part(number: int, digest: str, options: BatchOptions, *, parts: Path, receipts: Path) -> Part | None:
    """The part of a chunk (by number and digest) if it was finished before and is intact, else None."""
    receipt = receipts / f"{part_name(number, options)}.json"
    try:
        part = part_from(json.loads(receipt.read_bytes()))
        check_part(parts, part)
    except (OSError, ValueError):  # not there, torn or altered: it is made again
        return None
    return part if part.digest == digest and part.file == part_name(number, options) else None


def part_from(values: object) -> Part:
    """A Part from what `asdict` gave. Raises ValueError when it is none."""
    every = {entry.name for entry in fields(Part)}
    needed = {entry.name for entry in fields(Part) if entry.default is MISSING}
    if not isinstance(values, Mapping) or not needed <= set(values) <= every:
        raise ValueError(f"expected the receipt of a part, got {str(values)[:80]}")
    for name, value in values.items():
        fits = isinstance(value, str) if name in _TEXTS else type(value) is int and value >= 0
        if not fits:
            raise ValueError(f"expected {'text' if name in _TEXTS else 'a count'} as {name}, got {value!r:.60}")
    return Part(**values)


def check_part(folder: Path, part: Part) -> None:
    """Compare a part file with what its receipt says. Raises DamagedArtefact when it is missing or altered."""
    file = folder / part.file
    cure = "run the batch again"
    if not file.is_file():
        raise DamagedArtefact(file, "expected this part, it is missing", cure=cure)
    found = fingerprint(file)
    if (found.sha256, found.size_bytes) != (part.sha256, part.size_bytes):
        raise DamagedArtefact(file, f"expected sha256 {part.sha256[:12]}..., got {found.sha256[:12]}...", cure=cure)
    if file.suffix == ".parquet" and (n_rows := pq.read_metadata(file).num_rows) != part.n_rows:
        raise DamagedArtefact(file, f"expected {part.n_rows} rows as its receipt says, got {n_rows}", cure=cure)
