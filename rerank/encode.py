"""From `RerankInput` to what the model embeds: vectors and token ids in prompt order, within their budgets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from rerank.config import RerankConfig
from rerank.inputs import RerankInput
from rerank.model import frame_id
from rerank.prompt import Template, Tokens, candidate_ids, context_ids


@dataclass(frozen=True)
class Encoded:
    """One context and its candidates, ready to embed. The prompt is soft tokens, then words, in both parts."""

    context_vectors: np.ndarray | None
    """float32 (n_soft, vector_dim) in prompt order; None where the model has no soft tokens."""
    context_ids: np.ndarray
    """int64 (n_words,)."""
    candidate_vectors: np.ndarray | None
    candidate_features: np.ndarray | None
    candidate_ids: list[np.ndarray] | None
    """int64 arrays, one per candidate; None where candidates have no words."""
    n_candidates: int
    prior: np.ndarray | None = None
    """float32 (n_candidates,): what is added to the scores; None for nothing."""

    @property
    def n_context_soft(self) -> int:
        """Soft tokens of the context with its learned first token."""
        return 0 if self.context_vectors is None else 1 + len(self.context_vectors)

    @property
    def n_context(self) -> int:
        """Tokens of the context."""
        return self.n_context_soft + len(self.context_ids)

    @property
    def candidate_lengths(self) -> np.ndarray:
        """Tokens of each candidate: int64 (n_candidates,)."""
        words = np.zeros(self.n_candidates, dtype=np.int64)
        if self.candidate_ids is not None:
            words += np.asarray([len(ids) for ids in self.candidate_ids], dtype=np.int64)
        return words + (self.candidate_vectors is not None)


class Encoder:
    """Turns inputs into `Encoded`, checking them against the configuration.

    Raises ValueError at construction when the budgets need more positions than the model has.
    """

    def __init__(
        self,
        config: RerankConfig,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        n_positions: int,
        template: Template | None = None,
        tidy: bool = True,
    ) -> None:
        if config.prior and not config.n_features:
            raise ValueError("prior: expected the score of the stage before as the last feature, but n_features is 0")
        self.config = config
        self.template = template or Template()
        self.tokens: Tokens | None = None
        if config.history_tokens or config.candidate_tokens:
            if tokenizer is None:
                raise ValueError("word budgets are set but the model has no tokenizer; save one beside the model")
            self.tokens = Tokens(tokenizer, tidy=tidy)
            self.template = template or Template.for_tokenizer(tokenizer)
            self._filler = (frame_id(tokenizer, "unk") or 0,)
        soft = config.max_history_items + 2 if config.vector_dim else 0
        needed = soft + config.history_tokens + config.candidate_tokens
        if needed > n_positions:
            raise ValueError(
                f"the budgets need {needed} positions (soft {soft}, history {config.history_tokens}, candidate "
                f"{config.candidate_tokens}) but the model has {n_positions}; lower a budget"
            )

    def encode(self, given: RerankInput) -> Encoded:
        """Encode one input. Raises ValueError for what is missing or has the wrong width."""
        config = self.config
        words = None
        if config.candidate_tokens and self.tokens is not None:
            if len(given.candidate_texts) != given.n_candidates:
                raise ValueError("this reranker reads words: give candidate_texts")
            words = [
                candidate_ids(ids, self.template, budget=config.candidate_tokens, filler=self._filler)
                for ids in self.tokens.ids(given.candidate_texts)
            ]
        vectors, features = self._candidate_vectors(given), self._candidate_features(given)
        return Encoded(
            context_vectors=self._context_vectors(given),
            context_ids=self._context_ids(given),
            candidate_vectors=vectors,
            candidate_features=features,
            candidate_ids=words,
            n_candidates=given.n_candidates,
            prior=prior_in(config, given) if config.prior else None,
        )

    def _context_ids(self, given: RerankInput) -> np.ndarray:
        if self.tokens is None or not self.config.history_tokens:
            return np.empty(0, dtype=np.int64)
        # The newest items that can fit: an item with tokens has at least one, one without says nothing.
        texts = [text for text in given.context_texts if not isinstance(text, str) or text.replace("\0", " ").strip()]
        items = [ids for ids in self.tokens.ids(texts[: self.config.history_tokens]) if len(ids)]
        return context_ids(items, self.template, budget=self.config.history_tokens, newest_last=self.config.newest_last)

    def _context_vectors(self, given: RerankInput) -> np.ndarray | None:
        if not self.config.vector_dim:
            return None
        vectors = given.context_vectors
        if vectors is None or len(vectors) == 0:
            return np.empty((0, self.config.vector_dim), dtype=np.float32)
        self._check_width("context_vectors", vectors, self.config.vector_dim)
        newest = vectors[: self.config.max_history_items]
        return newest[::-1] if self.config.newest_last else newest

    def _candidate_vectors(self, given: RerankInput) -> np.ndarray | None:
        if not self.config.vector_dim:
            return None
        if given.candidate_vectors is None:
            if given.n_candidates:
                raise ValueError("this reranker reads vectors: give candidate_vectors")
            return np.empty((0, self.config.vector_dim), dtype=np.float32)
        self._check_width("candidate_vectors", given.candidate_vectors, self.config.vector_dim)
        return given.candidate_vectors

    def _candidate_features(self, given: RerankInput) -> np.ndarray | None:
        if not self.config.n_features:
            return None
        if given.candidate_features is None:
            if given.n_candidates:
                raise ValueError(f"this reranker reads {self.config.n_features} features: give candidate_features")
            return np.empty((0, self.config.n_features), dtype=np.float32)
        self._check_width("candidate_features", given.candidate_features, self.config.n_features)
        return given.candidate_features

    @staticmethod
    def _check_width(name: str, array: np.ndarray, width: int) -> None:
        if array.shape[1] != width:
            raise ValueError(f"{name}: expected {width} columns as in training, got {array.shape[1]}")


def prior_in(config: RerankConfig, given: RerankInput) -> np.ndarray:
    """What a score of this input holds of the stage before (see `RerankConfig.prior`): float32 (n_candidates,)."""
    if not config.prior or given.candidate_features is None:
        return np.zeros(given.n_candidates, dtype=np.float32)
    return given.candidate_features[:, -1].astype(np.float32)
