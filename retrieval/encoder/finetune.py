"""A BERT encoder and people's histories in, the encoder fine-tuned on them out (or the one that came in, if no better).

Every weight is trained (unless frozen) so that the text of a history lies near the text of what was taken next, against
the other items of the batch and mined hard negatives (MultipleNegativesRankingLoss: Henderson et al. 2017; cached:
Gao et al. 2021). The price: about three times the cost of encoding the training texts once, per epoch, and all
vectors of the catalogue are new afterwards. Hence a GPU's work by default.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from sentence_transformers.sentence_transformer import losses
from torch import nn
from transformers import PrinterCallback, TrainerState

from rerank.precision import has_bfloat16
from retrieval.encoder.cache import VectorCache
from retrieval.encoder.finetune_config import FinetuneConfig
from retrieval.encoder.finetune_pairs import history_text_of, make_pairs
from retrieval.encoder.finetune_trainer import (
    ContentValidation,
    ProgressBar,
    RecallEvaluator,
    SafeTrainer,
    StopEarly,
    evaluations,
    last_checkpoint,
    training_arguments,
)
from retrieval.encoder.text_encoder import TextEncoder, resolve_device
from retrieval.text import TextConfig

log = logging.getLogger(__name__)

_EXTRA = ("datasets", "accelerate")
Validation = tuple[Sequence[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class FinetuneReport:
    """What a fine-tuning came to.

    kept: whether the fine-tuned weights were returned. before, after: recall@100 and ndcg@10 of the start and of the
    best weights on validation, empty without one. curve: one entry per validation in training.
    """

    kept: bool
    n_pairs: int
    steps: int
    seconds: float
    before: dict[str, float]
    after: dict[str, float]
    curve: list[dict[str, float]]

    def __str__(self) -> str:
        done = f"fine-tuned on {self.n_pairs:,} pairs, {self.steps:,} steps, {self.seconds:.0f} s"
        if not self.before:
            return f"{done}; no validation, so nothing says whether it is better"
        figures = (
            f"recall@100 of content on validation {self.before['recall@100']:.4f} -> {self.after['recall@100']:.4f}"
        )
        return f"{done}; {figures}; " + ("kept" if self.kept else "not better, so the encoder stays as it was")


def require_finetuning() -> None:
    """Raises ImportError with what to install when the trainer's packages are missing."""
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'fine-tuning the encoder needs {" and ".join(missing)}: pip install ".[finetune]"')


def wants_finetuning(mode: Literal["auto", "never", "always"], *, device: str = "auto") -> bool:
    """Whether to fine-tune. `auto`: on CUDA with the extra installed; says so when only the extra is missing."""
    if mode != "auto":
        return mode == "always"
    if resolve_device(device).type != "cuda":
        return False
    try:
        require_finetuning()
    except ImportError as error:
        log.warning("encoder.finetune=auto: left out, since %s", error)
        return False
    return True


def finetune_encoder(
    encoder: TextEncoder,
    item_texts: Sequence[str],
    histories: Sequence[np.ndarray],
    *,
    text_config: TextConfig,
    config: FinetuneConfig,
    titles: Sequence[str] | None = None,
    validation: Validation | None = None,
    keep_seen: bool = False,
    device: str = "auto",
    output_directory: Path | None = None,
    progress: str | None = None,
    report: Callable[[FinetuneReport], None] = lambda report: None,
) -> TextEncoder:
    """Fine-tune a copy of the encoder; the one given stays as it is.

    Args:
        item_texts: the full text per item row.
        histories: item rows per user, oldest first; the training part only. Pairs come from nowhere else.
        titles: how an item stands in a history text, per row; None takes item_texts.
        validation: histories and the one item each took next (int64). The weights with the best recall@100 (ties:
            NDCG@10) of the bare encoder count; if the start is better than all of them, `encoder` itself is returned.
        keep_seen: people take things again, so what stands in a history is no wrong answer.
        output_directory: for checkpoints; a run with the same encoder, data and config goes on from its last one.
        report: told how it went, once, at the end.

    Returns:
        An encoder of its own name, fingerprint and cache, on the device of the one given.

    Raises:
        ImportError: the extra `finetune` is not installed.
        ValueError: no training pair can be made, or freeze_layers is more than the model has.
    """
    require_finetuning()
    started = time.monotonic()
    titles = item_texts if titles is None else titles
    check = _content_validation(item_texts, titles, validation, text_config, config, keep_seen)
    label = progress and f"{progress}: mine negatives"
    pairs = make_pairs(
        encoder,
        item_texts,
        titles,
        histories,
        text_config=text_config,
        config=config,
        keep_seen=keep_seen,
        progress=label,
    )
    columns = pairs.columns(item_texts, max_tokens=config.max_tokens)
    before = check.measure(encoder) if check else {}
    with nullcontext(output_directory) if output_directory else tempfile.TemporaryDirectory() as root:
        run = Path(str(root)) / _run_name(encoder, columns, check, config)
        trainer = _train(encoder, columns, check, config, run, device=device, progress=progress)
    result = _report(trainer.state, before, n_pairs=len(pairs), seconds=time.monotonic() - started)
    log.info("%s", result)
    report(result)
    return _with_weights(encoder, trainer) if result.kept else encoder


