"""One GPT-2 block over packed rows, in two kinds: for training (live parameters) and for scoring (prepared weights)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from rerank.kernels import PreparedLinear, linear


def activation(name: str, rows: torch.Tensor) -> torch.Tensor:
    """The feed-forward activation of a GPT-2 configuration; GPT-2's own in one pass instead of five."""
    if name in ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"):
        return F.gelu(rows, approximate="tanh")
    return ACT2FN[name](rows)


class LiveBlock:
    """A block that reads a module's parameters at every call, so that gradients flow.

    Norms, residuals and softmax stay in float32; matrix products run in `dtype`.
    """

    def __init__(self, module: GPT2Block, *, dtype: torch.dtype, dropout: float) -> None:
        self.module = module
        self.dtype = dtype
        self.n_head: int = module.attn.num_heads
        self.scaling: float = module.attn.scaling
        self.attention_dropout = self.residual_dropout = dropout
        self.width: int = module.attn.embed_dim
        self.activation: str = module.attn.config.activation_function
        self._qkv = (module.attn.c_attn.weight, module.attn.c_attn.bias)

    def norm_1(self, rows: torch.Tensor) -> torch.Tensor:
        """The norm before attention: float32 (n_rows, width)."""
        return _norm(self.module.ln_1, rows)

    def qkv(self, rows: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values of normed rows: `dtype` (n_rows, 3 * width)."""
        weight, bias = self._qkv
        return linear(rows, weight, bias, self.dtype)

    def kv(self, rows: torch.Tensor) -> torch.Tensor:
        """Keys and values: `dtype` (n_rows, 2 * width)."""
        weight, bias = self._qkv
        return linear(rows, weight[:, self.width :], bias[self.width :], self.dtype)

    def q(self, rows: torch.Tensor) -> torch.Tensor:
        """Queries alone: `dtype` (n_rows, width)."""
        weight, bias = self._qkv
        return linear(rows, weight[:, : self.width], bias[: self.width], self.dtype)

    def finish(self, rows: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Output projection, residual, second norm, feed-forward, residual: float32 (n_rows, width)."""
        module = self.module
        out = linear(attended, module.attn.c_proj.weight, module.attn.c_proj.bias, self.dtype)
        rows = rows + F.dropout(out, self.residual_dropout, training=self.residual_dropout > 0)
        inner = linear(_norm(module.ln_2, rows), module.mlp.c_fc.weight, module.mlp.c_fc.bias, self.dtype)
        inner = activation(self.activation, inner)
        out = linear(inner, module.mlp.c_proj.weight, module.mlp.c_proj.bias, self.dtype)
        return rows + F.dropout(out, self.residual_dropout, training=self.residual_dropout > 0)


class FrozenBlock:
    """A block whose matrices are copied, cast and laid out once, for scoring. The two norms stay the module's own."""

    attention_dropout = 0.0
    scaling = 1.0  # queries come out already scaled

    def __init__(self, module: GPT2Block, *, dtype: torch.dtype) -> None:
        attention, mlp = module.attn, module.mlp
        self.n_head: int = attention.num_heads
        width: int = attention.embed_dim
        self.dtype = dtype
        self.ln_1, self.ln_2 = module.ln_1, module.ln_2
        weight, bias = _with_scaled_queries(attention.c_attn.weight, attention.c_attn.bias, attention.scaling)
        gelu = attention.config.activation_function
        self.qkv = PreparedLinear(weight, bias, dtype)
        self.kv = PreparedLinear(weight[:, width:], bias[width:], dtype)
        self.q = PreparedLinear(weight[:, :width], bias[:width], dtype)
        self._out = PreparedLinear(attention.c_proj.weight, attention.c_proj.bias, dtype)
        self._inner = PreparedLinear(mlp.c_fc.weight, mlp.c_fc.bias, dtype, activation=gelu)
        self._outer = PreparedLinear(mlp.c_proj.weight, mlp.c_proj.bias, dtype)

    def norm_1(self, rows: torch.Tensor) -> torch.Tensor:
        """The norm before attention: `dtype` (n_rows, width)."""
        return _norm(self.ln_1, rows).to(self.dtype)

    def finish(self, rows: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Output projection, residual, second norm, feed-forward, residual: (n_rows, width)."""
        rows = rows + self._out(attended)
        return rows.add_(self._outer(self._inner(_norm(self.ln_2, rows).to(self.dtype))))


def _with_scaled_queries(weight: torch.Tensor, bias: torch.Tensor, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
    """GPT-2's joint projection (width, 3 * width) with the attention scale moved into the query columns."""
    width = weight.shape[0]
    scale = torch.ones(3 * width, dtype=weight.dtype, device=weight.device)
    scale[:width] = scaling
    return weight.detach() * scale, bias.detach() * scale


def _norm(norm: nn.LayerNorm, rows: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(rows, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
