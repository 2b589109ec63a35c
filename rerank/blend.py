"""The history model beside the cross-encoder: how much its score counts, fitted on lists that neither learned from."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from rerank.files import CURE, read_json
from rerank.history_model import FACTS, PROJECTIONS, HistoryModel
from rerank.history_scorer import HistoryScorer
from rerank.inputs import RerankInput
from rerank.losses import listwise

DIRECTORY, WEIGHTS = "history", "blend.json"
_MAX_STEPS = 100
_RIDGE = 1.0
"""Pulls towards the cross-encoder alone, as much as a list does whose candidates differ by 1."""


@dataclass(frozen=True)
class Blend:
    """score = prior * prior + cross * (cross-encoder - prior) + history * history model.

    The prior (see `RerankConfig.prior`) is 0 where there is none. A weight of its own for it: where the history model
    orders as well as the prior, on MovieLens-1M, the likeliest sum holds .6 of the prior and hardly anything of what
    the cross-encoder says beside it.
    """

    cross: float = 1.0
    history: float = 0.0
    prior: float = 1.0

    def __post_init__(self) -> None:
        if not all(math.isfinite(weight) for weight in asdict(self).values()):
            raise ValueError(f"blend: expected finite weights, got {self}; fit it again")

    def __str__(self) -> str:
        return f"{self.prior:.2f} prior + {self.cross:.2f} cross-encoder + {self.history:.2f} history model"


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

    def add(
        self, scores: Sequence[np.ndarray], priors: Sequence[np.ndarray], inputs: Sequence[RerankInput]
    ) -> list[np.ndarray]:
        """The cross-encoder's scores of these inputs and the priors in them, float32 (n_candidates,) each, with the
        history model's added."""
        weights = self.blend
        return [
            (weights.prior * prior + weights.cross * (score - prior) + weights.history * more).astype(np.float32)
            for score, prior, more in zip(scores, priors, self.scorer.score_many(inputs), strict=True)
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
        try:
            found = read_json(directory / WEIGHTS)
            weights = Blend(cross=found["cross"], history=found["history"], prior=found["prior"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{directory / WEIGHTS}: damaged: {error!r}; {CURE}") from error
        return cls(HistoryModel.load(directory / DIRECTORY, device=device), weights, dtype)


def remove_blended(directory: str | Path) -> None:
    """Remove what `Blended.save` wrote, if there is anything, and nothing else that lies there."""
    (Path(directory) / WEIGHTS).unlink(missing_ok=True)
    folder = Path(directory) / DIRECTORY
    if (folder / FACTS).is_file():
        for name in (PROJECTIONS, "config.json", "model.safetensors", FACTS):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody keeps something else in it
            folder.rmdir()


def fit_blend(
    priors: Sequence[np.ndarray],
    cross: Sequence[np.ndarray],
    history: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
) -> Blend:
    """The weights under which the wanted candidates are likeliest: a conditional logit (McFadden 1974) of the three.

    No weight may be negative. Where the cross-encoder's would be it is 0; where another's would be, the cross-encoder
    stays alone, as it does without a list to learn from.

    Args:
        priors, cross, history: what each says of every list, float32 (n_candidates,) each; the prior is in the score of
            the cross-encoder. labels: 0 = not wanted.
    """
    if not sum(len(wanted) for wanted in labels):
        return Blend()
    owner = torch.from_numpy(np.repeat(np.arange(len(labels)), [len(wanted) for wanted in labels]))
    wanted = torch.from_numpy(np.concatenate(labels).astype(np.float64))
    prior, whole, more = (np.concatenate(one).astype(np.float64) for one in (priors, cross, history))
    columns = torch.from_numpy(np.stack([prior, whole - prior, more], axis=1))
    weights = _likeliest(columns, torch.ones(3, dtype=torch.float64), wanted, owner)
    if weights[1] <= 0:
        weights = _likeliest(columns, torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64), wanted, owner)
    if weights[0] <= 0 or weights[2] <= 0:
        return Blend()
    return Blend(prior=weights[0], cross=weights[1], history=weights[2])


def _likeliest(columns: torch.Tensor, used: torch.Tensor, wanted: torch.Tensor, owner: torch.Tensor) -> list[float]:
    """The weights of the columns float64 (n, 3), 0 for those not used (float64 (3,), 0 or 1)."""
    alone = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64) * used
    scale = columns.std(dim=0, correction=0).clamp_min(1e-12)  # the search is in steps of the scores' own size
    steps = (alone * scale).requires_grad_()
    optimiser = torch.optim.LBFGS([steps], max_iter=_MAX_STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        weights = steps / scale * used
        pull = _RIDGE / 2 * ((weights - alone) ** 2).sum() / (int(owner[-1]) + 1)
        loss = listwise(columns @ weights, wanted, owner) + pull
        loss.backward()
        return loss

    optimiser.step(closure)  # pyright: ignore[reportArgumentType]
    return (steps / scale * used).tolist()
