"""The first pass over the users: everything is checked before anything is computed, with 8 bytes kept per user."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from retrieval.batch.users import UserStream

_SHOWN = 5


@dataclass(frozen=True)
class Plan:
    """What there is to do. digests: of every chunk, in order. rejected: reason -> refused rows."""

    n_users: int
    digests: list[str]
    rejected: Mapping[str, int]


def make_plan(users: UserStream) -> Plan:
    """Read all users once.

    Raises:
        ValueError: a user id comes twice (the first five are named), or see `UserStream`.
    """
    digests: list[str] = []
    hashes: list[np.ndarray] = []
    for chunk in users:
        digests.append(chunk.digest)
        hashes.append(np.array([_hash(user) for user in chunk.user_ids], dtype=np.uint64))
    rejected = dict(users.rejected)
    every = np.concatenate(hashes)
    del hashes
    n_users = len(every)
    every.sort()
    repeated = np.unique(every[1:][every[1:] == every[:-1]])
    if len(repeated):
        _refuse_repeated(users, set(repeated.tolist()))
    return Plan(n_users, digests, rejected)


def _hash(user: str) -> int:
    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "big")


def _refuse_repeated(users: UserStream, hashes: set[int]) -> None:
    """Read again to tell real repeats from ids that only share a hash; names the first five."""
    counts: Counter[str] = Counter()
    for chunk in users:
        counts.update(user for user in chunk.user_ids if _hash(user) in hashes)
    repeated = [user for user, count in counts.items() if count > 1]
    if repeated:
        shown = ", ".join(map(repr, repeated[:_SHOWN]))
        raise ValueError(
            f"{users.name}: expected every user_id once, got {len(repeated):,} more than once: {shown}; "
            "leave the repeats out, or choose one --segment"
        )
