"""Of an index on Milvus a directory holds the address, what must be there, and some rows to compare; no secrets."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from indexes.arrays import load_array, save_array
from indexes.errors import DamagedArtefact
from indexes.hits import Param
from indexes.manifest import Json, Manifest, write_manifest
from indexes.milvus import MilvusIndex
from indexes.milvus_build import attach_milvus

FAMILY = "milvus"
SAMPLE_ROWS, SAMPLE_VECTORS = "sample_rows.npy", "sample_vectors.npy"
N_SAMPLE = 64
CURE = "move the index again (tandem index move), or roll back"


def save_milvus(index: MilvusIndex, directory: Path, *, facts: Mapping[str, Json]) -> Manifest:
    """Write what `load_milvus` needs into an empty directory; see `indexes.save_index`."""
    rows = np.random.default_rng(0).choice(index.n_items, size=min(N_SAMPLE, index.n_items), replace=False)
    rows = np.sort(rows).astype(np.int64)
    save_array(directory / SAMPLE_ROWS, rows)
    save_array(directory / SAMPLE_VECTORS, index.reconstruct(rows))
    own: dict[str, Json] = {
        "family": FAMILY,
        "params": dict(index.params),
        "dim": index.dim,
        "n_items": index.n_items,
        "metric": "inner_product",
    }
    return write_manifest(directory, facts={**facts, "index": own})


def load_milvus(directory: Path, params: Mapping[str, Param], *, n_items: int, dim: int, sample: bool) -> MilvusIndex:
    """Find the collection and compare it with what the directory says; see `indexes.load_index`.

    Args:
        sample: compare the vectors of some rows as well, not only counts and kinds.

    Raises:
        DamagedArtefact: the collection is gone, or not the one that was saved.
    """
    try:
        index = attach_milvus(params, n_items=n_items, dim=dim)
        if sample:
            rows = load_array(directory / SAMPLE_ROWS, np.int64, 1)
            vectors = load_array(directory / SAMPLE_VECTORS, np.float32, 2)
            if not np.array_equal(index.reconstruct(rows), vectors):
                place = f"collection {index.collection} at {index.uri}"
                raise ValueError(
                    f"{place}: expected the vectors of fingerprint {index.fingerprint[:12]}..., got others"
                )
    except DamagedArtefact:
        raise
    except ValueError as error:
        raise DamagedArtefact(directory, str(error), cure=CURE) from error
    return index
