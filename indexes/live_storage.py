"""A live index on disk: its base as `save_index` writes it, and arrays for the delta and the tombstones."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from indexes.arrays import load_array, save_array
from indexes.errors import DamagedArtefact
from indexes.live import LiveIndex, check_base_vectors
from indexes.manifest import Json, Manifest, check_facts, read_manifest, verify_directory, write_manifest
from indexes.storage import load_index, save_index
from indexes.vectors import vectors_fingerprint

BASE_DIRECTORY = "base"
ARRAYS = {
    "base_rows": (np.int64, 1),
    "hidden": (np.bool_, 1),
    "delta": (np.float32, 2),
    "delta_rows": (np.int64, 1),
}


def save_live(live: LiveIndex, directory: Path | str, *, facts: Mapping[str, Json] | None = None) -> Manifest:
    """Write the index as it is now into a directory that is new or empty; changes may go on meanwhile.

    The vectors of the base are not written, but read once for their fingerprint. Errors as of `save_index`.
    """
    check_facts(facts or {})
    directory, state = Path(directory), live.state()
    directory.mkdir(parents=True, exist_ok=True)
    if next(directory.iterdir(), None) is not None:
        raise FileExistsError(f"{directory}: expected an empty directory; write into a new one")
    if state.base is not None:
        save_index(state.base, directory / BASE_DIRECTORY)
    slots = np.flatnonzero(~state.delta_dead)
    arrays = {
        "base_rows": state.base_rows,
        "hidden": state.hidden,
        "delta": state.delta[slots],
        "delta_rows": state.delta_rows[slots],
    }
    for name, array in arrays.items():
        save_array(directory / f"{name}.npy", array)
    own: dict[str, Json] = {
        "dim": live.dim,
        "n_rows": state.n_rows,
        "has_base": state.base is not None,
        "vectors_sha256": state.vectors_sha256 if state.vectors is None else vectors_fingerprint(state.vectors),
    }
    return write_manifest(directory, facts={**(facts or {}), "live": own})


def load_live(directory: Path | str, *, vectors: np.ndarray | None = None, verify: bool = True) -> LiveIndex:
    """Load what `save_live` wrote: the same rows live, and the same numbers are given to new ones.

    Args:
        vectors: float32 (n_base, dim), those the base was built from, `LiveIndex.vectors` when it was saved; `compact`
            needs them. They are read once and compared with the fingerprint that was saved, if there is one.
        verify: read every byte for its checksum first.

    Raises:
        DamagedArtefact: anything that is not as it was written.
        ValueError: `vectors` are others than those the base was built from.
    """
    directory = Path(directory)
    manifest = verify_directory(directory) if verify else read_manifest(directory)
    own = manifest.facts.get("live")
    own = own if isinstance(own, dict) else {}
    dim, n_rows = own.get("dim"), own.get("n_rows")
    if not isinstance(dim, int) or not isinstance(n_rows, int):
        raise DamagedArtefact(directory, f"its manifest describes no live index: {own!r}")
    base = load_index(directory / BASE_DIRECTORY, verify=verify) if own.get("has_base") else None
    arrays = {name: load_array(directory / f"{name}.npy", *shape) for name, shape in ARRAYS.items()}
    check_base_vectors(base, vectors)
    sha256 = own.get("vectors_sha256")
    sha256 = sha256 if isinstance(sha256, str) else None
    if base is not None and vectors is not None and sha256 is not None and vectors_fingerprint(vectors) != sha256:
        raise ValueError(
            f"vectors: expected those of sha256 {sha256[:12]}..., got others; give LiveIndex.vectors of then"
        )
    try:
        return LiveIndex.restore(base, vectors, dim=dim, n_rows=n_rows, vectors_sha256=sha256, **arrays)
    except ValueError as error:
        raise DamagedArtefact(directory, f"its parts do not fit: {error}") from error
