"""Every choice of a fine-tuning of the encoder, checked where it is made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FinetuneConfig:
    """How the encoder is fine-tuned.

    batch_size: pairs per step; the others' items are each pair's negatives, so more is better. mini_batch_size: so many
    at a time go through the model; below batch_size the cached loss computes everything twice to save memory.
    warmup: share of the steps in which the learning rate rises; it falls linearly to 0 after.
    max_pairs, pairs_per_user: training pairs in all, and of one user, at the most (a seeded sample).
    max_tokens: training texts are cut to about so many tokens; validation reads them whole.
    hard_negatives: mined negatives per pair. first_rank, last_rank: where the encoder's own search finds them, from 1.
    margin: an item whose cosine with the positive is above 1 - margin is no negative.
    freeze_layers: with 1 or more, the word embeddings and the first so many layers stay as they are.
    evaluate_steps: steps between validations; 0 validates after each epoch. patience: validations without anything
    better before it stops. validation_users: a seeded sample of so many at the most.
    max_seconds: training stops after so long; mining and the validations before and after come on top.
    """

    epochs: int = 3
    batch_size: int = 128
    mini_batch_size: int = 128
    learning_rate: float = 2e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    temperature: float = 0.05
    max_pairs: int = 100_000
    pairs_per_user: int = 20
    max_tokens: int = 128
    hard_negatives: int = 1
    first_rank: int = 10
    last_rank: int = 100
    margin: float = 0.05
    freeze_layers: int = 0
    evaluate_steps: int = 0
    patience: int = 2
    validation_users: int = 2_000
    max_seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        low = {"evaluate_steps": 0, "freeze_layers": 0, "hard_negatives": 0, "batch_size": 2}
        for name in ("epochs", "batch_size", "mini_batch_size", "max_pairs", "pairs_per_user", "max_tokens",
                     "hard_negatives", "freeze_layers", "evaluate_steps", "patience", "validation_users"):  # fmt: skip
            if getattr(self, name) < low.get(name, 1):
                raise ValueError(f"{name}: expected {low.get(name, 1)} or more, got {getattr(self, name)!r}")
        if not 1 <= self.first_rank <= self.last_rank:
            raise ValueError(
                f"first_rank, last_rank: expected 1 <= first <= last, got {self.first_rank}, {self.last_rank}"
            )
        for name in ("learning_rate", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)!r}")
        for name in ("warmup", "margin"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a number from 0 to below 1, got {getattr(self, name)!r}")
