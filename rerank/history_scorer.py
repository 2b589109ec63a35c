"""The history model's scores, by the engine that serves the cross-encoder: packed rows, prepared weights.

The newest item of a history is the one "candidate" that reads all older items as its context: its last hidden state is
what is expected next, and the last block computes nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from rerank.blocks import FrozenBlock
from rerank.engine import run_candidates, run_context
from rerank.history_model import HistoryModel
from rerank.inputs import RerankInput
from rerank.packing import candidate_layout, context_layout, group_users
from rerank.scorer import MAX_ROWS

_NOTHING = np.empty((0, 0), dtype=np.float32)


class HistoryScorer:
    """Scores with its own copy of the blocks' weights in `dtype`; projections stay shared and in float32."""

    def __init__(self, model: HistoryModel, *, dtype: torch.dtype = torch.float32) -> None:
        self.model = model
        self.blocks = [FrozenBlock(block, dtype=dtype) for block in model.gpt2.h if isinstance(block, GPT2Block)]

    @torch.inference_mode()
    def score_many(self, inputs: Sequence[RerankInput]) -> list[np.ndarray]:
        """Log-odds of every candidate to come next, up to a constant: float32 (n_candidates,) each, in order.

        Only vectors are read; without a history every candidate gets 0.

        Raises:
            ValueError: there are no item vectors, or they are of another width.
        """
        scores = [np.zeros(given.n_candidates, dtype=np.float32) for given in inputs]
        histories = [self._history(given) if given.n_candidates else _NOTHING for given in inputs]
        lengths = [len(history) for history in histories]
        rows = [length + given.n_candidates for length, given in zip(lengths, inputs, strict=True)]
        order = sorted((user for user, length in enumerate(lengths) if length), key=lambda user: lengths[user])
        for users in group_users(order, rows, MAX_ROWS):
            expected = self._expected([histories[user] for user in users])
            candidates = self._items([_vectors(inputs[user].candidate_vectors) for user in users])
            for user, items, wanted in zip(users, candidates, expected, strict=True):
                scores[user] = (items @ wanted).cpu().numpy()
        return scores

    def _history(self, given: RerankInput) -> np.ndarray:
        """The newest items, oldest first: float32 (n, vector_dim)."""
        if given.context_vectors is None:
            return _NOTHING
        newest = given.context_vectors[: self.model.config.history_items]
        return newest[::-1]

    def _expected(self, histories: Sequence[np.ndarray]) -> Tensor:
        """What is expected after each history, with the temperature in it: float32 (n_histories, n_embd)."""
        model, places = self.model, self.model.gpt2.wpe.weight
        items = self._items(histories)
        older = context_layout([len(part) - 1 for part in items], model.device)
        newest = candidate_layout(older.lengths, [1] * len(items), [1] * len(items), model.device)
        context = model.input_map(torch.cat([part[:-1] for part in items])) + places[older.positions]
        last = torch.stack([part[-1] for part in items])
        rows = model.input_map(last) + places[newest.positions]
        rows = run_candidates(self.blocks, rows, newest, run_context(self.blocks, context, older))
        hidden = model.gpt2.ln_f(rows.float())
        return F.normalize(model.user_map(hidden) + last, dim=-1) * model.log_scale.exp()

    def _items(self, parts: Sequence[np.ndarray]) -> tuple[Tensor, ...]:
        """Vectors of several users in the model's own space, in one product."""
        vectors, width = np.concatenate(parts), self.model.config.vector_dim
        if vectors.shape[1] != width:
            raise ValueError(f"item vectors: expected {width} columns, got {vectors.shape[1]}")
        return self.model.item_vectors(torch.from_numpy(vectors).to(self.model.device)).split([*map(len, parts)])


def _vectors(given: np.ndarray | None) -> np.ndarray:
    if given is None:
        raise ValueError("a history model reads item vectors: give context_vectors and candidate_vectors")
    return given
