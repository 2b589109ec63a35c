"""What a live index is at one moment, and how that is searched; nothing here ever changes."""

from dataclasses import dataclass

import numpy as np

from indexes.hits import Hits, Index, empty_hits, finish
from indexes.vectors import BLOCK_ROWS

QUERY_BLOCK = 1_024
"""Queries compared with the delta at once."""


@dataclass(frozen=True)
class State:
    """Everything a search needs. A row is alive in one place at most: not hidden in the base, or last in the delta."""

    base: Index | None
    base_rows: np.ndarray
    """int64 (n_base,), rising: which row lies at each position of the base."""
    hidden: np.ndarray
    """bool (n_base,), True where the row was removed or replaced."""
    delta: np.ndarray
    """float32 (n_delta, dim), in the order of arrival."""
    delta_rows: np.ndarray
    """int64 (n_delta,)"""
    delta_dead: np.ndarray
    """bool (n_delta,)"""
    n_rows: int
    """Rows given so far, dead ones included."""
    vectors: np.ndarray | None = None
    """float32 (n_base, dim), what the base was built from, if that is known; read by compacting alone."""
    vectors_sha256: str | None = None
    """Their fingerprint, where it was worked out; known of an index loaded without them too."""

    def alive(self) -> np.ndarray:
        """bool (n_rows,), the rows that a search may find."""
        mask = np.zeros(self.n_rows, dtype=bool)
        mask[self.base_rows[~self.hidden]] = True
        mask[self.delta_rows[~self.delta_dead]] = True
        return mask


@dataclass(frozen=True)
class Living:
    """Where the vectors that live in a state are, in the order of their rows."""

    positions: np.ndarray
    """int64, those in the base."""
    slots: np.ndarray
    """int64, those in the delta."""
    order: np.ndarray
    """int64 (n_alive,), which of the positions, with the slots behind them, comes at each place."""

    @classmethod
    def of(cls, state: State) -> "Living":
        """Find them in a state."""
        positions, slots = np.flatnonzero(~state.hidden), np.flatnonzero(~state.delta_dead)
        rows = np.concatenate([state.base_rows[positions], state.delta_rows[slots]])
        return cls(positions, slots, np.argsort(rows))

    def pick(self, of_base: np.ndarray, of_delta: np.ndarray) -> np.ndarray:
        """Put together what two arrays, one entry per position and per slot, say of the living: (n_alive,)."""
        return np.concatenate([of_base[self.positions], of_delta[self.slots]])[self.order]

    def copy_vectors(self, state: State, target: np.ndarray) -> None:
        """Write their vectors into `target`, float32 (n_alive, dim), block by block."""
        for start in range(0, len(self.order), BLOCK_ROWS):
            places = self.order[start : start + BLOCK_ROWS]
            in_base = places < len(self.positions)
            block = np.empty((len(places), state.delta.shape[1]), dtype=np.float32)
            if state.vectors is not None:
                block[in_base] = state.vectors[self.positions[places[in_base]]]
            block[~in_base] = state.delta[self.slots[places[~in_base] - len(self.positions)]]
            target[start : start + len(places)] = block


def search_base(state: State, queries: np.ndarray, k: int, mask: np.ndarray | None) -> Hits:
    """Search the base, without its dead rows; `mask` runs over all rows."""
    if state.base is None:
        return empty_hits(len(queries), k)
    n_hidden = int(np.count_nonzero(state.hidden))
    if mask is None and n_hidden <= k:
        # A few dead rows are cheaper to drop from a longer list than to filter for.
        found = state.base.search(queries, k + n_hidden)
        rows = np.where((found.rows < 0) | state.hidden[found.rows], -1, found.rows)
    else:
        allowed = ~state.hidden if mask is None else ~state.hidden & mask[state.base_rows]
        found = state.base.search(queries, k, allowed=allowed)
        rows = found.rows
    known = np.where(rows < 0, -1, state.base_rows[rows])
    scores = np.where(rows < 0, -np.inf, found.scores)
    return finish(scores, known, scores.shape[1])


def search_delta(state: State, queries: np.ndarray, k: int, mask: np.ndarray | None) -> Hits:
    """Search the delta exactly; `mask` runs over all rows."""
    alive = ~state.delta_dead if mask is None else ~state.delta_dead & mask[state.delta_rows]
    slots = np.flatnonzero(alive)
    if slots.size == 0:
        return empty_hits(len(queries), k)
    rows = state.delta_rows[slots]
    order = np.argsort(rows)
    vectors, rows = state.delta[slots[order]], rows[order]
    parts = []
    for start in range(0, len(queries), QUERY_BLOCK):
        scores = queries[start : start + QUERY_BLOCK] @ vectors.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        parts.append((np.take_along_axis(scores, best, axis=1), rows[best]))
    return finish(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]), k)
