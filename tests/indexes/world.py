"""A small version to publish, and the check that a version is whole: all its files carry the same mark."""

from pathlib import Path

import faiss
import numpy as np

from indexes import build_exact, load_index, publish, resolve, save_index, verify_directory

N_ITEMS, DIM = 60, 8


def vectors_of(mark: int) -> np.ndarray:
    """float32 (N_ITEMS, DIM), different for each mark."""
    return np.random.default_rng(mark).normal(size=(N_ITEMS, DIM)).astype(np.float32)


def fill_with(mark: int):
    """Return a fill function: an index in a directory of its own, and two files that other programs wrote."""

    def fill(directory: Path) -> None:
        save_index(build_exact(vectors_of(mark)), directory / "index", facts={"mark": mark})
        (directory / "encoder").mkdir()
        (directory / "encoder" / "weights.bin").write_bytes(bytes([mark % 256]) * 20_000)
        (directory / "items.txt").write_text(f"{mark}\n" * 500)

    return fill


def publish_mark(root: Path, mark: int, *, keep: int = 3) -> Path:
    return publish(root, fill_with(mark), facts={"mark": mark}, keep=keep)


def mark_of(path: Path) -> int:
    """Return the mark of the version at `path`, after verifying that all of it is of one publication."""
    version = resolve(path)
    manifest = verify_directory(version)
    mark = manifest.facts["mark"]
    assert isinstance(mark, int)
    assert (version / "encoder" / "weights.bin").read_bytes() == bytes([mark % 256]) * 20_000
    assert (version / "items.txt").read_text() == f"{mark}\n" * 500
    load_index(version / "index")
    stored = faiss.read_index(str(version / "index" / "index.faiss")).reconstruct_n(0, N_ITEMS)
    np.testing.assert_array_equal(stored, vectors_of(mark))
    return mark
