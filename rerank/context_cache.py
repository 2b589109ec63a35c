"""Context states of users who come again: found whole, or up to the tokens that are new, least recently used out first.

A state can be extended only at its end, so growth is cheap where the prompt has the newest history LAST; with the
newest first, a grown history is a new context and only an unchanged one is found. Measured 2026-11-22 with
`bench_rerank.py --growth --threads 1 --cpu-time` (6 x 384, 192 history tokens, 100 candidates of 16): a grown history
281 ms with the newest first, 230 ms with the newest last; without kept states 266 to 300.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Protocol

from rerank.encode import Encoded
from rerank.engine import ContextStates


class ContextRunner(Protocol):
    """What computes states that are not in the cache."""

    def contexts(self, batch: list[Encoded]) -> ContextStates:
        """Keys and values of the contexts of a batch."""
        ...

    def grow(self, encoded: Encoded, states: ContextStates) -> ContextStates:
        """States of `encoded`, of whose context tokens the first ones are those of `states`."""
        ...


class ContextCache:
    """States by the content of the context's tokens, at most `max_bytes` of them. For one model only."""

    def __init__(self, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.n_unchanged = self.n_grown = self.n_new = 0
        self._states: OrderedDict[bytes, ContextStates] = OrderedDict()

    def states(self, encoded: Encoded, runner: ContextRunner) -> ContextStates:
        """The states of the context: from the cache, extended from its longest known beginning, or computed."""
        digests = prefix_digests(encoded)
        whole = digests[-1] if digests else b""
        if whole in self._states:
            self.n_unchanged += 1
            self._states.move_to_end(whole)
            return self._states[whole]
        known = next((digest for digest in reversed(digests) if digest in self._states), None)
        if known is not None:
            self.n_grown += 1
            states = runner.grow(encoded, self._states[known])
            self._forget(known)
        else:
            self.n_new += 1
            states = runner.contexts([encoded])
        self._keep(whole, states)
        return states

    def __len__(self) -> int:
        return len(self._states)

    def _keep(self, digest: bytes, states: ContextStates) -> None:
        self._states[digest] = states
        self.size_bytes += _size_bytes(states)
        while self.size_bytes > self.max_bytes and self._states:
            self._forget(next(iter(self._states)))

    def _forget(self, digest: bytes) -> None:
        self.size_bytes -= _size_bytes(self._states.pop(digest))


def prefix_digests(encoded: Encoded) -> list[bytes]:
    """A digest of the first 1, 2, ... n context tokens, by their content."""
    tokens: list[bytes] = []
    if encoded.context_vectors is not None:
        tokens = [b"start", *(b"v" + vector.tobytes() for vector in encoded.context_vectors)]
    tokens += [b"w%d" % token for token in encoded.context_ids]
    digests, before = [], b""
    for token in tokens:
        before = hashlib.blake2b(before + token, digest_size=16).digest()
        digests.append(before)
    return digests


def _size_bytes(states: ContextStates) -> int:
    return sum(tensor.nbytes for tensors in (states.keys, states.values) for tensor in tensors)
