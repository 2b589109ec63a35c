"""The trained part of recall: item text vectors in, item and user vectors of one space out.

An item's vector is a linear map of its frozen BERT vector plus a residual learned per item. The residual is dropped
whole in training (for a share of the items of every step), so that the map alone also works: a new item has no residual
and is still placed well. New items are like rare ones, so popular items keep theirs more often. A user's vector comes
from a causal transformer over the vectors of the history, as in SASRec (Kang and McAuley 2018), with relative instead
of absolute positions: only the distance from the newest item matters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from retrieval.encoder.head_config import HALF_DROPPED, HeadConfig


class _Block(nn.Module):
    """Pre-norm causal attention with a learned bias per head and distance, then a feed-forward layer."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        dim = config.dim
        self.n_heads = config.n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.wide, self.narrow = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.distance_bias = nn.Parameter(torch.zeros(config.n_heads, config.history_items))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, blocked: Tensor) -> Tensor:
        n, length, dim = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(n, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        position = torch.arange(length, device=x.device)
        distance = (position[:, None] - position[None, :]).clamp_min(0)
        bias = self.distance_bias[:, distance].unsqueeze(0).masked_fill(blocked[:, None], -1e4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(n, length, dim)))
        return x + self.dropout(self.narrow(nn.functional.gelu(self.wide(self.norm_2(x)))))


class RecallHead(nn.Module):
    """Item map, residuals and history transformer.

    Args:
        text_dim: length of the frozen text vectors.
        n_items: how many items have a residual of their own (rows 0..n_items-1).
    """

    def __init__(self, config: HeadConfig, *, text_dim: int, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.text_map = nn.Linear(text_dim, config.dim)
        self.residual = nn.Embedding(n_items, config.dim)
        self.input_map = nn.Linear(config.dim, config.dim)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.dim)
        self.user_map = nn.Linear(config.dim, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("drop_rate", torch.full((n_items,), config.residual_dropout), persistent=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / config.temperature)))
        nn.init.normal_(self.residual.weight, std=0.02 / math.sqrt(config.dim) * 4)
        nn.init.orthogonal_(self.text_map.weight)
        nn.init.zeros_(self.text_map.bias)

    def count_interactions(self, counts: Tensor) -> None:
        """Set how often residuals are dropped in training, by how often each item was taken: (n_items,)."""
        self.drop_rate = self.config.residual_dropout / (1 + counts / HALF_DROPPED)

    def item_vectors(self, text_vectors: Tensor, rows: Tensor | None = None) -> Tensor:
        """Vectors of items, length 1: (n, text_dim) -> (n, dim).

        Args:
            rows: the items' rows; -1, or one beyond the items it was made for, is an item without a residual; None
                means that no item has one.
        """
        mapped = self.text_map(text_vectors)
        if rows is not None:
            known = (rows >= 0) & (rows < self.residual.num_embeddings)
            rows = torch.where(known, rows, 0)
            residual = self.residual(rows) * known.unsqueeze(-1)
            if self.training and self.config.residual_dropout > 0:
                kept = torch.rand(len(rows), device=residual.device) >= self.drop_rate[rows]
                residual = residual * kept.unsqueeze(-1)
            mapped = mapped + residual
        return nn.functional.normalize(mapped, dim=-1)

    def states(self, item_vectors: Tensor, padding: Tensor) -> Tensor:
        """The user's vector after every item of the history, oldest first.

        Args:
            item_vectors: (n_users, length, dim), oldest first, padded at the old end.
            padding: bool (n_users, length), true where there is no item.

        Returns:
            (n_users, length, dim), length 1; what stands at padding is meaningless.
        """
        length = item_vectors.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=item_vectors.device).triu(1)
        blocked = causal | padding[:, None, :]
        x = self.dropout(self.input_map(item_vectors))
        for block in self.blocks:
            x = block(x, blocked)
        # The newest item's own vector is the best single guess of the next one; the map learns what to add to it.
        return nn.functional.normalize(self.user_map(self.norm(x)) + item_vectors, dim=-1)
