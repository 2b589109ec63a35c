"""Two heads trained apart put the same items in spaces that are turned against each other; this turns one back.

A head's scores are inner products of its own vectors, so any rotation of its space leaves them as they are. Who reads
the vectors themselves, as GPT-2 does, must find an item where it was learned.
"""

from __future__ import annotations

import numpy as np
import torch

from retrieval.encoder.heads import RecallHead
from retrieval.encoder.train import embed_items


@torch.no_grad()
def align_head(head: RecallHead, text_vectors: np.ndarray, reference: np.ndarray) -> None:
    """Rotate the head's space so that its item vectors lie nearest to others: orthogonal Procrustes (Schönemann 1966).
    Its scores stay the same.

    Args:
        text_vectors: float32 (n_items, text_dim). reference: float32 (n_items, dim), another head's vectors of them.

    Raises:
        ValueError: the reference is of another shape.
    """
    vectors = embed_items(head, text_vectors)
    if vectors.shape != reference.shape:
        raise ValueError(f"align_head: expected a reference of shape {vectors.shape}, got {reference.shape}")
    left, _, right = np.linalg.svd(vectors.T.astype(np.float64) @ reference.astype(np.float64))
    rotation = torch.from_numpy(left @ right).to(head.residual.weight)
    for into in (head.text_map, head.user_map):  # what comes out of these lies in the rotated space
        into.weight.copy_(rotation.T @ into.weight)
        into.bias.copy_(into.bias @ rotation)
    head.residual.weight.copy_(head.residual.weight @ rotation)
    head.input_map.weight.copy_(head.input_map.weight @ rotation)
