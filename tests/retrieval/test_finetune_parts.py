"""The parts of fine-tuning that need no model: configuration, when it is wanted, negatives from given vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import TrainerControl, TrainerState

from retrieval.encoder.finetune import wants_finetuning
from retrieval.encoder.finetune_config import FinetuneConfig
from retrieval.encoder.finetune_pairs import mine_negatives
from retrieval.encoder.finetune_trainer import StopEarly


def unit(*angles: float) -> np.ndarray:
    """Vectors of length 1 in the plane, by their angles in degrees."""
    radians = np.radians(np.array(angles))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_hard_negatives_come_from_the_ranks_asked_for():
    items = unit(0, 10, 20, 30, 40, 50)  # the query lies on item 0: row r has rank r + 1
    found = mine_negatives(
        unit(0), items, np.array([5]), [np.array([5])], n_negatives=2, ranks=(3, 4), margin=0.0,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert set(found[0].tolist()) == {2, 3}


def test_what_is_nearly_the_positive_is_no_hard_negative():
    items = unit(0, 10, 20, 60, 61)  # cos 1 degree = 0.9998: rows 3 and 4 are one thing in two colours
    found = mine_negatives(
        unit(0), items, np.array([3]), [np.array([3])], n_negatives=3, ranks=(1, 5), margin=0.01,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert set(found[0].tolist()) == {0, 1, 2}


def test_too_few_near_items_are_filled_with_random_ones_and_then_with_none():
    items = unit(0, 10, 20, 30)
    found = mine_negatives(
        unit(0), items, np.array([3]), [np.array([0, 3])], n_negatives=3, ranks=(1, 1), margin=0.0,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert set(found[0].tolist()) == {1, 2, -1}  # rank 1 was taken; two are left in all


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs: expected 1 or more, got 0"),
        ({"batch_size": 1}, "batch_size: expected 2 or more, got 1"),
        ({"first_rank": 50, "last_rank": 20}, "expected 1 <= first <= last, got 50, 20"),
        ({"temperature": 0.0}, "temperature: expected more than 0"),
        ({"warmup": 1.0}, "warmup: expected a number from 0 to below 1"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(**values)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("figures", "stops"), [([0.3, 0.2, 0.1], True), ([0.3, 0.2], False), ([], False)])
def test_a_run_that_had_ended_by_its_patience_is_not_trained_on(figures, stops):
    names = ("recall@100", "ndcg@10", "figure")
    log = [{"step": n, **{f"eval_{name}": value for name in names}} for n, value in enumerate(figures)]
    control = TrainerControl()
    early = StopEarly(patience=2, max_seconds=None, evaluate=True)
    early.on_train_begin(None, TrainerState(log_history=log), control)  # pyright: ignore[reportArgumentType]
    assert control.should_training_stop == stops


def test_auto_fine_tunes_on_cuda_only():
    assert wants_finetuning("always", device="cpu")
    assert not wants_finetuning("never", device="cpu")
    assert not wants_finetuning("auto", device="cpu")
    assert wants_finetuning("auto") == torch.cuda.is_available()
