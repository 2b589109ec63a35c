"""Two passes over a long list: the first blocks score every candidate, all blocks score the best of them.

Off unless it is fitted and accepted: `fit_cascade` measures NDCG@10 of both ways on lists it was not fitted on, and
accepts only a loss within the tolerance. The context is computed once for both passes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from rerank.encode import Encoded
from rerank.files import read_tensors
from rerank.metrics import ndcg_at_10
from rerank.scorer import Scorer, part_of, prior_of

FILE = "cascade.safetensors"
RIDGE = 1e-3
"""Share of the mean variance added to each direction, so that few lists suffice to fit the early head."""


@dataclass(frozen=True)
class Cascade:
    """The head that reads a candidate after the first `n_blocks` blocks; the best `keep` go through all blocks."""

    head: np.ndarray
    """float32 (width,), applied to the hidden state after the model's final norm."""
    n_blocks: int
    keep: int

    def score(self, scorer: Scorer, encoded: Encoded) -> np.ndarray:
        """float32 (n_candidates,): full scores for the kept, and below all of them, in early order, the others."""
        states = scorer.contexts([encoded])
        early = scorer.early_rows(encoded, states, self.n_blocks) @ self.head + prior_of(encoded)
        if encoded.n_candidates <= self.keep:
            return scorer.full_scores(encoded, states)
        order = np.argsort(-early, kind="stable")
        kept, rest = np.sort(order[: self.keep]), order[self.keep :]
        scores = np.empty(encoded.n_candidates, dtype=np.float32)
        scores[kept] = scorer.full_scores(part_of(encoded, kept), states)
        scores[rest] = scores[kept].min() - 1 - (early[rest].max() - early[rest])
        return scores

    def save(self, directory: str | Path) -> None:
        """Write `cascade.safetensors` into a reranker's directory."""
        tensors = {"head": torch.from_numpy(self.head), "shape": torch.tensor([self.n_blocks, self.keep])}
        save_file(tensors, str(Path(directory) / FILE))

    @classmethod
    def load(cls, directory: str | Path) -> Cascade | None:
        """The cascade saved in a directory, None if there is none."""
        file = Path(directory) / FILE
        if not file.is_file():
            return None
        tensors = read_tensors(file)
        n_blocks, keep = (int(number) for number in tensors["shape"])
        return cls(tensors["head"].numpy().copy(), n_blocks, keep)


def remove_cascade(directory: str | Path) -> None:
    """Remove what `Cascade.save` wrote, if there is anything."""
    (Path(directory) / FILE).unlink(missing_ok=True)


@dataclass(frozen=True)
class CascadeReport:
    """What a cascade costs and saves, on lists it was not fitted on."""

    ndcg_full: float
    ndcg_cascade: float
    ms_full: float
    """Milliseconds per list."""
    ms_cascade: float
    accepted: bool


def fit_cascade(
    scorer: Scorer,
    lists: Sequence[Encoded],
    labels: Sequence[np.ndarray],
    *,
    n_blocks: int,
    keep: int = 100,
    tolerance: float = 0.01,
) -> tuple[Cascade, CascadeReport]:
    """Fit the early head to the full scores on every second list, and judge it on the others.

    Ridge regression of the full score (list by list around its mean) on the early hidden state: labels are not used to
    fit, so the cascade imitates the model and cannot overfit the truth. `accepted`: NDCG@10 >= (1 - tolerance) * full.
    """
    if not 1 <= n_blocks < len(scorer.blocks):
        raise ValueError(f"n_blocks: expected 1 to {len(scorer.blocks) - 1}, got {n_blocks}")
    if keep < 1:
        raise ValueError(f"keep: expected at least 1, got {keep}")
    full_lists = [row for row, encoded in enumerate(lists) if encoded.n_candidates]
    lists, labels = [lists[row] for row in full_lists], [labels[row] for row in full_lists]
    if len(lists) < 2:
        raise ValueError(
            f"expected at least 2 lists with candidates, one to fit on and one to judge by, got {len(lists)}"
        )
    rows, targets = [], []
    for encoded in lists[::2]:
        states = scorer.contexts([encoded])
        early = scorer.early_rows(encoded, states, n_blocks)
        full = scorer.full_scores(encoded, states) - prior_of(encoded)
        rows.append(early - early.mean(0))
        targets.append(full - full.mean())
    inputs, wanted = np.concatenate(rows).astype(np.float64), np.concatenate(targets).astype(np.float64)
    gram = inputs.T @ inputs
    gram += np.eye(len(gram)) * (RIDGE * np.trace(gram) / len(gram))
    cascade = Cascade(np.linalg.solve(gram, inputs.T @ wanted).astype(np.float32), n_blocks, keep)
    return cascade, judge_cascade(cascade, scorer, lists[1::2], labels[1::2], tolerance=tolerance)


def judge_cascade(
    cascade: Cascade,
    scorer: Scorer,
    lists: Sequence[Encoded],
    labels: Sequence[np.ndarray],
    *,
    tolerance: float = 0.01,
) -> CascadeReport:
    """Compare NDCG@10 and time of the full model and the cascade, list by list.

    Lists of at most `keep` candidates are scored in full both ways, so they do not judge; without others the cascade is
    not accepted, and the figures are NaN.
    """
    judges = [row for row, encoded in enumerate(lists) if encoded.n_candidates > cascade.keep]
    if not judges:
        return CascadeReport(math.nan, math.nan, math.nan, math.nan, accepted=False)
    lists, labels = [lists[row] for row in judges], [labels[row] for row in judges]
    start = time.perf_counter()
    full = [scorer.score_many([encoded])[0] for encoded in lists]
    middle = time.perf_counter()
    cut = [cascade.score(scorer, encoded) for encoded in lists]
    end = time.perf_counter()
    ndcg_full, ndcg_cascade = ndcg_at_10(full, labels), ndcg_at_10(cut, labels)
    return CascadeReport(
        ndcg_full=ndcg_full,
        ndcg_cascade=ndcg_cascade,
        ms_full=1e3 * (middle - start) / len(lists),
        ms_cascade=1e3 * (end - middle) / len(lists),
        accepted=bool(ndcg_cascade >= (1 - tolerance) * ndcg_full),
    )
