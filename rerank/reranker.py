"""The reranker as callers use it: sentences and arrays in, scores out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from torch import nn
from transformers import GPT2ForSequenceClassification, PreTrainedTokenizerBase

from rerank.blend import Blend, Blended, fit_blend, remove_blended
from rerank.cascade import Cascade, CascadeReport, fit_cascade, remove_cascade
from rerank.config import RerankConfig
from rerank.context_cache import ContextCache
from rerank.encode import Encoder, prior_in
from rerank.history_model import HistoryModel
from rerank.inputs import RerankInput, TrainingList
from rerank.model import SoftTokens
from rerank.precision import resolve_device, resolve_dtype
from rerank.prompt import Template
from rerank.scorer import Scorer
from rerank.storage import load_parts, save_parts

CANDIDATE_TOKENS = 64
"""Candidate budget for a foreign model that does not say its own."""


class Reranker:
    """A GPT-2 cross-encoder. `score` and `score_many` change no result of later calls; threads may share one,
    unless it keeps context states."""

    def __init__(
        self,
        gpt2: GPT2ForSequenceClassification,
        tokenizer: PreTrainedTokenizerBase | None,
        soft: SoftTokens | None,
        config: RerankConfig,
        *,
        template: Template | None = None,
        device: str = "auto",
        precision: str = "auto",
        context_cache_mb: int = 0,
    ) -> None:
        place = resolve_device(device)
        self.gpt2 = gpt2.eval()
        nn.Module.to(gpt2, place)
        self.soft = soft.to(place).eval() if soft is not None else None
        self.tokenizer = tokenizer
        self.config = config
        self.encoder = Encoder(config, tokenizer, n_positions=gpt2.config.n_positions, template=template)
        self.scorer = Scorer(self.gpt2, self.soft, dtype=resolve_dtype(precision, place))
        self.cascade: Cascade | None = None
        self.history: Blended | None = None
        self.context_cache = ContextCache(max_bytes=context_cache_mb << 20) if context_cache_mb else None

    @classmethod
    def load(
        cls, directory: str | Path, *, device: str = "auto", precision: str = "auto", context_cache_mb: int = 0
    ) -> Reranker:
        """Load what `save` wrote, or any GPT-2 classifier with one label and a tokenizer.

        Args:
            precision: `auto` is bfloat16 where the hardware has it, else float32; `float32` is exact.
            context_cache_mb: memory for the context states of users who come again (used by `score`), 0 = none.
        """
        gpt2, tokenizer, soft, config, template = load_parts(directory)
        if config is None:
            config = foreign_config(gpt2)
        reranker = cls(
            gpt2,
            tokenizer,
            soft,
            config,
            template=template,
            device=device,
            precision=precision,
            context_cache_mb=context_cache_mb,
        )
        reranker.cascade = Cascade.load(directory)
        reranker.history = Blended.load(directory, resolve_device(device), reranker.scorer.dtype)
        return reranker

    @property
    def fingerprint(self) -> str:
        """sha256 of all weights and of what stands in the prompt: equal fingerprints of rerankers with the same
        tokenizer give equal scores."""
        digest = hashlib.sha256(json.dumps([self.config.to_dict(), self.encoder.template.to_dict()]).encode())
        if self.history is not None:
            digest.update(json.dumps(asdict(self.history.blend)).encode())
        if self.cascade is not None:
            digest.update(json.dumps([self.cascade.n_blocks, self.cascade.keep]).encode())
            digest.update(self.cascade.head.tobytes())
        for module in (self.gpt2, self.soft, self.history and self.history.model):
            for name, tensor in sorted(module.state_dict().items()) if module is not None else ():
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, directory: str | Path) -> None:
        """Write a directory that `load` and `AutoModelForSequenceClassification.from_pretrained` read.

        Parts of an earlier reranker that this one does not have are removed.
        """
        save_parts(directory, self.gpt2, self.tokenizer, self.soft, self.config, self.encoder.template)
        remove_cascade(directory)
        remove_blended(directory)
        for part in (self.cascade, self.history):
            if part is not None:
                part.save(directory)

    def score(self, given: RerankInput) -> np.ndarray:
        """float32 (n_candidates,): higher is better, in the order of the candidates given."""
        if self.context_cache is None or self.cascade is not None:
            return self.score_many([given])[0]
        cross = self.scorer.score_returning(self.encoder.encode(given), self.context_cache)
        return self._with_history([cross], [given])[0]

    @property
    def prior_weight(self) -> float:
        """How much of the prior (see `RerankConfig.prior`) is in a score: all of it, what a history model leaves of it,
        or nothing."""
        if not self.config.prior:
            return 0.0
        return 1.0 if self.history is None else self.history.blend.prior

    def score_many(self, inputs: Sequence[RerankInput]) -> list[np.ndarray]:
        """Scores of every input, in order. The result for one input does not depend on its neighbours."""
        return self._with_history(self._cross_scores(inputs), inputs)

    def _with_history(self, cross: list[np.ndarray], inputs: Sequence[RerankInput]) -> list[np.ndarray]:
        """The cross-encoder's scores of these inputs, with what a history model adds, where there is one."""
        return cross if self.history is None else self.history.add(cross, self._priors(inputs), inputs)

    def _priors(self, inputs: Sequence[RerankInput]) -> list[np.ndarray]:
        """What the cross-encoder's scores hold of the stage before, float32 (n_candidates,) each."""
        return [prior_in(self.config, given) for given in inputs]

    def _cross_scores(self, inputs: Sequence[RerankInput]) -> list[np.ndarray]:
        encoded = [self.encoder.encode(given) for given in inputs]
        if self.cascade is None:
            return self.scorer.score_many(encoded)
        long = [entry.n_candidates > self.cascade.keep for entry in encoded]
        whole = iter(self.scorer.score_many([e for e, is_long in zip(encoded, long, strict=True) if not is_long]))
        return [
            self.cascade.score(self.scorer, entry) if is_long else next(whole)
            for entry, is_long in zip(encoded, long, strict=True)
        ]

    def add_history(self, model: HistoryModel, lists: Sequence[TrainingList], *, blend: Blend | None = None) -> Blend:
        """Let a history model's score count from now on, as much as these lists say; where they say not at all, the
        reranker stays as it was.

        Args:
            lists: none that the history model or the reranker learned from.
            blend: how much it counts, where that is known; the lists are not read then.
        """
        tried = Blended(model.to(self.scorer.embedder.device).eval(), blend or Blend(), self.scorer.dtype)
        if blend is not None:
            self.history = tried
            return blend
        inputs, labels = [entry.input for entry in lists], [entry.labels for entry in lists]
        cross, history = self._cross_scores(inputs), tried.scorer.score_many(inputs)
        blend = fit_blend(self._priors(inputs), cross, history, labels)
        self.history = replace(tried, blend=blend) if blend.history > 0 else None
        return blend

    def fit_cascade(
        self, lists: Sequence[TrainingList], *, n_blocks: int, keep: int = 100, tolerance: float = 0.01
    ) -> CascadeReport:
        """Score lists longer than `keep` in two passes from now on, if NDCG@10 on `lists` keeps within `tolerance`.

        Otherwise the reranker stays as it was (without a cascade). See `rerank.cascade.fit_cascade`.
        """
        encoded = [self.encoder.encode(entry.input) for entry in lists]
        labels = [entry.labels for entry in lists]
        cascade, report = fit_cascade(self.scorer, encoded, labels, n_blocks=n_blocks, keep=keep, tolerance=tolerance)
        self.cascade = cascade if report.accepted else None
        return report


def foreign_config(gpt2: GPT2ForSequenceClassification) -> RerankConfig:
    """A words-only configuration that fills the positions of a classifier which brings no configuration of ours."""
    shape = gpt2.config
    candidate = min(CANDIDATE_TOKENS, shape.n_positions // 2)
    return RerankConfig(
        model="gpt2",
        n_layer=shape.n_layer,
        n_embd=shape.n_embd,
        n_head=shape.n_head,
        n_positions=shape.n_positions,
        history_tokens=shape.n_positions - candidate,
        candidate_tokens=candidate,
    )
