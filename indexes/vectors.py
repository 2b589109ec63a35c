"""Vectors on their way into an index: checked and copied block by block, so that memory stays bounded."""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

BLOCK_ROWS = 65_536
"""Rows handled at once: 100 MB of float32 at 384 dimensions."""

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, rows done, rows in all)."""


def check_shape(vectors: np.ndarray) -> tuple[int, int]:
    """Return (n_items, dim) of anything with a shape (an array, a memory map), or say what is wrong."""
    shape = getattr(vectors, "shape", None)
    if shape is None or len(shape) != 2:
        raise ValueError(f"vectors: expected an array of shape (n_items, dim), got {shape or type(vectors).__name__}")
    if shape[0] == 0 or shape[1] == 0:
        raise ValueError(f"vectors: expected at least one item and one dimension, got shape {tuple(shape)}")
    if vectors.dtype.kind != "f":
        raise ValueError(f"vectors: expected float32, got {vectors.dtype}")
    return int(shape[0]), int(shape[1])


def blocks(vectors: np.ndarray, *, progress: Progress | None = None) -> Iterator[np.ndarray]:
    """Yield the vectors as contiguous, finite float32 blocks of at most BLOCK_ROWS rows, in order.

    Raises:
        ValueError: a vector holds NaN or infinity; the message names its row.
    """
    n_items = vectors.shape[0]
    for start in range(0, n_items, BLOCK_ROWS):
        block = np.ascontiguousarray(vectors[start : start + BLOCK_ROWS], dtype=np.float32)
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise ValueError(
                f"vectors: expected finite numbers, got NaN or infinity in row {row}; "
                "check the model and the text of that item"
            )
        yield block
        if progress is not None:
            progress("add", start + len(block), n_items)


def vectors_fingerprint(vectors: np.ndarray) -> str:
    """Return the sha256 of the shape and of the float32 values in order, 64 hexadecimal digits.

    Raises:
        ValueError: NaN or infinity in a vector (its row is named), or a wrong shape.
    """
    digest = hashlib.sha256(repr(check_shape(vectors)).encode())
    for block in blocks(vectors):
        digest.update(block.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def sample_rows(vectors: np.ndarray, n_rows: int, *, seed: int | np.random.Generator) -> np.ndarray:
    """Return a random sample without replacement, float32 (min(n_rows, n), dim), in the order of the rows."""
    n_items = vectors.shape[0]
    if n_rows >= n_items:
        return np.ascontiguousarray(vectors[:], dtype=np.float32)
    chosen = np.random.default_rng(seed).choice(n_items, size=n_rows, replace=False)
    return np.ascontiguousarray(vectors[np.sort(chosen)], dtype=np.float32)
