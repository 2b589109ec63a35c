"""Token ids in, hidden states per token out: the ways to run a sentence-transformers transformer, and the choice.

`packed` is ours (packed_bert.py); `padded` runs the model's own module on padded batches, for any architecture and on
CUDA; `openvino` is the extra. All give the features that the model's pooling modules read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer

from retrieval.encoder.packed_bert import PackedBert, UnsupportedModelError

log = logging.getLogger(__name__)

BACKENDS = ("auto", "packed", "padded", "openvino")
Features = dict[str, torch.Tensor]
Ids = Sequence[Sequence[int]]


class Forward(Protocol):
    """Runs the transformer on texts given as token ids, longest first."""

    def __call__(self, ids: Ids) -> Iterator[Features]:
        """Features of the texts in their order, some texts at a time.

        `token_embeddings` is float32 (n_texts, n_tokens, width); `input_ids` and `attention_mask` are int64
        (n_texts, n_tokens).
        """
        ...


class PaddedForward:
    """The model's own first module over one padded batch, under autocast in bfloat16."""

    def __init__(self, model: SentenceTransformer, *, precision: str) -> None:
        self._model, self._precision = model, precision

    @torch.inference_mode()
    def __call__(self, ids: Ids) -> Iterator[Features]:
        device = self._model.device
        batch = self._model.tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt").to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
            features = self._model[0](dict(batch))
        # Pooling in bfloat16 drops the cosine to 0.996.
        features["token_embeddings"] = features["token_embeddings"].float()
        yield features


class PackedForward:
    """Ours, without padding, on the CPU."""

    def __init__(self, model: SentenceTransformer, *, precision: str) -> None:
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._bert = PackedBert(_transformer(model), dtype=dtype)

    def __call__(self, ids: Ids) -> Iterator[Features]:
        done = 0
        for states in self._bert(ids):
            numbers = torch.from_numpy(np.array(ids[done : done + len(states)], dtype=np.int64))
            yield {"token_embeddings": states, "input_ids": numbers, "attention_mask": torch.ones_like(numbers)}
            done += len(states)


def make_forward(model: SentenceTransformer, *, precision: str, backend: str = "auto") -> Forward:
    """The fastest way that is known to be right for this model, or the one asked for.

    `auto` is `packed` where the architecture is known and a trial agrees with the model's own forward, else `padded`.

    Raises:
        ValueError: `packed` or `openvino` was asked for and cannot run this model. ImportError: no openvino here.
    """
    if backend == "padded":
        return PaddedForward(model, precision=precision)
    if backend == "openvino":
        from retrieval.encoder.openvino_forward import OpenVinoForward

        return _tried(model, OpenVinoForward(model, precision=precision), precision, backend)
    try:
        return _tried(model, PackedForward(model, precision=precision), precision, "packed")
    except UnsupportedModelError as reason:
        if backend == "packed":
            raise ValueError(f"backend='packed': {reason}; use backend='auto'") from reason
        if model.device.type == "cpu":
            log.info("encoding on the plain path: %s", reason)
        return PaddedForward(model, precision=precision)


@torch.inference_mode()
def _tried(model: SentenceTransformer, forward: Forward, precision: str, backend: str) -> Forward:
    """The forward, if it agrees with the model's own in float32 on three short made-up texts."""
    rng = np.random.default_rng(0)
    limit = int(model.max_seq_length or 512)
    words = len(model.tokenizer)
    ids = [rng.integers(words // 2, words, size=min(limit, length)).tolist() for length in (17, 9, 9)]
    own, found = (_means(way, ids) for way in (PaddedForward(model, precision="float32"), forward))
    far = float((own - found).abs().max() / own.abs().max().clamp(min=1e-6))
    cosine = float(F.cosine_similarity(own, found).min())
    if (far <= 1e-4) if precision == "float32" else (cosine >= 0.99):
        return forward
    raise UnsupportedModelError(
        f"{backend} differs from the model's own forward (cosine {cosine:.4f}, largest relative difference {far:.1e})"
    )


def _means(forward: Forward, ids: Ids) -> torch.Tensor:
    """The mean state of every text: float32 (n_texts, width)."""
    means = []
    for features in forward(ids):
        mask = features["attention_mask"].unsqueeze(-1)
        means.append((features["token_embeddings"] * mask).sum(1) / mask.sum(1))
    return torch.cat(means).cpu()


def _transformer(model: SentenceTransformer) -> torch.nn.Module:
    """The transformers model inside; UnsupportedModelError when the first module holds none or reads it otherwise."""
    first = model[0]
    bert = getattr(first, "auto_model", None)
    how = getattr(first, "modality_config", {}).get("text", {})
    if bert is None or (how.get("method"), how.get("method_output_name")) != ("forward", "last_hidden_state"):
        raise UnsupportedModelError(f"expected a transformer whose last hidden states are read, got {first!r}")
    return bert
