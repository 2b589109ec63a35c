"""GPT-2's forward for one context and many candidates: the context is computed once, all candidates read it.

Attention of a candidate token has two parts. All candidate queries of a user meet the user's context keys in ONE matrix
product; each candidate meets its own earlier tokens apart. The parts are joined in one softmax through their maxima and
sums of exponentials (the online softmax of Milakov and Gimelshein, arXiv 1805.02867), so the result equals the plain
forward of one pair up to rounding. The last block computes queries and the feed-forward part only for the row where the
score is read. The functions are differentiable: training uses the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from rerank.packing import CandidateLayout, ContextLayout, Slots


class Block(Protocol):
    """One GPT-2 block over packed rows; `rows` is float32 or the compute dtype (n_rows, width)."""

    n_head: int
    scaling: float
    attention_dropout: float

    def norm_1(self, rows: torch.Tensor) -> torch.Tensor: ...
    def qkv(self, rows: torch.Tensor) -> torch.Tensor: ...  # (n_rows, 3 * width)
    def kv(self, rows: torch.Tensor) -> torch.Tensor: ...  # (n_rows, 2 * width)
    def q(self, rows: torch.Tensor) -> torch.Tensor: ...  # (n_rows, width)
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
    queries = layout.last_queries if only_last else layout.queries
    shared = None
    if states.layout.slots.width:
        shared = _shared_part(block, q, queries, states, number)
    own = _own_part(block, q, k, v, layout, only_last=only_last)
    return _join(shared, own, q.dtype)


Part = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Unnormalised output (n_queries, n_head, head_dim), sum of exponentials and maximum (n_queries, n_head, 1)."""


def _shared_part(block: Block, q: torch.Tensor, slots: Slots, states: ContextStates, number: int) -> Part:
    query = heads(slots.pad(q), block.n_head)
    scores = query @ states.keys[number].transpose(-1, -2)  # (n_users, n_head, n_queries, context)
    scores = scores.float() * block.scaling
    if states.layout.hidden is not None:
        scores = scores.masked_fill(states.layout.hidden, torch.finfo(torch.float32).min)
    # A user without any context has only holes: its maximum is the lowest float, so the join weighs it by zero.
    out, total, top = _weigh(scores, states.values[number], block.attention_dropout)
    return (
        slots.unpad(out.transpose(1, 2)),
        slots.unpad(total.transpose(1, 2)),
        slots.unpad(top.transpose(1, 2)),
    )


def _own_part(
    block: Block, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: CandidateLayout, *, only_last: bool
) -> Part:
    n_head = block.n_head
    if layout.own.width == 1:
        # One token per candidate: its own weight is exp(q.k) and its output is v itself.
        query, key, value = (part.view(len(part), n_head, -1) for part in (q, k, v))
        top = (query.float() * key.float()).sum(-1, keepdim=True) * block.scaling
        total = torch.ones_like(top)
        return F.dropout(total, block.attention_dropout) * value, total, top
    key, value = (heads(layout.own.pad(part), n_head) for part in (k, v))
    if only_last:
        query = q.view(len(q), n_head, 1, -1)
        scores = (query @ key.transpose(-1, -2)).float() * block.scaling
        if layout.own.places is not None:
            holes = torch.arange(layout.own.width, device=q.device)[None, :] >= layout.lengths[:, None]
            scores = scores.masked_fill(holes[:, None, None, :], torch.finfo(torch.float32).min)
        out, total, top = _weigh(scores, value, block.attention_dropout)
        return out.squeeze(2), total.squeeze(2), top.squeeze(2)
    query = heads(layout.own.pad(q), n_head)
    scores = (query @ key.transpose(-1, -2)).float() * block.scaling
    width = layout.own.width
    future = torch.ones(width, width, dtype=torch.bool, device=q.device).triu(1)
    out, total, top = _weigh(scores.masked_fill(future, torch.finfo(torch.float32).min), value, block.attention_dropout)
    return (
        layout.own.unpad(out.transpose(1, 2)),
        layout.own.unpad(total.transpose(1, 2)),
        layout.own.unpad(top.transpose(1, 2)),
    )


def _weigh(scores: torch.Tensor, value: torch.Tensor, dropout: float) -> Part:
    """Exponentials of `scores` (..., n_queries, n_keys) against their maximum, applied to `value`, not normalised."""
    top = scores.detach().amax(-1, keepdim=True)
    weights = torch.exp(scores - top)
    total = weights.sum(-1, keepdim=True)
    if dropout:
        weights = F.dropout(weights, dropout)
    return weights.to(value.dtype) @ value, total, top


def _join(shared: Part | None, own: Part, dtype: torch.dtype) -> torch.Tensor:
    out, total, top = own
    if shared is not None:
        shared_out, shared_total, shared_top = shared
        highest = torch.maximum(top, shared_top).detach()
        weight, shared_weight = torch.exp(top - highest), torch.exp(shared_top - highest)
        out = out * weight + shared_out * shared_weight
        total = total * weight + shared_total * shared_weight
    return (out / total).to(dtype).flatten(1)
