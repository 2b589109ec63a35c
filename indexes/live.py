"""An index that changes while it is searched: an immutable base, a small delta of new vectors, and tombstones.

A searching thread takes one state and keeps it; a change makes a new state and puts it in place, so that no search sees
half of a change and none waits for a lock. The delta is searched exactly. `compact` builds a new base from all that is
alive, while searches and changes go on. A row, once given, is never given again.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from indexes.choose import build_index
from indexes.hits import Hits, Index, Param, check_allowed, check_queries, empty_hits, merge
from indexes.live_state import Living, State, search_base, search_delta
from indexes.vectors import blocks

Allocate = Callable[[tuple[int, int]], np.ndarray]


def check_base_vectors(base: Index | None, vectors: np.ndarray | None) -> None:
    """Say what is wrong with `vectors` as those that a base was built from; only their shape is looked at."""
    if vectors is None:
        return
    if base is None and len(vectors):
        raise ValueError(
            f"vectors: expected None without a base, got {len(vectors)}; build a base from them or add them"
        )
    if base is not None and vectors.shape != (base.n_items, base.dim):
        expected = (base.n_items, base.dim)
        raise ValueError(f"vectors: expected shape {expected}, those of the base, got {vectors.shape}")


def _same_place(one: np.ndarray, other: np.ndarray) -> bool:
    """Tell whether two arrays lie in the same memory, or are memory maps of the same file."""
    if isinstance(one, np.memmap) and isinstance(other, np.memmap) and one.filename is not None:
        return str(one.filename) == str(other.filename)
    return np.may_share_memory(one, other)


class LiveIndex:
    """Keeps the `Index` protocol and changes: `add`, `replace`, `remove`, `compact`; all from any thread."""

    family = "live"

    def __init__(self, base: Index | None, vectors: np.ndarray | None = None, *, dim: int | None = None) -> None:
        """Start from a base, or from nothing.

        Args:
            vectors: float32 (n_items, dim), what the base was built from, an array or a memory map; read by
                `compact` alone, which cannot work without it (an index holds rounded vectors). None without a base.
            dim: needed without a base.
        """
        if base is None and dim is None:
            raise ValueError("dim: expected the dimension of the vectors to come, got None and no base")
        check_base_vectors(base, vectors)
        n_base = 0 if base is None else base.n_items
        self._dim = int(dim if base is None and dim is not None else getattr(base, "dim", 0))
        self._changing, self._compacting = threading.Lock(), threading.Lock()
        self._slot_of_row: dict[int, int] = {}
        self._buffer = np.empty((0, self._dim), dtype=np.float32)
        self._state = State(
            base=base,
            base_rows=np.arange(n_base, dtype=np.int64),
            hidden=np.zeros(n_base, dtype=bool),
            delta=self._buffer,
            delta_rows=np.empty(0, dtype=np.int64),
            delta_dead=np.empty(0, dtype=bool),
            n_rows=n_base,
            vectors=None if base is None else vectors,
        )

    @classmethod
    def restore(
        cls,
        base: Index | None,
        vectors: np.ndarray | None,
        *,
        dim: int,
        n_rows: int,
        base_rows: np.ndarray,
        hidden: np.ndarray,
        delta: np.ndarray,
        delta_rows: np.ndarray,
        vectors_sha256: str | None = None,
    ) -> "LiveIndex":
        """Put together what `State` says, without dead vectors in the delta; ValueError if the parts do not fit."""
        live = cls(base, vectors, dim=dim)
        n_base = len(live.state().base_rows)
        rows = np.concatenate([base_rows[~hidden], delta_rows]) if base_rows.shape == hidden.shape else base_rows
        fits = base_rows.shape == hidden.shape == (n_base,) and (np.diff(base_rows) > 0).all()
        fits = fits and live.dim == dim and delta.shape == (len(delta_rows), dim) and np.isfinite(delta).all()
        if not fits or len(np.unique(rows)) != len(rows) or ((rows < 0) | (rows >= n_rows)).any():
            raise ValueError("expected each row once, and as many positions as the base has")
        given = replace(live.state(), base_rows=base_rows, hidden=hidden, n_rows=n_rows)
        given = replace(given, vectors_sha256=vectors_sha256)
        live._state = live._append(given, delta_rows, delta)
        return live

    @property
    def n_items(self) -> int:
        """Rows given so far, dead ones included, since that is what rows and filter masks run over."""
        return self._state.n_rows

    @property
    def n_alive(self) -> int:
        """Rows that a search may find."""
        return int(np.count_nonzero(self._state.alive()))

    @property
    def n_delta(self) -> int:
        """Vectors outside the base, dead ones included; compacting pays once this slows searches down."""
        return len(self._state.delta_rows)

    @property
    def vectors(self) -> np.ndarray | None:
        """float32 (n_base, dim), what the base was built from; keep it beside a saved index for `load_live`.

        Not to be changed. `compact` makes another array, with as many rows as live then. None if it is not known.
        """
        return self._state.vectors

    @property
    def dim(self) -> int:
        """Dimension of the vectors and queries."""
        return self._dim

    @property
    def params(self) -> Mapping[str, Param]:
        """The family of the base as "base", and its parameters; empty without a base."""
        base = self._state.base
        return {} if base is None else {"base": base.family, **base.params}

    def search(self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None) -> Hits:
        """See `Index.search`; dead rows are never found.

        `allowed` may be shorter than `n_items`, since rows may have been given since it was made: those are barred.
        """
        state = self._state
        queries, k = check_queries(queries, k, self._dim), int(k)  # a small NumPy integer would overflow
        if allowed is not None and allowed.ndim == 1 and len(allowed) < state.n_rows:
            allowed = np.pad(allowed, (0, state.n_rows - len(allowed)))
        mask = check_allowed(allowed, state.n_rows)
        if len(queries) == 0:
            return empty_hits(0, k)
        return merge([search_base(state, queries, k, mask), search_delta(state, queries, k, mask)], k)

    def state(self) -> State:
        """Return what a search would use now; it never changes."""
        return self._state

    def add(self, vectors: np.ndarray) -> np.ndarray:
        """Take in new items, float32 (n, dim), found by the next search; returns their rows, int64 (n,)."""
        checked = self._check_vectors(vectors)
        with self._changing:
            state = self._state
            rows = np.arange(state.n_rows, state.n_rows + len(checked), dtype=np.int64)
            self._state = replace(self._append(state, rows, checked), n_rows=state.n_rows + len(checked))
        return rows

    def replace(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Give living rows other vectors, float32 (len(rows), dim), as when an item's text has changed.

        Raises:
            ValueError: a row that is dead, was never given, or is named twice; nothing has changed then.
        """
        checked = self._check_vectors(vectors)
        if len(checked) != len(rows):
            raise ValueError(f"vectors: expected {len(rows)}, one per row, got {len(checked)}")
        with self._changing:
            numbers = self._check_rows(rows)
            self._state = self._append(self._kill(self._state, numbers), numbers, checked)

    def remove(self, rows: np.ndarray) -> None:
        """Let living rows be found no more; errors as for `replace`."""
        with self._changing:
            numbers = self._check_rows(rows)
            self._state = self._kill(self._state, numbers)
            for row in numbers.tolist():
                self._slot_of_row.pop(row, None)

    def alive(self) -> np.ndarray:
        """Return bool (n_items,), True for the rows that live."""
        return self._state.alive()

    def compact(self, *, build: Callable[[np.ndarray], Index] = build_index, allocate: Allocate | None = None) -> None:
        """Build a new base from the living rows and put it in place; what changes meanwhile stays in the delta.

        Args:
            build: from float32 (n_alive, dim) to an index.
            allocate: makes the array that holds all living vectors, for instance a memory map of a new file; None takes
                memory. Never the array or the file of `vectors`: those are read while the new ones are written.

        Raises:
            ValueError: the vectors of the base are not known, or `allocate` gave their place away. Opening a file anew
                may have emptied it, so after that they count as not known.
        """
        with self._compacting:
            before = self._state
            if len(before.base_rows) and before.vectors is None:
                raise ValueError("vectors: expected those of the base in order to build again, got None")
            living = Living.of(before)
            vectors = self._allocate(before, (len(living.order), self._dim), allocate)
            living.copy_vectors(before, vectors)
            base = build(vectors) if len(vectors) else None
            with self._changing:
                self._switch(before, living, base, vectors)

    def _allocate(self, before: State, shape: tuple[int, int], allocate: Allocate | None) -> np.ndarray:
        if allocate is None or shape[0] == 0:  # there are no memory maps of nothing
            return np.empty(shape, dtype=np.float32)
        vectors = allocate(shape)
        if before.vectors is not None and _same_place(vectors, before.vectors):
            with self._changing:
                self._state = replace(self._state, vectors=None)
            raise ValueError("allocate: expected an array in a place of its own, got that of the vectors of the base")
        return vectors

    def _switch(self, before: State, living: Living, base: Index | None, vectors: np.ndarray) -> None:
        """Put the base of what was `living` before in place, less what died and plus what came since."""
        now, n_seen = self._state, len(before.delta_rows)
        self._buffer = now.delta[n_seen:].copy()
        self._slot_of_row = {row: slot - n_seen for row, slot in self._slot_of_row.items() if slot >= n_seen}
        self._state = State(
            base=base,
            base_rows=living.pick(before.base_rows, before.delta_rows),
            hidden=living.pick(now.hidden, now.delta_dead),
            delta=self._buffer,
            delta_rows=now.delta_rows[n_seen:].copy(),
            delta_dead=now.delta_dead[n_seen:].copy(),
            n_rows=now.n_rows,
            vectors=None if base is None else vectors,
        )

    def _append(self, state: State, rows: np.ndarray, vectors: np.ndarray) -> State:
        """Put vectors behind the delta; older states look at the same buffer, but not that far."""
        n_before, n_after = len(state.delta_rows), len(state.delta_rows) + len(rows)
        if n_after > len(self._buffer):
            grown = np.empty((max(n_after, 2 * len(self._buffer)), self._dim), dtype=np.float32)
            grown[:n_before] = state.delta
            self._buffer = grown
        self._buffer[n_before:n_after] = vectors
        self._slot_of_row.update(zip(rows.tolist(), range(n_before, n_after), strict=True))
        return replace(
            state,
            delta=self._buffer[:n_after],
            delta_rows=np.concatenate([state.delta_rows, rows]),
            delta_dead=np.concatenate([state.delta_dead, np.zeros(len(rows), dtype=bool)]),
        )

    def _kill(self, state: State, rows: np.ndarray) -> State:
        hidden, dead = state.hidden.copy(), state.delta_dead.copy()
        slots = [self._slot_of_row[row] for row in rows.tolist() if row in self._slot_of_row]
        dead[slots] = True
        positions = np.searchsorted(state.base_rows, rows)
        inside = positions < len(state.base_rows)
        positions, rows = positions[inside], rows[inside]
        hidden[positions[state.base_rows[positions] == rows]] = True
        return replace(state, hidden=hidden, delta_dead=dead)

    def _check_vectors(self, vectors: np.ndarray) -> np.ndarray:
        array = np.asarray(vectors)
        if array.ndim != 2 or array.shape[1] != self._dim or array.dtype.kind != "f":
            raise ValueError(f"vectors: expected float32 (n, {self._dim}), got {array.dtype} {array.shape}")
        return np.concatenate([np.empty((0, self._dim), dtype=np.float32), *blocks(array)])

    def _check_rows(self, rows: np.ndarray) -> np.ndarray:
        numbers = np.asarray(rows)
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            raise ValueError(f"rows: expected integers of shape (n,), got {numbers.dtype} {numbers.shape}")
        numbers = numbers.astype(np.int64)
        if len(np.unique(numbers)) != len(numbers):
            raise ValueError("rows: expected each row once, got one twice")
        known = (numbers >= 0) & (numbers < self._state.n_rows)
        known[known] = self._state.alive()[numbers[known]]
        if not known.all():
            raise ValueError(f"rows: expected living rows, got {int(numbers[np.argmin(known)])}")
        return numbers
