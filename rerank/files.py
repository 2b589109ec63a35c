"""JSON and tensors read from disk; what is damaged says which file and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

CURE = "copy or save it again"


def read_json(file: Path, *, cure: str = CURE) -> dict:
    """A JSON object. Raises ValueError if the file holds anything else, FileNotFoundError if it is missing."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: damaged: {error}; {cure}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file}: damaged: expected a JSON object, got {type(found).__name__}; {cure}")
    return found


def read_tensors(file: Path, *, cure: str = CURE) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file. Raises ValueError if it is damaged, FileNotFoundError if it is missing."""
    try:
        return load_file(str(file))
    except SafetensorError as error:
        raise ValueError(f"{file}: damaged: {error}; {cure}") from error


def load_weights(module: nn.Module, tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Load all tensors of a module. Raises ValueError naming the file if they are others or of another shape."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{file}: damaged: {' '.join(str(error).split())}; {CURE}") from error
