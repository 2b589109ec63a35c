"""What a training begins with: which weights learn, how they are stepped, and a digest of the data it was given."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from transformers import GPT2ForSequenceClassification, PreTrainedTokenizerBase

from rerank.config import RerankConfig, trainable_blocks
from rerank.encode import Encoded, Encoder
from rerank.inputs import TrainingList
from rerank.model import SoftTokens, Words, blocks_of, build_model
from rerank.prompt import Template
from rerank.reranker import Reranker

FEATURE_SAMPLE = 512
"""Training lists from which feature means and deviations are taken: some 50,000 rows are plenty."""
DIGEST_SAMPLE = 64
"""Training lists that stand for all of them in a digest: lists are built when they are read, which takes time."""


def digest_of(
    lists: Sequence[TrainingList],
    validation: Sequence[Encoded],
    labels: Sequence[np.ndarray],
    *,
    encoder: Encoder,
    weights: Mapping[str, torch.Tensor],
) -> str:
    """sha256 of what a training reads and begins with: trainings with other data have other digests.

    The number of `lists`, DIGEST_SAMPLE of them at rows of equal distance, all of `validation`, and `weights`.
    """
    rows = np.unique(np.linspace(0, len(lists) - 1, DIGEST_SAMPLE).astype(int))
    sample = [lists[int(row)] for row in rows]
    seen = [*validation, *(encoder.encode(entry.input) for entry in sample)]
    digest = hashlib.sha256(f"{len(lists)} {len(validation)}".encode())
    for encoded, truth in zip(seen, [*labels, *(entry.labels for entry in sample)], strict=True):
        vectors = (encoded.context_vectors, encoded.candidate_vectors, encoded.candidate_features)
        for array in (*vectors, encoded.context_ids, *(encoded.candidate_ids or ()), truth):
            digest.update(b"none" if array is None else repr(array.shape).encode() + array.tobytes())
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def first_models(
    config: RerankConfig, words: Words | None, start: Reranker | None
) -> tuple[GPT2ForSequenceClassification, PreTrainedTokenizerBase | None, SoftTokens | None, Template | None]:
    """What a training changes: fresh models, or copies of those of `start`, which stays as it was.

    Raises ValueError if `start` reads other inputs than `config` says.
    """
    if start is None:
        return *build_model(config, words), None
    for name in ("vector_dim", "n_features", "prior"):
        given, wanted = getattr(start.config, name), getattr(config, name)
        if given != wanted:
            raise ValueError(f"start: expected a reranker with {name} {wanted!r} as in config, got {given!r}")
    gpt2, soft = copy.deepcopy(start.gpt2), copy.deepcopy(start.soft)
    return gpt2, start.tokenizer, soft, start.encoder.template


def freeze_blocks(gpt2: GPT2ForSequenceClassification, freeze: str) -> None:
    """Let only the last blocks and the head learn, as `RerankConfig.freeze` says."""
    blocks = blocks_of(gpt2)
    n_trained = trainable_blocks(freeze, len(blocks))
    if freeze == "none":
        return
    for parameter in gpt2.transformer.parameters():
        parameter.requires_grad_(False)
    for block in blocks[len(blocks) - n_trained :]:
        for parameter in block.parameters():
            parameter.requires_grad_(True)


def make_optimizer(names: dict[nn.Parameter, str], config: RerankConfig) -> torch.optim.Optimizer:
    """AdamW; matrices decay, biases, norms and the learned first token do not."""
    groups = [
        {"params": [p for p in names if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in names if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=True)


def feature_statistics(lists: Sequence[TrainingList], n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the candidate features of FEATURE_SAMPLE lists: float64 (n_features,) each.

    Raises ValueError where the lists have no features or another number of them.
    """
    rows = np.unique(np.linspace(0, len(lists) - 1, FEATURE_SAMPLE).astype(int))
    found = [lists[int(row)].input.candidate_features for row in rows]
    features = [array for array in found if array is not None and len(array)]
    if not features or features[0].shape[1] != n_features:
        raise ValueError(f"expected {n_features} candidate_features in the training lists, found none or others")
    stacked = np.concatenate(features).astype(np.float64)
    return stacked.mean(0), stacked.std(0)
