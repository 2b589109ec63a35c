"""A training that was killed or had ended goes on where it was, and only with the data it had."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from rerank import RerankConfig, Reranker, TrainingList, TrainingResult, checkpoint, train_reranker, training_run
from rerank.checkpoint import load_checkpoint, restore_optimizer, save_checkpoint
from rerank.training_run import Progress
from tests.rerank.test_train import SOFT_LISTS, soft_config, soft_list

LISTS, VALIDATION = SOFT_LISTS[:32], SOFT_LISTS[32:48]


class KilledError(Exception):
    """What stands for a kill."""


def trained(
    config: RerankConfig,
    checkpoint: Path | None = None,
    *,
    lists: list[TrainingList] = LISTS,
    validation: list[TrainingList] = VALIDATION,
    start: Reranker | None = None,
    progress: bool | Progress = False,
    max_seconds: float | None = None,
) -> TrainingResult:
    return train_reranker(
        lists,
        validation=validation,
        config=config,
        start=start,
        checkpoint_directory=checkpoint,
        progress=progress,
        max_seconds=max_seconds,
        device="cpu",
    )


def kill_after(n_saves: int, config: RerankConfig, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until the checkpoint was saved so many times."""
    left = n_saves

    def save_and_die(directory: Path, tensors: Mapping, facts: Mapping) -> None:
        nonlocal left
        save_checkpoint(directory, tensors, facts)
        left -= 1
        if not left:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "save_checkpoint", save_and_die)
        with pytest.raises(KilledError):
            trained(config, checkpoint)


@pytest.mark.parametrize("n_saves", [1, 2, 3])
def test_a_resumed_run_equals_one_that_was_never_interrupted(
    n_saves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = soft_config(dropout=0.1, epochs=2, average_last=2, patience=9)  # 4 steps an epoch, 4 validations
    whole, checkpoint = trained(config), tmp_path / "checkpoint"
    kill_after(n_saves, config, checkpoint, monkeypatch)
    lines: list[str] = []
    resumed = trained(config, checkpoint, progress=lines.append)
    assert lines[0] == f"resumed at step {2 * n_saves} from {checkpoint}"
    again = trained(config, checkpoint)
    assert resumed.reranker.fingerprint == whole.reranker.fingerprint == again.reranker.fingerprint
    assert [entry.step for entry in resumed.history] == [2, 4, 6, 8]
    assert resumed.averaged == whole.averaged


def test_a_kill_before_the_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:  # the progress line comes before the checkpoint
        raise KilledError(line)

    config, checkpoint = soft_config(epochs=1), tmp_path / "checkpoint"
    with pytest.raises(KilledError):
        trained(config, checkpoint, progress=interrupt)
    assert load_checkpoint(checkpoint) is None
    assert trained(config, checkpoint).reranker.fingerprint == trained(config).reranker.fingerprint


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    train_reranker(SOFT_LISTS[:16], validation=SOFT_LISTS[:8], config=soft_config(), checkpoint_directory=checkpoint)
    with pytest.raises(ValueError, match="checkpoint is of another configuration or other data"):
        train_reranker(
            SOFT_LISTS[:16], validation=SOFT_LISTS[:8], config=soft_config(lr=1.0), checkpoint_directory=checkpoint
        )


def test_a_checkpoint_of_other_lists_validation_or_labels_is_refused(tmp_path: Path) -> None:
    config, checkpoint = soft_config(epochs=1), tmp_path / "checkpoint"
    trained(config, checkpoint)
    flipped = [TrainingList(entry.input, 1 - entry.labels) for entry in VALIDATION]
    others = [soft_list(seed) for seed in range(500, 532)]
    for lists, validation in (
        (others, VALIDATION),
        ([*LISTS, LISTS[0]], VALIDATION),
        (LISTS, others[:16]),
        (LISTS, flipped),
    ):
        with pytest.raises(ValueError, match="checkpoint is of another configuration or other data"):
            trained(config, checkpoint, lists=lists, validation=validation)
    assert trained(config, checkpoint).reranker.fingerprint == trained(config).reranker.fingerprint


def test_a_checkpoint_of_another_start_is_refused(tmp_path: Path) -> None:
    config, checkpoint = soft_config(epochs=1), tmp_path / "checkpoint"
    one, other = trained(config).reranker, trained(soft_config(epochs=1, seed=1)).reranker
    trained(config, checkpoint, start=one)
    with pytest.raises(ValueError, match="checkpoint is of another configuration or other data"):
        trained(config, checkpoint, start=other)


@pytest.mark.parametrize("max_seconds", [None, 1e-9])
def test_a_run_that_had_ended_gives_its_result_again(max_seconds: float | None, tmp_path: Path) -> None:
    config, checkpoint = soft_config(lr=0.0, epochs=9, patience=1), tmp_path / "checkpoint"
    first = trained(config, checkpoint, max_seconds=max_seconds)
    again = trained(config, checkpoint, max_seconds=max_seconds)
    assert first.stopped == again.stopped == ("patience" if max_seconds is None else "max_seconds")
    assert first.history == again.history
    assert first.reranker.fingerprint == again.reranker.fingerprint


def test_the_last_states_to_average_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, checkpoint = soft_config(epochs=7, patience=99, average_last=11), tmp_path / "checkpoint"
    kill_after(12, config, checkpoint, monkeypatch)  # eleven states: as text, recent10 comes before recent2
    averaged = trained(config, checkpoint)
    assert averaged.reranker.fingerprint == trained(config).reranker.fingerprint


def test_a_kill_between_the_two_renames_leaves_the_old_state(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    save_checkpoint(checkpoint, {"model": {"a": torch.ones(1)}}, {"step": 1})
    checkpoint.rename(tmp_path / "checkpoint.old")
    found = load_checkpoint(checkpoint)
    assert found is not None
    tensors, facts = found
    assert facts == {"step": 1}
    assert tensors["model"]["a"].item() == 1


def test_restored_moments_and_steps_are_where_torch_itself_puts_them() -> None:
    elsewhere = torch.nn.Parameter(torch.empty(2, device="meta"))  # stands for a GPU
    optimizer = torch.optim.AdamW([elsewhere], fused=True)
    state = {"w|exp_avg": torch.zeros(2), "w|step": torch.tensor(3.0)}
    restore_optimizer(optimizer, state, {elsewhere: "w"})
    assert optimizer.state[elsewhere]["exp_avg"].device.type == "meta"
    assert optimizer.state[elsewhere]["step"].device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_cuda_is_resumed_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, checkpoint = soft_config(epochs=1, patience=9), tmp_path / "checkpoint"
    kill_after(1, config, checkpoint, monkeypatch)
    resumed = train_reranker(
        LISTS, validation=VALIDATION, config=config, checkpoint_directory=checkpoint, device="cuda"
    )
    assert [entry.step for entry in resumed.history] == [2, 4]


def test_a_checkpoint_that_the_disk_has_no_room_for_leaves_the_one_before(tmp_path: Path, monkeypatch) -> None:
    state = {"model": {"weight": torch.ones(2)}}
    save_checkpoint(tmp_path / "checkpoint", state, {"step": 1})

    def full(_: object, path: str) -> None:
        Path(path).write_bytes(b"half of it")
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(SafetensorError):
        save_checkpoint(tmp_path / "checkpoint", state, {"step": 2})
    found = load_checkpoint(tmp_path / "checkpoint")
    assert found is not None
    assert found[1] == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
