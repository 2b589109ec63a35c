"""Exact search by torch, on a GPU: the same hits as `ExactIndex`, in pieces, so that memory stays bounded."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import torch

from indexes.device import DeviceIndex
from indexes.exact import ExactIndex, with_ties
from indexes.hits import Hits, check_allowed, check_queries, empty_hits, finish

QUERY_BLOCK = 1_024
MAX_CELLS = 1 << 26
"""Scores at once, queries times rows: 256 MB of float32."""
MAX_ROWS = 1 << 18
"""Rows gathered at once under a filter: 400 MB of float32 at 384 dimensions."""


@dataclass(frozen=True)
class TorchExactIndex(DeviceIndex):
    """All vectors as they are, float32 (n_items, dim), on a device of torch."""

    cpu: ExactIndex
    vectors: torch.Tensor

    @classmethod
    def copy_of(cls, index: ExactIndex, device: str) -> TorchExactIndex:
        """Copy the vectors to the device; on "cpu" they are shared with the index."""
        flat = faiss.rev_swig_ptr(index.faiss_index.get_xb(), index.n_items * index.dim)
        return cls(index, torch.from_numpy(flat.reshape(index.n_items, index.dim)).to(device))

    def search(self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None) -> Hits:
        """See `Index.search`. Rows that tie for the last place are kept by lower row as well."""
        queries, k = check_queries(queries, k, self.dim), int(k)
        mask = check_allowed(allowed, self.n_items)
        matching = None if mask is None else np.flatnonzero(mask)
        n_matching = self.n_items if matching is None else matching.size
        depth = min(k, n_matching)
        if depth == 0 or len(queries) == 0:
            return empty_hits(len(queries), k)
        rows = None if matching is None else torch.from_numpy(matching).to(self.vectors.device)
        found = with_ties(
            lambda some, reach: self._best(some, reach, rows),
            self.cpu.reconstruct,
            queries,
            depth,
            n_items=self.n_items,
            rows=matching,
        )
        return finish(found.scores, found.rows, k)

    @torch.inference_mode()
    def _best(self, queries: np.ndarray, depth: int, rows: torch.Tensor | None) -> Hits:
        parts = [
            self._best_of_block(
                torch.from_numpy(queries[start : start + QUERY_BLOCK]).to(self.vectors.device), depth, rows
            )
            for start in range(0, len(queries), QUERY_BLOCK)
        ]
        scores, found = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return finish(scores, found, depth)

    def _best_of_block(
        self, queries: torch.Tensor, depth: int, rows: torch.Tensor | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 and rows int64, both (q, depth): the best of each piece join the best so far."""
        n_matching = self.n_items if rows is None else len(rows)
        width = max(1, min(MAX_CELLS // len(queries), MAX_ROWS))
        scores = queries.new_empty((len(queries), 0))
        found = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
        for start in range(0, n_matching, width):
            numbers = None if rows is None else rows[start : start + width]
            piece = self.vectors[start : start + width] if numbers is None else self.vectors[numbers]
            best, places = torch.topk(queries @ piece.T, min(depth, len(piece)), dim=1)
            scores = torch.cat([scores, best], dim=1)
            found = torch.cat([found, places + start if numbers is None else numbers[places]], dim=1)
            if scores.shape[1] > depth:
                scores, places = torch.topk(scores, depth, dim=1)
                found = torch.gather(found, 1, places)
        return scores.cpu().numpy(), found.cpu().numpy()
