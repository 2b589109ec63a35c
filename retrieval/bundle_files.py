"""What makes a directory a bundle: the kind and format its manifest names, and the parts that must be there.

Nothing of what serves a bundle is imported here (no torch): looking at one costs little.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file as save_arrays

from indexes import DamagedArtefact, Manifest, load_index, read_manifest, resolve, verify_directory
from indexes.manifest import check_file
from retrieval.config import Config, config_from

KIND = "tandem-bundle"
FORMAT_VERSION = 12
_PARTS = ("items.parquet", "users.parquet", "vectors.safetensors", "head.safetensors", "sources.safetensors")
_PARTS += ("config.json", "settings.json", "fusion.json", "sources.json")


def open_bundle(bundle: Path, *, verify: bool = True) -> tuple[Path, Manifest]:
    """The directory of a bundle's version that this program can read, and its manifest.

    Args:
        bundle: a root (its current version is taken) or a version. verify: compare every file with the manifest.

    Raises:
        FileNotFoundError: there is no bundle. indexes.DamagedArtefact: a file is not as it was written, or missing.
        ValueError: something else than a bundle, or one of another format.
    """
    directory = resolve(bundle)
    manifest = verify_directory(directory) if verify else read_manifest(directory)
    kind, version = manifest.facts.get("kind"), manifest.facts.get("format_version")
    if (kind, version) != (KIND, FORMAT_VERSION):
        raise ValueError(
            f"{directory}: expected a tandem bundle of format {FORMAT_VERSION}, got kind {kind!r} of "
            f"format {version!r}; build it again, or install the version that wrote it"
        )
    for name in _PARTS:  # without one of them it is damaged, whether or not its manifest knows of that part
        if not (directory / name).is_file():
            raise DamagedArtefact(directory / name, "expected this file, it is missing")
    return directory, manifest


def check_bundle(bundle: Path) -> dict[str, Any]:
    """Verify every file of a bundle (a root or a version); returns the manifest's facts.

    Raises:
        As `open_bundle`: what could not be loaded is not called intact.
    """
    directory, manifest = open_bundle(bundle)
    for part in ("text", "items"):
        load_index(directory / "index" / part)
    return {"directory": str(directory), "n_files": len(manifest.files), **dict(manifest.facts)}


def config_of(bundle: Path) -> Config:
    """The configuration a bundle was fitted with, without looking at its other files.

    Raises:
        As `open_bundle`; of the files, only this one is compared with the manifest.
    """
    directory, manifest = open_bundle(bundle, verify=False)
    check_file(directory / "config.json", manifest.files["config.json"])
    return config_from(read_json(directory / "config.json"))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """As safetensors, whatever order they lie in: that library writes memory as it is and reads it as C order."""
    save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def write_json(path: Path, values: Any) -> None:
    """Write plain values (numpy's numbers among them) as a readable JSON file."""
    path.write_text(json.dumps(values, indent=1, default=float, sort_keys=False), encoding="utf-8")


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
