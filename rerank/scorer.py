"""Scores of many inputs with prepared weights: users of similar context length share matrix products.

Rows are packed (no padding in any matrix product with weights); only attention's small rectangles are padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

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
from rerank.packing import candidate_layout, context_layout

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
            states = self.contexts([batch[user] for user in group])
            for part in self._parts([batch[user] for user in group]):
                found = self.candidates([part_of(batch[group[i]], start, stop) for i, start, stop in part], states)
                ends = np.cumsum([stop - start for _, start, stop in part])
                for (i, start, stop), values in zip(part, np.split(found, ends[:-1]), strict=True):
                    scores[group[i]][start:stop] = values
        return scores

    @torch.inference_mode()
    def score_returning(self, encoded: Encoded, cache: ContextCache) -> np.ndarray:
        """Scores of one input whose context may have been seen before, whole or up to its newest tokens."""
        if not encoded.n_candidates:
            return np.zeros(0, dtype=np.float32)
        states = cache.states(encoded, self)
        parts = self._parts([encoded])
        found = [self.candidates([part_of(encoded, start, stop)], states) for ((_, start, stop),) in parts]
        return np.concatenate(found)

    def contexts(self, batch: Sequence[Encoded]) -> ContextStates:
        """Keys and values of the contexts of a batch."""
        layout = context_layout([encoded.n_context for encoded in batch], self.embedder.device)
        return run_context(self.blocks, self.embedder.contexts(batch, layout), layout)

    def grow(self, encoded: Encoded, states: ContextStates) -> ContextStates:
        """States of `encoded`, of whose context tokens the first ones are those of `states`."""
        layout = context_layout([encoded.n_context], self.embedder.device)
        rows = self.embedder.contexts([encoded], layout)
        return extend_context(self.blocks, rows[int(states.layout.lengths[0]) :], states)

    def candidates(self, batch: Sequence[Encoded], states: ContextStates) -> np.ndarray:
        """float32 scores of all candidates of a batch, packed, against the states of the same users."""
        layout = candidate_layout(
            states.layout.lengths,
            [encoded.n_candidates for encoded in batch],
            np.concatenate([encoded.candidate_lengths for encoded in batch]),
            self.embedder.device,
        )
        rows = run_candidates(self.blocks, self.embedder.candidates(batch, layout), layout, states)
        norm = self.final_norm
        rows = F.layer_norm(rows.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return F.linear(rows, self.head.weight).squeeze(-1).float().cpu().numpy()

    def _groups(self, batch: Sequence[Encoded]) -> Iterator[list[int]]:
        """Users of one pass: neighbours in context length, about `max_rows` candidate tokens together."""
        users = [user for user, encoded in enumerate(batch) if encoded.n_candidates]
        users.sort(key=lambda user: (batch[user].n_context, batch[user].n_candidates))
        group: list[int] = []
        rows = 0
        for user in users:
            mine = int(batch[user].candidate_lengths.sum()) + batch[user].n_context
            if group and rows + mine > self.max_rows:
                yield group
                group, rows = [], 0
            group.append(user)
            rows += mine
        if group:
            yield group

    def _parts(self, group: Sequence[Encoded]) -> Iterator[list[tuple[int, int, int]]]:
        """(user within the group, first, end) slices of candidates; only a user alone is cut into several passes."""
        if len(group) > 1:
            yield [(i, 0, encoded.n_candidates) for i, encoded in enumerate(group)]
            return
        lengths = group[0].candidate_lengths
        passes = np.cumsum(lengths) // (self.max_rows + 1)
        edges = [0, *(np.flatnonzero(np.diff(passes)) + 1).tolist(), len(lengths)]
        for start, stop in pairwise(edges):
            yield [(0, start, stop)]


def part_of(encoded: Encoded, start: int, stop: int) -> Encoded:
    """The same context with candidates start..stop only."""
    if start == 0 and stop == encoded.n_candidates:
        return encoded
    cut = slice(start, stop)
    return Encoded(
        context_vectors=encoded.context_vectors,
        context_ids=encoded.context_ids,
        candidate_vectors=None if encoded.candidate_vectors is None else encoded.candidate_vectors[cut],
        candidate_features=None if encoded.candidate_features is None else encoded.candidate_features[cut],
        candidate_ids=None if encoded.candidate_ids is None else encoded.candidate_ids[cut],
        n_candidates=stop - start,
    )
