"""Every choice of a reranker and its training, and the shape of a history model, said once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Literal

Loss = Literal["listwise", "pairwise", "pointwise"]
Precision = Literal["auto", "float32", "bfloat16"]

PRESETS = ("gpt2", "gpt2-mini")


@dataclass(frozen=True, kw_only=True)
class RerankConfig:
    """The shape of the model, its prompt, and how it is trained."""

    model: str = "gpt2-mini"
    """A preset (`gpt2`: pre-trained weights from the hub; `gpt2-mini`: the shape below) or a directory."""
    n_layer: int = 4
    n_embd: int = 384
    n_head: int = 6
    n_positions: int = 1024

    max_history_items: int = 50
    """Soft tokens of the context: one per history item, the newest ones."""
    history_tokens: int = 0
    """Word tokens of the context, 0 = none. What is over the budget is cut from the oldest end."""
    candidate_tokens: int = 0
    """Word tokens per candidate, 0 = none."""
    vector_dim: int = 0
    """Width of the item vectors, 0 = no soft tokens."""
    n_features: int = 0
    """Numbers per candidate (recall scores and the like), 0 = none."""
    prior: bool = False
    """The last feature of a candidate is the score (log-odds) of the stage before: it is added to GPT-2's score, which
    so learns only what to correct, and begins near zero."""
    newest_last: bool = False
    """Order of the history in the prompt. Newest last makes a history that grows at its end cheap to extend."""

    loss: Loss = "listwise"
    lr: float = 5e-4
    warmup: float = 0.05
    """Share of all steps over which the learning rate rises from 0; it falls to 0 by a cosine after that."""
    epochs: int = 3
    batch_lists: int = 16
    """Lists per optimiser step."""
    weight_decay: float = 0.01
    dropout: float = 0.1
    clip_norm: float = 1.0
    freeze: str = "none"
    """`none` (train all), `last-N` (train the last N blocks and the head) or `head` (train only the head).
    Soft-token projections are always trained, as they start random."""
    precision: Precision = "auto"
    seed: int = 0
    validations_per_epoch: int = 2
    patience: int = 2
    """Validations without a better NDCG@10 before training stops."""
    average_last: int = 1
    """Average the weights of this many last validated states; kept only if validation NDCG@10 is not lower."""

    def __post_init__(self) -> None:
        positive = (
            "n_layer",
            "n_embd",
            "n_head",
            "n_positions",
            "epochs",
            "batch_lists",
            "patience",
            "validations_per_epoch",
        )
        for name in (*positive, "average_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)!r}")
        for name in ("max_history_items", "history_tokens", "candidate_tokens", "vector_dim", "n_features"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)!r}")
        for name in ("dropout", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 0 to below 1, got {getattr(self, name)!r}")
        if not 0 <= self.lr < math.inf:
            raise ValueError(f"lr: expected a finite number >= 0, got {self.lr!r}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        if self.loss not in ("listwise", "pairwise", "pointwise"):
            raise ValueError(f"loss: expected listwise, pairwise or pointwise, got {self.loss!r}")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision: expected auto, float32 or bfloat16, got {self.precision!r}")
        trainable_blocks(self.freeze, self.n_layer)
        if not self.vector_dim and self.n_features:
            raise ValueError("n_features needs vector_dim > 0: features ride on the candidate's soft token")
        if not self.vector_dim and not self.candidate_tokens:
            raise ValueError("nothing to read: set vector_dim > 0 (soft tokens) or candidate_tokens > 0 (words)")

    def to_dict(self) -> dict[str, int | float | str | bool]:
        """Plain values, for JSON; `RerankConfig.from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> RerankConfig:
        """The inverse of `to_dict`. Raises ValueError naming unknown keys."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown reranker options {unknown}; known: {[f.name for f in fields(cls)]}")
        return cls(**values)


def trainable_blocks(freeze: str, n_layer: int) -> int:
    """How many of the last blocks are trained under a `freeze` choice: n_layer for `none`, 0 for `head`."""
    if freeze == "none":
        return n_layer
    if freeze == "head":
        return 0
    kind, _, number = freeze.partition("-")
    if kind == "last" and number.isdigit() and int(number) >= 1:
        return min(int(number), n_layer)
    raise ValueError(f"freeze: expected none, last-N or head, got {freeze!r}")


@dataclass(frozen=True, kw_only=True)
class HistoryModelConfig:
    """The shape of the model. vector_dim: width of the item vectors. history_items: the newest so many are read."""

    vector_dim: int = 512
    n_embd: int = 192
    n_layer: int = 3
    n_head: int = 4
    history_items: int = 50
    dropout: float = 0.1
    temperature: float = 0.07

    def __post_init__(self) -> None:
        for name in ("vector_dim", "n_embd", "n_layer", "n_head", "history_items"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)!r}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature: expected a number above 0, got {self.temperature!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected 0 to below 1, got {self.dropout!r}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
