"""Vectors by content: (model fingerprint, text) -> float32 (dim,), in immutable shards named by their own sha256.

A shard is written to a temporary name and renamed, so an interrupted run leaves whole shards only and the next run goes
on from there; a shard whose bytes do not match its name is ignored and encoded again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

log = logging.getLogger(__name__)
_KEY_BYTES = 16
# Without a directory the cache spares repeated work of one run only: 200,000 vectors of 384 take 300 MB.
MEMORY_TEXTS = 200_000


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()[:_KEY_BYTES]


class VectorCache:
    """All shards of one model in one directory; everything is held in memory (4 bytes x dim per text).

    Args:
        directory: None keeps vectors in memory only, at most MEMORY_TEXTS of them.
    """

    def __init__(self, directory: Path | None, *, dim: int) -> None:
        self.directory = directory
        self.dim = dim
        self._vectors: dict[bytes, np.ndarray] = {}
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        for shard in sorted(directory.glob("shard-*.safetensors")):
            self._read(shard)

    def __len__(self) -> int:
        return len(self._vectors)

    def _read(self, shard: Path) -> None:
        data = shard.read_bytes()
        if hashlib.sha256(data).hexdigest() != shard.stem.removeprefix("shard-"):
            log.warning("cache shard %s is damaged; its texts are encoded again", shard)
            return
        tensors = load_tensors(data)
        if tensors["vectors"].shape[1] != self.dim:
            log.warning("cache shard %s has vectors of another length; ignored", shard)
            return
        for key, vector in zip(tensors["keys"], tensors["vectors"], strict=True):
            self._vectors[key.tobytes()] = vector

    def fill(self, texts: Sequence[str], out: np.ndarray) -> list[int]:
        """Copy the known vectors into `out` (n_texts, dim); returns the positions that are not known."""
        missing = []
        for position, text in enumerate(texts):
            vector = self._vectors.get(_key(text))
            if vector is None:
                missing.append(position)
            else:
                out[position] = vector
        return missing

    def add(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Keep the vectors (n_texts, dim) of these texts; with a directory on disk too, in one new shard."""
        keys = [_key(text) for text in texts]
        if self.directory is None:
            room = max(0, MEMORY_TEXTS - len(self))
            self._vectors.update(zip(keys[:room], vectors[:room].copy(), strict=True))
            return
        tensors = {
            "keys": np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, _KEY_BYTES).copy(),
            "vectors": np.ascontiguousarray(vectors, dtype=np.float32),
        }
        data = save_tensors(tensors)
        handle, name = tempfile.mkstemp(dir=self.directory, prefix=".shard-")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, self.directory / f"shard-{hashlib.sha256(data).hexdigest()}.safetensors")
        for key, vector in zip(keys, tensors["vectors"], strict=True):
            self._vectors[key] = vector
