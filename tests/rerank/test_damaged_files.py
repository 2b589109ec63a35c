"""Damaged files are named, with what to do, and a checkpoint is never without a whole state."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rerank import HistoryModel, HistoryModelConfig, Reranker
from rerank.blend import Blend, Blended
from rerank.cascade import Cascade
from rerank.checkpoint import load_checkpoint, save_checkpoint
from tests.rerank.test_reranker import SOFT_ONLY, reranker


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shared = reranker(**SOFT_ONLY)
    made = Reranker(shared.gpt2, None, shared.soft, shared.config, precision="float32", device="cpu")
    made.cascade = Cascade(np.ones(16, dtype=np.float32), n_blocks=1, keep=1)
    shape = HistoryModelConfig(vector_dim=8, n_embd=16, n_layer=1, n_head=2, history_items=4)
    made.history = Blended(HistoryModel(shape).eval(), Blend(1.0, 5.0))
    directory = tmp_path_factory.mktemp("whole")
    made.save(directory)
    return directory


@pytest.mark.parametrize(
    "name",
    [
        "tandem_rerank.json",
        "soft_tokens.safetensors",
        "cascade.safetensors",
        "blend.json",
        "history/tandem_history.json",
        "history/projections.safetensors",
        "history/model.safetensors",
    ],
)
def test_a_damaged_part_of_a_reranker_is_named(name: str, whole: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(whole, tmp_path / "model")
    (directory / name).write_bytes((directory / name).read_bytes()[:20])
    with pytest.raises(ValueError, match=f"{name}: damaged: .*; copy or save it again"):
        Reranker.load(directory, device="cpu")


@pytest.mark.parametrize("text", ['{"cross": NaN}', '{"cross": 1, "other": 2}', "[1]"])
def test_weights_of_a_blend_that_are_none_are_refused(text: str, whole: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(whole, tmp_path / "model")
    (directory / "blend.json").write_text(text)
    with pytest.raises(ValueError, match=r"expected finite weights|blend\.json: damaged"):
        Reranker.load(directory, device="cpu")


def test_a_damaged_checkpoint_says_to_remove_it(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    for name in ("model.safetensors", "facts.json"):
        save_checkpoint(checkpoint, {"model": {"a": torch.ones(1)}}, {"step": 1})
        (checkpoint / name).write_bytes((checkpoint / name).read_bytes()[:5])
        with pytest.raises(ValueError, match=f"{name}: damaged: .*; remove .*checkpoint to begin anew"):
            load_checkpoint(checkpoint)


def test_two_kills_while_saving_leave_a_whole_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tmp_path / "checkpoint"
    save_checkpoint(checkpoint, {}, {"step": 1})
    checkpoint.rename(tmp_path / "checkpoint.old")  # killed between the two renames

    def die(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(checkpoint, {}, {"step": 2})
    found = load_checkpoint(checkpoint)
    assert found is not None
    assert found[1] == {"step": 1}
