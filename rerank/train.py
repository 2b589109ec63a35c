"""Fine-tuning on lists: one context, n candidates, one shared-context forward, gradient through all of it.

An epoch costs what scoring costs times three, not n times more, since a context is computed once for its list.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rerank.config import RerankConfig
from rerank.inputs import TrainingList
from rerank.model import LoadedEncoder, Words, words_of_encoder
from rerank.reranker import Reranker
from rerank.scorer import part_of
from rerank.training_run import Progress, TrainingResult, TrainingRun, Validation

__all__ = ["TrainingResult", "Validation", "train_reranker", "training_speed"]


def train_reranker(
    lists: Sequence[TrainingList],
    *,
    validation: Sequence[TrainingList],
    config: RerankConfig,
    encoder: str | Path | LoadedEncoder | None = None,
    start: Reranker | None = None,
    checkpoint_directory: str | Path | None = None,
    max_seconds: float | None = None,
    progress: bool | Progress = False,
    device: str = "auto",
) -> TrainingResult:
    """Train and return the weights with the best validation NDCG@10.

    Args:
        lists: indexed lazily, one `lists[i]` per use; lists without a positive label teach the listwise loss nothing.
        validation: read once and kept. Must hold at least one list with a positive label.
        encoder: for `gpt2-mini` with word budgets: where the vocabulary and the first word embeddings come from.
        start: continue from a copy of these weights instead of fresh ones; it must read what `config` says.
        checkpoint_directory: written at every validation; if it exists, training resumes from it, or gives its result
            again if it had ended. It must be of the same configuration, data and start.
        max_seconds: training ends (learning rate at zero) within about this time.
        progress: True prints a line per validation; a function gets the line.
    """
    if not len(lists):
        raise ValueError("no training lists: give at least one list with a positive label")
    if not any(entry.labels.max(initial=0) > 0 for entry in (validation[i] for i in range(len(validation)))):
        raise ValueError("no validation list with a positive label: nothing to stop or choose weights by")
    uses_words = config.history_tokens > 0 or config.candidate_tokens > 0
    words = words_of_encoder(encoder) if encoder is not None and uses_words else None
    say: Progress = progress if callable(progress) else (print if progress else lambda line: None)
    # Steps seed torch's generators; the caller's stay as they were.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        run = TrainingRun(lists, validation, config, words, start, device, max_seconds, say)
        if checkpoint_directory is not None:
            run.resume(Path(checkpoint_directory))
        return run.fit()


def training_speed(
    lists: Sequence[TrainingList],
    config: RerankConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    precision: str,
    pairwise: bool,
    clock: Callable[[], float] = time.perf_counter,
    repeats: int = 3,
) -> float:
    """Lists per second of forward and backward over `lists`: shared contexts, or `pairwise` every pair in full."""
    config = replace(config, precision=precision, batch_lists=len(lists))
    run = TrainingRun(lists, [lists[0]], config, Words(tokenizer), None, "cpu", None, lambda line: None)
    run.model.train()
    batch = [run.encoder.encode(entry.input) for entry in lists]
    if pairwise:
        batch = [part_of(encoded, np.array([i])) for encoded in batch for i in range(encoded.n_candidates)]
    seconds = []
    for _ in range(repeats):
        started = clock()
        for part in (batch[i : i + 64] for i in range(0, len(batch), 64)) if pairwise else (batch,):
            run.scores(part).sum().backward()
        seconds.append(clock() - started)
    return len(lists) / min(seconds)
