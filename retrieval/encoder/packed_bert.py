"""Token ids of many texts in, their hidden states out, without padding: one matrix of token rows for the linear layers.

All tokens of a batch stand one under the other, so no product is spent on padding; only attention is split, into groups
of texts of exactly equal length, which need no mask. Weights are cast and laid out once, queries, keys and values come
from one product, and residuals and norms stay in float32. Every row goes through the same sums whatever stands beside
it, so a text has the same vector in every batch. Measured 2026-11-22 on one core of an AMD EPYC (AVX-512 BF16), 400
texts of 130 tokens, processor time: 4 times the speed of sentence-transformers in bfloat16, 2.3 times in float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertModel, RobertaModel, XLMRobertaModel
from transformers.models.bert.modeling_bert import BertLayer

from rerank.kernels import PreparedLinear

M = TypeVar("M", bound=nn.Module)

# The first text's first token stands at this position; RoBERTa counts from behind its padding id.
_STARTS_AFTER_PADDING = {BertModel: False, RobertaModel: True, XLMRobertaModel: True}
# Attention weights held at once, per thread: 600 KB in bfloat16 stay in a core's cache, and the products that read them
# again run 15 % faster than over a whole batch.
_WEIGHTS_AT_ONCE = 300_000
_SAFE_SUMS = 1e-30, 1e30


class UnsupportedModelError(ValueError):
    """The packed forward does not know this architecture; the reason is the message."""


class PackedBert:
    """The forward of a frozen BERT, RoBERTa or XLM-R over packed rows. Takes a copy of the linear layers' weights.

    Raises:
        UnsupportedModelError: the model is none of these, or a layer of it was replaced (adapters, quantisation).
    """

    def __init__(self, model: nn.Module, *, dtype: torch.dtype) -> None:
        if type(model) not in _STARTS_AFTER_PADDING:
            raise UnsupportedModelError(f"expected {_names()}, got {type(model).__name__}")
        bert = cast(BertModel, model)  # the others have the same parts under the same names
        if bert.config.is_decoder or getattr(bert.config, "position_embedding_type", "absolute") != "absolute":
            raise UnsupportedModelError(f"{type(model).__name__}: expected an encoder with absolute positions")
        embeddings = bert.embeddings
        self.words = _exactly(embeddings.word_embeddings, nn.Embedding).weight.detach()
        if self.words.dtype != torch.float32 or self.words.device.type != "cpu":
            raise UnsupportedModelError(
                f"expected float32 weights on the CPU, got {self.words.dtype} on {self.words.device}"
            )
        first = int(bert.config.pad_token_id or 0) + 1 if _STARTS_AFTER_PADDING[type(model)] else 0
        positions = _exactly(embeddings.position_embeddings, nn.Embedding).weight.detach()
        self.positions = positions[first:] + embeddings.token_type_embeddings.weight.detach()[0]
        self.norm = _exactly(embeddings.LayerNorm, nn.LayerNorm)
        self.dtype = dtype
        self.layers = [_Layer(cast(BertLayer, layer), dtype) for layer in bert.encoder.layer]

    @torch.inference_mode()
    def __call__(self, ids: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        """Hidden states of texts given as token ids, longest first, none empty.

        Returns one float32 (n_texts, n_tokens, width) for each group of texts of equal length, in the texts' order.
        """
        groups = [(length, len(list(same))) for length, same in itertools.groupby(ids, key=len)]
        flat = torch.from_numpy(np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int64))
        places = torch.cat([torch.arange(length).repeat(count) for length, count in groups])
        rows = _norm(self.norm, F.embedding(flat, self.words).add_(self.positions[places]))
        for layer in self.layers:
            rows = layer(rows, groups)
        for part, (length, count) in zip(rows.split([n * count for n, count in groups]), groups, strict=True):
            yield part.view(count, length, -1)


class _Layer:
    """One transformer layer. The scale of attention is moved into the queries' weights."""

    def __init__(self, module: BertLayer, dtype: torch.dtype) -> None:
        attention, output = module.attention.self, module.attention.output
        queries, keys, values = (_linear(part) for part in (attention.query, attention.key, attention.value))
        self.n_heads: int = attention.num_attention_heads
        scale = float(attention.scaling)
        weight = torch.cat([queries.weight.detach() * scale, keys.weight.detach(), values.weight.detach()])
        bias = torch.cat([queries.bias.detach() * scale, keys.bias.detach(), values.bias.detach()])
        self.dtype = dtype
        self.qkv = PreparedLinear(weight.t(), bias, dtype)
        self.out = _prepared(output.dense, dtype)
        self.inner = _prepared(module.intermediate.dense, dtype, activation=attention.config.hidden_act)
        self.outer = _prepared(module.output.dense, dtype)
        self.norm_1 = _exactly(output.LayerNorm, nn.LayerNorm)
        self.norm_2 = _exactly(module.output.LayerNorm, nn.LayerNorm)

    def __call__(self, rows: torch.Tensor, groups: Sequence[tuple[int, int]]) -> torch.Tensor:
        """float32 (n_rows, width) -> the same."""
        attended = self._attention(self.qkv(rows.to(self.dtype)), groups)
        rows = _norm(self.norm_1, rows + self.out(attended))
        return _norm(self.norm_2, rows + self.outer(self.inner(rows.to(self.dtype))))

    def _attention(self, qkv: torch.Tensor, groups: Sequence[tuple[int, int]]) -> torch.Tensor:
        """(n_rows, 3 * width) -> (n_rows, width), a few texts of equal length at a time."""
        width = qkv.shape[1] // 3
        out = qkv.new_empty(len(qkv), width)
        row = 0
        for length, count in groups:
            at_once = max(1, _WEIGHTS_AT_ONCE * torch.get_num_threads() // (self.n_heads * length**2))
            for start in range(0, count, at_once):
                n = min(at_once, count - start)
                part = qkv[row : row + n * length].view(n, length, 3, self.n_heads, -1)
                query, key, value = part.permute(2, 0, 3, 1, 4).contiguous()  # each (n, n_heads, length, head_dim)
                found = attend(query, key, value).transpose(1, 2)
                out[row : row + n * length].view(n, length, self.n_heads, -1).copy_(found)
                row += n * length
        return out


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of every token to every token of its text; all three (n, n_heads, length, head_dim), queries scaled.

    In bfloat16 the exponentials are taken of the plain scores: subtracting each row's largest score first, as a softmax
    does, changes nothing but the range, and took a tenth of the whole forward. Scores whose sums leave the safe range
    (nothing near it was met) go through the softmax.
    """
    if query.dtype == torch.float32:
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)
    weights = (query @ key.transpose(-1, -2)).exp_()
    total = weights.sum(-1, keepdim=True, dtype=torch.float32)
    least, most = torch.aminmax(total)
    if float(least) > _SAFE_SUMS[0] and float(most) < _SAFE_SUMS[1]:
        return (weights @ value).div_(total)
    return torch.softmax(query @ key.transpose(-1, -2), dim=-1) @ value


def _norm(norm: nn.LayerNorm, rows: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(rows, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _exactly(module: nn.Module, kind: type[M]) -> M:
    """The module, if nobody wrapped or replaced it: a subclass may compute something else."""
    if type(module) is not kind:
        raise UnsupportedModelError(f"expected plain {kind.__name__} layers, got {type(module).__name__}")
    return cast(M, module)


def _linear(module: nn.Module) -> nn.Linear:
    linear = _exactly(module, nn.Linear)
    if linear.bias is None:
        raise UnsupportedModelError("expected linear layers with a bias")
    return linear


def _prepared(module: nn.Module, dtype: torch.dtype, *, activation: str | None = None) -> PreparedLinear:
    linear = _linear(module)
    return PreparedLinear(linear.weight.t(), linear.bias, dtype, activation=activation)


def _names() -> str:
    return ", ".join(kind.__name__ for kind in _STARTS_AFTER_PADDING)
