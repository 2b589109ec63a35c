"""GPT-2's forward for one context and many candidates: the context is computed once, all candidates read it.

Attention of a candidate token has two parts. All candidate queries of a user meet the user's context keys in ONE matrix
product; each candidate meets its own earlier tokens apart. The parts are joined in one softmax, so the result equals
the plain forward of one pair up to rounding. The last block computes queries and the feed-forward part only for the
row where the score is read. The functions are differentiable: training uses the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from rerank.attention import Part, attend, join
from rerank.packing import CandidateLayout, ContextLayout, Slots, candidate_layout, context_layout


class Block(Protocol):
    """One GPT-2 block over packed rows; `rows` is float32 or the compute dtype (n_rows, width)."""

    n_head: int
    scaling: float
    attention_dropout: float

    def norm_1(self, rows: torch.Tensor) -> torch.Tensor:
        """The norm before attention: (n_rows, width)."""
        ...

    def qkv(self, rows: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values of normed rows: (n_rows, 3 * width)."""
        ...

    def kv(self, rows: torch.Tensor) -> torch.Tensor:
        """Keys and values: (n_rows, 2 * width)."""
        ...

    def q(self, rows: torch.Tensor) -> torch.Tensor:
        """Queries alone: (n_rows, width)."""
        ...

    def finish(self, rows: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Output projection, residual, second norm, feed-forward, residual."""
        ...


@dataclass(frozen=True)
class ContextStates:
    """Keys and values of n users' contexts for every block."""

    keys: Sequence[torch.Tensor]
    """Per block (n_users, n_head, longest context, head_dim)."""
    values: Sequence[torch.Tensor]
    layout: ContextLayout


def heads(padded: torch.Tensor, n_head: int) -> torch.Tensor:
    """(groups, width, n_head * head_dim) -> (groups, n_head, width, head_dim), a view."""
    groups, width, features = padded.shape
    return padded.view(groups, width, n_head, features // n_head).transpose(1, 2)


def merge_heads(attended: torch.Tensor) -> torch.Tensor:
    """(groups, n_head, width, head_dim) -> (groups, width, n_head * head_dim)."""
    return attended.transpose(1, 2).flatten(2)


def run_context(blocks: Sequence[Block], rows: torch.Tensor, layout: ContextLayout) -> ContextStates:
    """Keys and values of the contexts. rows: embeddings with positions added, packed (n_rows, width)."""
    keys, values = [], []
    slots = layout.slots
    for number, block in enumerate(blocks):
        normed = block.norm_1(rows)
        if number == len(blocks) - 1:
            k, v = block.kv(normed).chunk(2, dim=-1)
        else:
            q, k, v = block.qkv(normed).chunk(3, dim=-1)
        key, value = (heads(slots.pad(part), block.n_head) for part in (k, v))
        keys.append(key)
        values.append(value)
        if number == len(blocks) - 1:
            break
        # Holes stand at the right end, so the causal mask hides them from every real query.
        attended = F.scaled_dot_product_attention(
            heads(slots.pad(q), block.n_head),
            key,
            value,
            dropout_p=block.attention_dropout,
            is_causal=True,
            scale=block.scaling,
        )
        rows = block.finish(rows, slots.unpad(merge_heads(attended)))
    return ContextStates(keys, values, layout)


def run_candidates(
    blocks: Sequence[Block], rows: torch.Tensor, layout: CandidateLayout, states: ContextStates
) -> torch.Tensor:
    """The last hidden state (before the final norm) of every candidate's last token: (n_candidates, width)."""
    for number, block in enumerate(blocks):
        normed = block.norm_1(rows)
        if number == len(blocks) - 1 and layout.last_rows is not None:
            k, v = block.kv(normed).chunk(2, dim=-1)
            q = block.q(normed.index_select(0, layout.last_rows))
            rows = rows.index_select(0, layout.last_rows)
            attended = _attend(block, q, k, v, layout, states, number, only_last=True)
        else:
            q, k, v = block.qkv(normed).chunk(3, dim=-1)
            attended = _attend(block, q, k, v, layout, states, number, only_last=False)
        rows = block.finish(rows, attended)
    return rows


def extend_context(blocks: Sequence[Block], rows: torch.Tensor, states: ContextStates) -> ContextStates:
    """States of ONE user whose context grew at its end. rows: embeddings of the new tokens, packed (n_new, width)."""
    layout = candidate_layout(states.layout.lengths, [1], [len(rows)], rows.device)
    keys, values = [], []
    for number, block in enumerate(blocks):
        normed = block.norm_1(rows)
        is_last = number == len(blocks) - 1
        q, k, v = (None, *block.kv(normed).chunk(2, dim=-1)) if is_last else block.qkv(normed).chunk(3, dim=-1)
        for found, old, new in ((keys, states.keys, k), (values, states.values, v)):
            found.append(torch.cat([old[number], heads(new.unsqueeze(0), block.n_head)], dim=2))
        if q is not None:
            rows = block.finish(rows, _attend(block, q, k, v, layout, states, number, only_last=False))
    return ContextStates(keys, values, context_layout(states.layout.lengths + layout.own.width, rows.device))


def _attend(
    block: Block,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    layout: CandidateLayout,
    states: ContextStates,
    number: int,
    *,
    only_last: bool,
) -> torch.Tensor:
    """Joined attention of candidate rows over context and own tokens: (n_queries, width)."""
    part = _own_part(block, q, k, v, layout, only_last=only_last)
    if states.layout.slots.width:
        slots = layout.last_queries if only_last else layout.queries
        shared = attend(
            heads(slots.pad(q), block.n_head),
            states.keys[number],
            states.values[number],
            scaling=block.scaling,
            hidden=states.layout.hidden,
            dropout=block.attention_dropout,
        )
        part = join(part, _packed(shared, slots))
    return part[0].flatten(1)


def _packed(part: Part, slots: Slots) -> Part:
    """(groups, n_head, width, ...) -> (n_rows, n_head, ...)."""
    out, log_sum = part
    return slots.unpad(out.transpose(1, 2)), slots.unpad(log_sum.transpose(1, 2))


def _own_part(
    block: Block, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: CandidateLayout, *, only_last: bool
) -> Part:
    """Each candidate token over its candidate's tokens up to itself: (n_queries, n_head, ...)."""
    n_head, width = block.n_head, layout.own.width
    if width == 1:
        # One token per candidate: its output is v itself, its log-sum q.k.
        query, key, value = (part.view(len(part), n_head, -1) for part in (q, k, v))
        kept = F.dropout(torch.ones_like(value[..., :1]), block.attention_dropout, training=True)
        return kept * value if block.attention_dropout else value, (query * key).sum(-1).float() * block.scaling
    key, value = (heads(layout.own.pad(part), n_head) for part in (k, v))
    hidden: torch.Tensor | None
    if only_last:
        query, hidden = q.view(len(q), n_head, 1, -1), None
        if layout.own.places is not None:
            places = torch.arange(width, device=q.device)
            hidden = (places[None, :] >= layout.lengths[:, None])[:, None, None, :]
    else:
        query = heads(layout.own.pad(q), n_head)
        hidden = torch.ones(width, width, dtype=torch.bool, device=q.device).triu_(1)[None, None]
    part = attend(query, key, value, scaling=block.scaling, hidden=hidden, dropout=block.attention_dropout)
    return _packed(part, Slots(len(q), 1, None) if only_last else layout.own)
