"""Scores of many inputs with prepared weights: users of similar context length share matrix products.

Rows are packed (no padding in any matrix product with weights); only attention's small rectangles are padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GPT2ForSequenceClassification

from rerank.assemble import Embedder
from rerank.blocks import FrozenBlock
from rerank.context_cache import ContextCache
from rerank.encode import Encoded
from rerank.engine import ContextStates, extend_context, run_candidates, run_context
from rerank.model import SoftTokens, blocks_of
from rerank.packing import candidate_layout, context_layout, group_users

MAX_ROWS = 4096
"""Candidate tokens per pass: enough for the matrix rate, few enough that activations stay in the cache."""


class Scorer:
    """Scores `Encoded` inputs. Holds its own copy of the blocks' weights in `dtype`; embeddings stay shared."""

    def __init__(
        self,
        gpt2: GPT2ForSequenceClassification,
        soft: SoftTokens | None,
        *,
        dtype: torch.dtype = torch.float32,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self.embedder = Embedder(gpt2, soft)
        self.blocks = [FrozenBlock(block, dtype=dtype) for block in blocks_of(gpt2)]
        self.final_norm = gpt2.transformer.ln_f
        self.head = gpt2.score
        self.dtype = dtype
        self.max_rows = max_rows

    @torch.inference_mode()
    def score_many(self, batch: Sequence[Encoded]) -> list[np.ndarray]:
        """float32 (n_candidates,) per input, in the order given; empty arrays for inputs without candidates."""
        scores = [np.zeros(encoded.n_candidates, dtype=np.float32) for encoded in batch]
        for group in self._groups(batch):
            members = [batch[user] for user in group]
            states = self.contexts(members)
            if len(group) == 1:
                scores[group[0]] = self.full_scores(members[0], states)
                continue
            found = self._score_rows(self._run(members, states, len(self.blocks)))
            found = found + joined_priors(members)
            ends = np.cumsum([encoded.n_candidates for encoded in members])
            for user, values in zip(group, np.split(found, ends[:-1]), strict=True):
                scores[user] = values
        return scores

    @torch.inference_mode()
    def score_returning(self, encoded: Encoded, cache: ContextCache) -> np.ndarray:
        """Scores of one input whose context may have been seen before, whole or up to its newest tokens."""
        if not encoded.n_candidates:
            return np.zeros(0, dtype=np.float32)
        return self.full_scores(encoded, cache.states(encoded, self))

    @torch.inference_mode()
    def full_scores(self, encoded: Encoded, states: ContextStates) -> np.ndarray:
        """float32 (n_candidates,) of one input against its context's states."""
        parts = [self._score_rows(self._run([part], states, len(self.blocks))) for part in self._parts(encoded)]
        return np.concatenate(parts) + prior_of(encoded) if parts else np.zeros(0, dtype=np.float32)

    @torch.inference_mode()
    def early_rows(self, encoded: Encoded, states: ContextStates, n_blocks: int) -> np.ndarray:
        """float32 (n_candidates, width): the candidates' states after the first blocks and the final norm."""
        parts = [self._normed(self._run([part], states, n_blocks)) for part in self._parts(encoded)]
        return torch.cat(parts).cpu().numpy()

    @torch.inference_mode()
    def contexts(self, batch: Sequence[Encoded]) -> ContextStates:
        """Keys and values of the contexts of a batch."""
        layout = context_layout([encoded.n_context for encoded in batch], self.embedder.device)
        return run_context(self.blocks, self.embedder.contexts(batch, layout), layout)

    @torch.inference_mode()
    def grow(self, encoded: Encoded, states: ContextStates) -> ContextStates:
        """States of `encoded`, of whose context tokens the first ones are those of `states`."""
        layout = context_layout([encoded.n_context], self.embedder.device)
        rows = self.embedder.contexts([encoded], layout)
        return extend_context(self.blocks, rows[int(states.layout.lengths[0]) :], states)

    def _run(self, batch: Sequence[Encoded], states: ContextStates, n_blocks: int) -> torch.Tensor:
        layout = candidate_layout(
            states.layout.lengths,
            [encoded.n_candidates for encoded in batch],
            np.concatenate([encoded.candidate_lengths for encoded in batch]),
            self.embedder.device,
        )
        rows = self.embedder.candidates(batch, layout)
        return run_candidates(self.blocks[:n_blocks], rows, layout, states)

    def _normed(self, rows: torch.Tensor) -> torch.Tensor:
        norm = self.final_norm
        return F.layer_norm(rows.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    def _score_rows(self, rows: torch.Tensor) -> np.ndarray:
        return F.linear(self._normed(rows), self.head.weight).squeeze(-1).cpu().numpy()

    def _groups(self, batch: Sequence[Encoded]) -> Iterator[list[int]]:
        """Users of one pass: neighbours in context length, about `max_rows` candidate tokens together."""
        users = [user for user, encoded in enumerate(batch) if encoded.n_candidates]
        users.sort(key=lambda user: (batch[user].n_context, batch[user].n_candidates))
        rows = [int(encoded.candidate_lengths.sum()) + encoded.n_context for encoded in batch]
        return group_users(users, rows, self.max_rows)

    def _parts(self, encoded: Encoded) -> Iterator[Encoded]:
        """One user's candidates in passes of about `max_rows` tokens."""
        passes = np.cumsum(encoded.candidate_lengths) // (self.max_rows + 1)
        if not len(passes) or passes[-1] == 0:
            yield from [encoded] if encoded.n_candidates else []
            return
        for rows in np.split(np.arange(encoded.n_candidates), np.flatnonzero(np.diff(passes)) + 1):
            yield part_of(encoded, rows)


def part_of(encoded: Encoded, rows: np.ndarray) -> Encoded:
    """The same context with some candidates only: int64 (n,) their rows, in the order wanted."""
    return Encoded(
        context_vectors=encoded.context_vectors,
        context_ids=encoded.context_ids,
        candidate_vectors=None if encoded.candidate_vectors is None else encoded.candidate_vectors[rows],
        candidate_features=None if encoded.candidate_features is None else encoded.candidate_features[rows],
        candidate_ids=None if encoded.candidate_ids is None else [encoded.candidate_ids[row] for row in rows],
        n_candidates=len(rows),
        prior=None if encoded.prior is None else encoded.prior[rows],
    )


def prior_of(encoded: Encoded) -> np.ndarray:
    """What is added to an input's scores: float32 (n_candidates,)."""
    return np.zeros(encoded.n_candidates, dtype=np.float32) if encoded.prior is None else encoded.prior


def joined_priors(batch: Sequence[Encoded]) -> np.ndarray:
    """The same for several inputs, one after the other."""
    return np.concatenate([prior_of(encoded) for encoded in batch])
