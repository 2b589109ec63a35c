"""Where every token of a batch stands, so that rows are packed for matrix products and padded only for attention.

Rows are packed: all context tokens user after user, and (apart) all candidate tokens, user after user, candidate after
candidate, with no padding in between. Attention needs rectangles; a `Slots` maps packed rows to a padded rectangle and
back, and costs nothing when the rectangle has no holes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Slots:
    """A map between packed rows (n_rows, ...) and a padded rectangle (n_groups, width, ...)."""

    n_groups: int
    width: int
    places: torch.Tensor | None
    """int64 (n_rows,): the place of each row in the flattened rectangle; None when it has no holes."""

    def pad(self, rows: torch.Tensor) -> torch.Tensor:
        """(n_rows, features) -> (n_groups, width, features), holes filled with zeros."""
        if self.places is not None:
            padded = rows.new_zeros(self.n_groups * self.width, rows.shape[-1])
            rows = padded.index_copy(0, self.places, rows)
        return rows.view(self.n_groups, self.width, rows.shape[-1])

    def unpad(self, padded: torch.Tensor) -> torch.Tensor:
        """(n_groups, width, ...) -> (n_rows, ...)."""
        flat = padded.reshape(self.n_groups * self.width, *padded.shape[2:])
        return flat if self.places is None else flat.index_select(0, self.places)


def make_slots(lengths: np.ndarray, device: torch.device) -> Slots:
    """Slots for groups of the given lengths: int64 (n_groups,), zeros allowed."""
    width = int(lengths.max(initial=0))
    if len(lengths) == 0 or (lengths == width).all():
        return Slots(len(lengths), width, None)
    places = np.repeat(np.arange(len(lengths)) * width, lengths) + offsets_within(lengths)
    return Slots(len(lengths), width, torch.from_numpy(places).to(device))


def offsets_within(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ..., length - 1 for each group in turn: int64 (sum of lengths,)."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - np.repeat(starts, lengths)


def group_users(users: Iterable[int], rows: Sequence[int], max_rows: int) -> Iterator[list[int]]:
    """Neighbours in the order given, about max_rows rows together; a user with more is alone. rows: by user."""
    group: list[int] = []
    total = 0
    for user in users:
        if group and total + rows[user] > max_rows:
            yield group
            group, total = [], 0
        group.append(user)
        total += rows[user]
    if group:
        yield group


@dataclass(frozen=True)
class ContextLayout:
    """The context tokens of n users."""

    lengths: np.ndarray
    """int64 (n_users,), zero for a user without any context token."""
    slots: Slots
    """Packed context rows <-> (n_users, longest context)."""
    positions: torch.Tensor
    """int64 (n_rows,): position of each token, from 0."""
    hidden: torch.Tensor | None
    """bool (n_users, 1, 1, width): True where a key is a hole; None when there is none."""


@dataclass(frozen=True)
class CandidateLayout:
    """The candidate tokens of n users, each with its own number of candidates, each candidate with its own length."""

    queries: Slots
    """Packed candidate rows <-> (n_users, most candidate tokens of a user)."""
    own: Slots
    """Packed candidate rows <-> (n_candidates, longest candidate)."""
    positions: torch.Tensor
    """int64 (n_rows,): a candidate's first token stands where its user's context ends."""
    last_rows: torch.Tensor | None
    """int64 (n_candidates,): the row where each candidate's score is read; None: every row (one token each)."""
    last_queries: Slots
    """Last rows <-> (n_users, most candidates of a user)."""
    lengths: torch.Tensor
    """int64 (n_candidates,): tokens of each candidate."""


def context_layout(lengths: Sequence[int] | np.ndarray, device: torch.device | str = "cpu") -> ContextLayout:
    """Lay out contexts of the given lengths (n_users,)."""
    device = torch.device(device)
    sizes = np.asarray(lengths, dtype=np.int64)
    slots = make_slots(sizes, device)
    hidden = None
    if slots.places is not None:
        holes = np.arange(slots.width)[None, :] >= sizes[:, None]
        hidden = torch.from_numpy(holes[:, None, None, :]).to(device)
    positions = torch.from_numpy(offsets_within(sizes)).to(device)
    return ContextLayout(sizes, slots, positions, hidden)


def candidate_layout(
    context_lengths: Sequence[int] | np.ndarray,
    candidate_counts: Sequence[int] | np.ndarray,
    candidate_lengths: Sequence[int] | np.ndarray,
    device: torch.device | str = "cpu",
) -> CandidateLayout:
    """Lay out candidates: `candidate_lengths` (n_candidates,) in packed order, each at least 1."""
    device = torch.device(device)
    starts = np.asarray(context_lengths, dtype=np.int64)
    counts = np.asarray(candidate_counts, dtype=np.int64)
    lengths = np.asarray(candidate_lengths, dtype=np.int64)
    if (lengths < 1).any():
        raise ValueError("every candidate needs at least one token")
    users = np.repeat(np.arange(len(counts)), counts)
    tokens_per_user = np.bincount(users, weights=lengths, minlength=len(counts)).astype(np.int64)
    positions = offsets_within(lengths) + np.repeat(starts[users], lengths)
    last = None
    if int(lengths.max(initial=1)) > 1:
        last = torch.from_numpy(np.cumsum(lengths) - 1).to(device)
    return CandidateLayout(
        queries=make_slots(tokens_per_user, device),
        own=make_slots(lengths, device),
        positions=torch.from_numpy(positions).to(device),
        last_rows=last,
        last_queries=make_slots(counts, device),
        lengths=torch.from_numpy(lengths).to(device),
    )
