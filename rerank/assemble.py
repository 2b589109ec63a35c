"""Embeddings of packed tokens: soft tokens and words of many users in one matrix each, positions added."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from transformers import GPT2ForSequenceClassification

from rerank.encode import Encoded
from rerank.model import SoftTokens
from rerank.packing import CandidateLayout, ContextLayout, candidate_layout, context_layout


class Embedder:
    """Looks up and projects what `Encoded` holds. Uses the modules' own parameters, so gradients flow."""

    def __init__(self, gpt2: GPT2ForSequenceClassification, soft: SoftTokens | None) -> None:
        self.words: nn.Embedding = gpt2.transformer.wte
        self.positions: nn.Embedding = gpt2.transformer.wpe
        self.soft = soft

    @property
    def device(self) -> torch.device:
        """Where the embeddings live."""
        return self.words.weight.device

    def layouts(self, batch: Sequence[Encoded]) -> tuple[ContextLayout, CandidateLayout]:
        """Where every token of a batch stands."""
        lengths = [encoded.n_context for encoded in batch]
        counts = [encoded.n_candidates for encoded in batch]
        own = np.concatenate([encoded.candidate_lengths for encoded in batch])
        return context_layout(lengths, self.device), candidate_layout(lengths, counts, own, self.device)

    def contexts(self, batch: Sequence[Encoded], layout: ContextLayout) -> torch.Tensor:
        """float32 (n_context_rows, width)."""
        words = np.concatenate([encoded.context_ids for encoded in batch])
        if self.soft is None:
            return self._words(words) + self.positions(layout.positions)
        softs = np.asarray([encoded.n_context_soft for encoded in batch])
        starts = np.cumsum(layout.lengths) - layout.lengths
        within = np.arange(int(layout.lengths.sum())) - np.repeat(starts, layout.lengths)
        is_soft = within < np.repeat(softs, layout.lengths)
        vectors = np.concatenate([e.context_vectors for e in batch if e.context_vectors is not None])
        # The learned first token of every user, then projected vectors, then words.
        rows = self.soft.start.expand(len(within), -1)
        rows = self._put(rows, is_soft & (within > 0), self.soft.embed_context(self._floats(vectors)))
        if len(words):
            rows = self._put(rows, ~is_soft, self._words(words))
        return rows + self.positions(layout.positions)

    def candidates(self, batch: Sequence[Encoded], layout: CandidateLayout) -> torch.Tensor:
        """float32 (n_candidate_rows, width)."""
        ids = [word for encoded in batch for word in encoded.candidate_ids or ()]
        words = np.concatenate(ids) if ids else np.empty(0, dtype=np.int64)
        if self.soft is None:
            return self._words(words) + self.positions(layout.positions)
        vectors = np.concatenate([e.candidate_vectors for e in batch if e.candidate_vectors is not None])
        features = [e.candidate_features for e in batch if e.candidate_features is not None]
        numbers = self._floats(np.concatenate(features)) if features else None
        rows = self.soft.embed_candidates(self._floats(vectors), numbers)
        if ids:
            lengths = np.asarray([len(word) for word in ids]) + 1
            is_soft = np.zeros(int(lengths.sum()), dtype=bool)
            is_soft[np.cumsum(lengths) - lengths] = True
            empty = rows.new_zeros(len(is_soft), rows.shape[1])
            rows = self._put(self._put(empty, is_soft, rows), ~is_soft, self._words(words))
        return rows + self.positions(layout.positions)

    def _words(self, ids: np.ndarray) -> torch.Tensor:
        return self.words(torch.from_numpy(ids).to(self.device))

    def _floats(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self.device)

    def _put(self, rows: torch.Tensor, where: np.ndarray, values: torch.Tensor) -> torch.Tensor:
        index = torch.from_numpy(np.flatnonzero(where)).to(self.device)
        return rows.index_copy(0, index, values)
