"""The history model beside the cross-encoder: how much its score counts, fitted on lists that neither learned from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from rerank.history_model import HistoryModel
from rerank.history_scorer import HistoryScorer
from rerank.inputs import RerankInput

DIRECTORY, WEIGHTS = "history", "blend.json"
_STEPS, _HALVINGS = 30, 20
_RIDGE = 1.0
"""Pulls towards the cross-encoder alone, as much as a list does whose candidates differ by 1."""


@dataclass(frozen=True)
class Blend:
    """score = cross * cross-encoder + history * history model."""

    cross: float = 1.0
    history: float = 0.0


@dataclass(frozen=True)
class Blended:
    """A history model and what it counts."""

    model: HistoryModel
    blend: Blend
    dtype: torch.dtype = torch.float32

    @cached_property
    def scorer(self) -> HistoryScorer:
        """Its weights are prepared when they are first needed."""
        return HistoryScorer(self.model, dtype=self.dtype)

    def add(self, scores: Sequence[np.ndarray], inputs: Sequence[RerankInput]) -> list[np.ndarray]:
        """The cross-encoder's scores of these inputs, float32 (n_candidates,) each, with the history model's added."""
        weights = self.blend
        return [
            (weights.cross * score + weights.history * more).astype(np.float32)
            for score, more in zip(scores, self.scorer.score_many(inputs), strict=True)
        ]

    def save(self, directory: str | Path) -> None:
        """Write into a reranker's directory."""
        self.model.save(Path(directory) / DIRECTORY)
        (Path(directory) / WEIGHTS).write_text(json.dumps(asdict(self.blend)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path, device: torch.device, dtype: torch.dtype) -> Blended | None:
        """What is saved in a directory, None if there is nothing.

        Raises:
            FileNotFoundError: a part is missing.
        """
        directory = Path(directory)
        if not (directory / WEIGHTS).is_file():
            return None
        weights = Blend(**json.loads((directory / WEIGHTS).read_text(encoding="utf-8")))
        return cls(HistoryModel.load(directory / DIRECTORY, device=device), weights, dtype)


def fit_blend(cross: Sequence[np.ndarray], history: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> Blend:
    """The weights under which the wanted candidates are likeliest: a conditional logit (McFadden 1974) of two columns.

    Neither weight may be negative: then the cross-encoder stays alone, as it does without a list to learn from.

    Args:
        cross, history: both scores of every list, float32 (n_candidates,) each. labels: 0 = not wanted.
    """
    lists = [
        (np.stack([a, b], axis=1).astype(np.float64), wanted / wanted.sum())
        for a, b, wanted in zip(cross, history, labels, strict=True)
        if len(wanted) > 1 and 0 < (wanted > 0).sum() < len(wanted)
    ]
    weights = np.array([1.0, 0.0])
    value = _value(lists, weights)
    for _ in range(_STEPS):
        gradient, curvature = _derivatives(lists, weights)
        step = np.linalg.solve(curvature, gradient)
        for halving in range(_HALVINGS):
            tried = weights - step / 2**halving
            new = _value(lists, tried)
            if new <= value:
                break
        else:
            break
        done = value - new < 1e-9 * max(1, len(lists))
        weights, value = tried, new
        if done:
            break
    if min(weights) <= 0:
        return Blend()
    return Blend(float(weights[0]), float(weights[1]))


def _value(lists: list[tuple[np.ndarray, np.ndarray]], weights: np.ndarray) -> float:
    total = _RIDGE * float((weights - (1, 0)) @ (weights - (1, 0))) / 2
    for columns, share in lists:
        logits = columns @ weights
        top = logits.max()
        total += float(top + np.log(np.exp(logits - top).sum()) - share @ logits)
    return total


def _derivatives(lists: list[tuple[np.ndarray, np.ndarray]], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    gradient, curvature = _RIDGE * (weights - (1, 0)), _RIDGE * np.eye(2)
    for columns, share in lists:
        logits = columns @ weights
        chance = np.exp(logits - logits.max())
        chance /= chance.sum()
        mean = chance @ columns
        gradient = gradient + mean - share @ columns
        centred = columns - mean
        curvature = curvature + (centred * chance[:, None]).T @ centred
    return gradient, curvature
