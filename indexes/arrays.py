"""NumPy arrays on disk: written as `write_checked` writes, read as exactly what was promised."""

from pathlib import Path

import numpy as np

from indexes.errors import DamagedArtefact
from indexes.files import write_checked


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array as .npy, checked as `write_checked` does."""
    write_checked(path, lambda writer: np.lib.format.write_array(writer, array, allow_pickle=False))


def load_array(path: Path, dtype: type, n_dims: int) -> np.ndarray:
    """Read an array that `save_array` wrote, of this dtype and number of dimensions."""
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DamagedArtefact(path, f"numpy cannot read it ({type(error).__name__})") from error
    if array.dtype != dtype or array.ndim != n_dims:
        raise DamagedArtefact(
            path, f"expected {n_dims} dimensions of {dtype.__name__}, got {array.ndim} of {array.dtype}"
        )
    return array