def _report(state: TrainerState, before: dict[str, float], *, n_pairs: int, seconds: float) -> FinetuneReport:
    """The best weights against the start."""
    curve = evaluations(state)
    after = max(curve, key=lambda entry: entry["figure"]) if curve else {}
    return FinetuneReport(
        kept=not before or after["figure"] >= before["figure"],
        n_pairs=n_pairs,
        steps=state.global_step,
        seconds=seconds,
        before={name: before[name] for name in before if name != "figure"},
        after={name: after[name] for name in after if name != "figure"},
        curve=curve,
    )


def _content_validation(
    item_texts: Sequence[str],
    titles: Sequence[str],
    validation: Validation | None,
    text_config: TextConfig,
    config: FinetuneConfig,
    keep_seen: bool,
) -> ContentValidation | None:
    """The validation users who have a text, a sample of them where they are many."""
    if validation is None:
        return None
    histories, targets = validation
    texts = [history_text_of(history, titles, text_config) for history in histories]
    users = np.array([user for user, text in enumerate(texts) if text], dtype=np.int64)
    if not len(users):
        raise ValueError("fine-tuning: no validation user has a history; give more interactions or no validation")
    if len(users) > config.validation_users:
        rng = np.random.default_rng(config.seed)
        users = np.sort(rng.choice(users, config.validation_users, replace=False))
    return ContentValidation(
        item_texts, [texts[u] for u in users], [histories[u] for u in users], np.asarray(targets)[users], keep_seen
    )


def _run_name(
    encoder: TextEncoder, columns: dict[str, list[str]], check: ContentValidation | None, config: FinetuneConfig
) -> str:
    """Of the weights, the texts and the config: only a run that would do the same finds the checkpoints.

    max_seconds is left out, so that a run that ran out of time can be given more.
    """
    facts = {**asdict(config), "max_seconds": None}
    digest = hashlib.sha256(f"{encoder.fingerprint} {json.dumps(facts, sort_keys=True)}".encode())
    checked = {}
    if check is not None:
        masked = [] if check.keep_seen else [str(history.tolist()) for history in check.histories]
        checked = {"validation": [*check.history_texts, *map(str, check.targets), *masked, *check.item_texts]}
    for name, texts in {**columns, **checked}.items():
        digest.update(json.dumps([name, texts]).encode())
    return f"finetune-{digest.hexdigest()[:16]}"


def _train(
    encoder: TextEncoder,
    columns: dict[str, list[str]],
    check: ContentValidation | None,
    config: FinetuneConfig,
    run: Path,
    *,
    device: str,
    progress: str | None,
) -> SafeTrainer:
    """Run the trainer to its end; its model then has the best weights (the last ones without validation)."""
    from datasets import Dataset  # of the extra; the library itself imports without it

    model = copy.deepcopy(encoder.model)
    freeze_first_layers(model[0], config.freeze_layers)
    scale = 1 / config.temperature
    if config.mini_batch_size < config.batch_size:
        loss = losses.CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=config.mini_batch_size)
    else:
        loss = losses.MultipleNegativesRankingLoss(model, scale=scale)
    place = resolve_device(device)
    args = training_arguments(
        config,
        run,
        n_pairs=len(columns["item"]),
        device=place,
        bfloat16=encoder.precision == "bfloat16" and has_bfloat16(place),
        validated=check is not None,
    )
    trainer = SafeTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_dict(columns),
        loss=loss,
        evaluator=RecallEvaluator(check, precision=encoder.precision) if check else None,
        callbacks=[
            StopEarly(patience=config.patience, max_seconds=config.max_seconds, evaluate=check is not None),
            *([ProgressBar(progress)] if progress else []),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    last = last_checkpoint(run)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    return trainer


def freeze_first_layers(transformer: nn.Module, n_layers: int) -> None:
    """Keep the word embeddings and the first n_layers of a BERT as they are; 0 trains everything.

    Raises:
        ValueError: it has fewer layers, or is not built like a BERT.
    """
    if not n_layers:
        return
    bert = getattr(transformer, "auto_model", None)
    layers = getattr(getattr(bert, "encoder", None), "layer", None)
    if bert is None or layers is None or n_layers > len(layers):
        have = "none that can be frozen" if layers is None else str(len(layers))
        raise ValueError(f"freeze_layers: expected at most the encoder's layers ({have}), got {n_layers}")
    for part in (bert.embeddings, *layers[:n_layers]):
        part.requires_grad_(False)


def _with_weights(encoder: TextEncoder, trainer: SafeTrainer) -> TextEncoder:
    """A new encoder with the trainer's weights: a clean copy, since the trainer wraps its model's forward."""
    model = copy.deepcopy(encoder.model)
    model.load_state_dict(trainer.model.state_dict())
    tuned = TextEncoder(model, name=f"{encoder.name} (fine-tuned)", precision=encoder.precision)
    if encoder.cache is not None:
        old = encoder.cache.directory
        # Vectors of other weights must never mix; on disk each fingerprint has a directory of its own.
        tuned.cache = VectorCache(old.with_name(tuned.fingerprint[:16]) if old else None, dim=tuned.dim)
    return tuned
