"""Training state on disk, safetensors and JSON only; a kill while saving leaves the old state or the new one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from rerank.files import read_json, read_tensors

State = dict[str, torch.Tensor]


def save_checkpoint(directory: Path, tensors: Mapping[str, State], facts: Mapping[str, object]) -> None:
    """Write `tensors` (one file per name) and `facts` (JSON) as `directory`, replacing what was there.

    Where that fails (the disk is full), what was there stays, and nothing of the new one does.
    """
    fresh = directory.with_name(directory.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        for name, state in tensors.items():
            # clone: safetensors refuses tensors that share memory.
            save_file({k: v.detach().cpu().clone() for k, v in state.items()}, str(fresh / f"{name}.safetensors"))
        (fresh / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    old = directory.with_name(directory.name + ".old")
    for place in (*fresh.iterdir(), fresh):  # on the disk before anything gives way to it
        _sync(place)
    if directory.exists():  # else `.old` is all there is
        shutil.rmtree(old, ignore_errors=True)
        os.replace(directory, old)
    os.replace(fresh, directory)
    shutil.rmtree(old, ignore_errors=True)


def _sync(place: Path) -> None:
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class OtherCheckpointError(ValueError):
    """What lies in `directory` is of another configuration, other data or another start."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"{directory}: this checkpoint is of another configuration or other data; remove it or change back"
        )
        self.directory = directory


def remove_checkpoint(directory: Path) -> None:
    """Remove a checkpoint and what an interrupted save left beside it."""
    for ending in ("", ".old", ".new"):
        shutil.rmtree(directory.with_name(directory.name + ending), ignore_errors=True)


def load_checkpoint(directory: Path) -> tuple[dict[str, State], dict] | None:
    """What `save_checkpoint` wrote, or None if there is nothing to resume from. Raises ValueError if it is damaged."""
    for place in (directory, directory.with_name(directory.name + ".old")):
        facts = place / "facts.json"
        if facts.is_file():
            cure = f"remove {place} to begin anew"
            tensors = {file.stem: read_tensors(file, cure=cure) for file in sorted(place.glob("*.safetensors"))}
            return tensors, read_json(facts, cure=cure)
    return None


def optimizer_state(optimizer: torch.optim.Optimizer, names: Mapping[torch.nn.Parameter, str]) -> State:
    """Adam's moments and step counts by parameter name."""
    return {
        f"{name}|{key}": value if torch.is_tensor(value) else torch.tensor(float(value))
        for parameter, name in names.items()
        for key, value in optimizer.state[parameter].items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, state: State, names: Mapping[torch.nn.Parameter, str]) -> None:
    """The inverse of `optimizer_state`; torch puts moments and step counts on the device they belong to."""
    ordered = (parameter for group in optimizer.param_groups for parameter in group["params"])
    rows = {names[parameter]: row for row, parameter in enumerate(ordered)}
    moments: dict[int, State] = {}
    for label, value in state.items():
        name, _, key = label.rpartition("|")
        if name in rows:
            moments.setdefault(rows[name], {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
