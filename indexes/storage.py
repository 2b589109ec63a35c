"""An index on disk: `index.faiss`, which plain faiss.read_index opens, and a manifest of what it must be.

FAISS files carry no checksum and their writer reports success on a full disk, so the bytes are hashed before
they are written and everything is compared before it is served.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from indexes.arrays import load_array, save_array
from indexes.choose import FAMILIES
from indexes.device import to_cpu
from indexes.errors import DamagedArtefact, Locked
from indexes.exact import ExactIndex
from indexes.files import write_checked
from indexes.gpu import CAGRA
from indexes.hits import Index
from indexes.hnsw import HnswIndex
from indexes.ivf import IvfIndex
from indexes.kernel import CagraGraph, is_projection, list_ids, read, write_through
from indexes.manifest import Json, Manifest, check_facts, read_manifest, verify_directory, write_manifest
from indexes.milvus import MilvusIndex
from indexes.milvus_storage import FAMILY as MILVUS
from indexes.milvus_storage import load_milvus, save_milvus
from indexes.stored_facts import PARAMS, IndexFacts, check_params, read_facts
from indexes.versions import list_versions, publish, resolve, rollback

__all__ = [
    "DamagedArtefact",
    "Locked",
    "Manifest",
    "list_versions",
    "load_array",
    "load_index",
    "publish",
    "read_manifest",
    "resolve",
    "rollback",
    "save_array",
    "save_index",
    "verify_directory",
    "write_manifest",
]

INDEX_FILE = "index.faiss"
GOLDEN_QUERIES, GOLDEN_SCORES = "golden_queries.npy", "golden_scores.npy"
N_GOLDEN = 8
GOLDEN_DEPTH = 10
GOLDEN_TOLERANCE = 1e-3
"""Relative; another processor rounds the same sums some 1e-6 apart."""
MIN_LOOP_LIMIT = 1_000

FAISS_TYPES = {
    "exact": {b"IxFI": faiss.IndexFlat},
    "ivf": {b"IwFl": faiss.IndexIVFFlat},
    "ivf_sq8": {b"IwSq": faiss.IndexIVFScalarQuantizer},
    "ivf_pq": {b"IxRF": faiss.IndexRefine, b"IxPT": faiss.IndexPreTransform},
    "ivf_rabitq": {b"Iwrr": faiss.IndexIVFRaBitQ},
    "hnsw": {b"IHNf": faiss.IndexHNSWFlat},
    "hnsw_sq8": {b"IHNs": faiss.IndexHNSWSQ},
    CAGRA: {b"IHc2": CagraGraph},
}
"""By family, the first four bytes of its file and its class (without and with a projection): else it is refused."""

# The limits of the FAISS reader are global to the process.
_reading = threading.Lock()


def save_index(index: Index, directory: Path | str, *, facts: Mapping[str, Json] | None = None) -> Manifest:
    """Write an index into a directory that is new or empty; of one on Milvus, where it is and what it must hold.

    Args:
        facts: to be stored beside the index's own facts (family, params, dim, n_items, metric).

    Raises:
        FileExistsError: the directory is not empty.
        ValueError: a parameter that `load_index` would refuse, facts that JSON cannot hold, or no index of ours.
    """
    check_facts(facts or {})
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if next(directory.iterdir(), None) is not None:
        raise FileExistsError(f"{directory}: expected an empty directory; write into a new one")
    index = to_cpu(index)
    if index.family in PARAMS:
        check_params(index.family, index.params, n_items=index.n_items)
    if isinstance(index, MilvusIndex):
        return save_milvus(index, directory, facts=facts or {})
    if not isinstance(index, ExactIndex | IvfIndex | HnswIndex):
        known = ", ".join((*FAMILIES, MILVUS))
        raise ValueError(f"index: expected one of the families {known}, got {type(index).__name__}")
    faiss_index = index.faiss_index
    write_checked(directory / INDEX_FILE, lambda writer: write_through(faiss_index, writer.write))
    queries = np.random.default_rng(0).normal(size=(N_GOLDEN, index.dim)).astype(np.float32)
    save_array(directory / GOLDEN_QUERIES, queries)
    save_array(directory / GOLDEN_SCORES, index.search(queries, GOLDEN_DEPTH).scores)
    own: dict[str, Json] = {
        "family": index.family,
        "params": dict(index.params),
        "dim": index.dim,
        "n_items": index.n_items,
        "metric": "inner_product",
        "faiss_version": faiss.__version__,
    }
    return write_manifest(directory, facts={**(facts or {}), "index": own})


def load_index(directory: Path | str, *, verify: bool = True) -> Index:
    """Load what `save_index` wrote, ready to search.

    Args:
        verify: read every byte for its checksum and compare the golden queries. Without, the manifest, size,
            limits and structure are still checked; for a directory whose bundle has just been verified.

    Raises:
        FileNotFoundError: no manifest.
        DamagedArtefact: anything that is not as it was written, or not an index of ours.
        ImportError, ConnectionError, Locked: an index on Milvus that cannot be reached.
    """
    directory = Path(directory)
    manifest = verify_directory(directory) if verify else read_manifest(directory)
    own = read_facts(directory, manifest)
    if own.family == MILVUS:
        return load_milvus(directory, own.params, n_items=own.n_items, dim=own.dim, sample=verify)
    faiss_index = _read_faiss(directory, manifest, own)
    index = _wrap(faiss_index, own)
    if verify:
        _check_golden(directory, index)
    return index


def _read_faiss(directory: Path, manifest: Manifest, facts: IndexFacts) -> Any:
    path = directory / INDEX_FILE
    if INDEX_FILE not in manifest.files:
        raise DamagedArtefact(path, "expected this file in the manifest")
    kinds = FAISS_TYPES[facts.family]
    size = manifest.files[INDEX_FILE].size_bytes
    if not path.is_file() or path.stat().st_size != size:
        raise DamagedArtefact(path, f"expected a file of {size} bytes")
    with path.open("rb") as file:
        start = file.read(4)
    if start not in kinds:
        raise DamagedArtefact(path, f"expected a FAISS file of type {' or '.join(map(repr, kinds))}, got {start!r}")
    # The file holds a centroid for each list, so the manifest cannot lift the limit beyond its size.
    n_lists = min(int(facts.params.get("n_lists", 0)), size // 4)
    try:
        with _limits(vector_bytes=size, loops=max(MIN_LOOP_LIMIT, n_lists)):
            index = read(path)
    except (RuntimeError, MemoryError) as error:
        raise DamagedArtefact(path, f"FAISS cannot read it ({type(error).__name__})") from error
    if not isinstance(index, kinds[start]):
        raise DamagedArtefact(path, f"expected a {kinds[start].__name__}, got a {type(index).__name__}")
    expected = facts.dim, facts.n_items, faiss.METRIC_INNER_PRODUCT
    if (index.d, index.ntotal, index.metric_type) != expected:
        found = (index.d, index.ntotal, index.metric_type)
        raise DamagedArtefact(path, f"expected (dim, n_items, metric) {expected}, got {found}")
    _check_parts(path, index)
    return index


@contextmanager
def _limits(*, vector_bytes: int, loops: int) -> Iterator[None]:
    """Keep the FAISS reader from allocating more than the file can hold (0.5 MB took 2.7 GB without)."""
    with _reading:
        before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
        faiss.set_deserialization_vector_byte_limit(vector_bytes)
        faiss.set_deserialization_loop_limit(loops)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before[0])
            faiss.set_deserialization_loop_limit(before[1])


def _check_parts(path: Path, index: faiss.Index) -> None:
    """Check what is inside: parts of the types we build, and each row there exactly once."""
    if isinstance(index, faiss.IndexPreTransform):
        inner = faiss.downcast_index(index.index)
        if not is_projection(index) or not isinstance(inner, faiss.IndexRefine) or inner.ntotal != index.ntotal:
            raise DamagedArtefact(path, "its projection does not fit its codes")
        index = inner
    if isinstance(index, faiss.IndexRefine):
        codes, index = faiss.downcast_index(index.refine_index), faiss.downcast_index(index.base_index)
        plain = isinstance(codes, faiss.IndexScalarQuantizer) and isinstance(index, faiss.IndexIVFPQFastScan)
        if not plain or (codes.ntotal, codes.d) != (index.ntotal, index.d):
            raise DamagedArtefact(path, "its codes do not fit its inverted lists")
    if isinstance(index, faiss.IndexIVF):
        quantizer = faiss.downcast_index(index.quantizer)
        ids = np.concatenate([list_ids(index, number) for number in range(index.nlist)])
        plain = isinstance(quantizer, faiss.IndexFlat) and quantizer.ntotal == index.nlist
        if not plain or not np.array_equal(np.sort(ids), np.arange(index.ntotal)):
            raise DamagedArtefact(path, "its inverted lists do not hold each row once")
    if isinstance(index, faiss.IndexHNSW):
        storage = faiss.downcast_index(index.storage)
        plain = isinstance(storage, faiss.IndexFlat | faiss.IndexScalarQuantizer)
        if not plain or storage.ntotal != index.ntotal or storage.d != index.d:
            raise DamagedArtefact(path, "its graph does not fit its vectors")


def _wrap(faiss_index: Any, facts: IndexFacts) -> ExactIndex | IvfIndex | HnswIndex:
    if facts.family == "exact":
        return ExactIndex(faiss_index)
    if facts.family.startswith("ivf"):
        return IvfIndex(faiss_index, facts.family, facts.params)
    return HnswIndex(faiss_index, facts.family, facts.params)


def _check_golden(directory: Path, index: Index) -> None:
    """Search the stored queries again: bytes can be intact and a library still answer otherwise."""
    queries = load_array(directory / GOLDEN_QUERIES, np.float32, 2)
    expected = load_array(directory / GOLDEN_SCORES, np.float32, 2)
    fits = queries.shape == (N_GOLDEN, index.dim) and expected.shape == (N_GOLDEN, GOLDEN_DEPTH)
    found = index.search(queries, GOLDEN_DEPTH) if fits else None
    if found is None or not np.allclose(found.scores, expected, rtol=GOLDEN_TOLERANCE, atol=GOLDEN_TOLERANCE):
        raise DamagedArtefact(directory, "its golden queries are answered otherwise than when it was built")
