"""What goes into a reranker: one context, n candidates, and for training a label per candidate.

Texts, vectors and features may be given together or alone; what is missing is `None` (or no texts).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class RerankInput:
    """One context and its candidates.

    Everything about the history is NEWEST FIRST; everything about candidates is in the caller's order, which is the
    order of the scores.
    """

    context_texts: tuple[str, ...] = ()
    candidate_texts: tuple[str, ...] = ()
    context_vectors: np.ndarray | None = field(default=None, repr=False)
    """float32 (n_context, vector_dim), newest first."""
    candidate_vectors: np.ndarray | None = field(default=None, repr=False)
    """float32 (n_candidates, vector_dim)."""
    candidate_features: np.ndarray | None = field(default=None, repr=False)
    """float32 (n_candidates, n_features), raw: the model standardises them."""

    def __post_init__(self) -> None:
        for name in ("context_texts", "candidate_texts"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name}: expected a tuple of texts, got one str; wrap it as (text,)")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("context_vectors", "candidate_vectors", "candidate_features"):
            array = getattr(self, name)
            if array is not None:
                object.__setattr__(self, name, _finite_matrix(name, array))
        counts = self._candidate_counts()
        if len(set(counts.values())) > 1:
            raise ValueError(f"candidates disagree in number: {counts}; give one row per candidate everywhere")

    def _candidate_counts(self) -> dict[str, int]:
        counts = {"candidate_texts": len(self.candidate_texts)} if self.candidate_texts else {}
        for name in ("candidate_vectors", "candidate_features"):
            array = getattr(self, name)
            if array is not None:
                counts[name] = len(array)
        return counts

    @property
    def n_candidates(self) -> int:
        """How many scores this input asks for."""
        return max(self._candidate_counts().values(), default=0)


@dataclass(frozen=True)
class TrainingList:
    """An input with the truth: labels float32 (n_candidates,), 0 = not wanted, larger = wanted more."""

    input: RerankInput
    labels: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels, dtype=np.float32)
        if labels.shape != (self.input.n_candidates,):
            raise ValueError(
                f"labels: expected shape ({self.input.n_candidates},), one per candidate, got {labels.shape}"
            )
        if not np.isfinite(labels).all() or (labels < 0).any():
            raise ValueError("labels: expected finite numbers >= 0, got NaN, infinity or a negative number")
        object.__setattr__(self, "labels", labels)


def _finite_matrix(name: str, array: np.ndarray) -> np.ndarray:
    matrix = np.asarray(array, dtype=np.float32)
    if matrix.ndim != 2:
        raise ValueError(f"{name}: expected float32 (rows, columns), got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise ValueError(f"{name}: row {row} holds NaN or infinity; drop or repair it before scoring")
    return matrix
