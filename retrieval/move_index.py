"""Moves the two indexes of a bundle to another family, or to Milvus and back, as the bundle's next version.

Everything else of the bundle is copied as it is. The vectors come from the bundle, which keeps them as float32, so that
nothing is lost on the way and no model is loaded.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file as load_arrays

from indexes import (
    Index,
    Locked,
    Manifest,
    MilvusIndex,
    build_index,
    build_milvus,
    list_versions,
    publish,
    read_manifest,
    resolve,
    save_index,
)
from indexes.manifest import MANIFEST_NAME, check_file
from indexes.milvus_build import KINDS, drop_collection, list_collections
from indexes.vectors import Progress
from retrieval.config import Config

MILVUS = "milvus"
PARTS = ("text", "items")
"""The directories below index/, and the names of their vectors."""
_COLLECTION = re.compile(rf"(.+)_({'|'.join(KINDS)})_[0-9a-f]{{16}}")


@dataclass(frozen=True)
class Move:
    """What was done: the new version's directory, and each part's family and parameters."""

    version: Path
    parts: Mapping[str, Mapping[str, object]]


def move_index(
    bundle: Path,
    *,
    to: str,
    uri: str | None = None,
    collection: str | None = None,
    kind: str = "auto",
    keep: int = 3,
    progress: Progress | None = None,
) -> Move:
    """Publish the next version of a bundle, the same but for its indexes.

    Args:
        bundle: a root.
        to: "milvus", "auto" or a family of FAISS. A nightly rebuild stays with it.
        uri: of the Milvus server, or a file ending in .db for milvus-lite.
        collection: what the names of the collections begin with; None takes the bundle's name.
        kind: of the collections, see `build_milvus`.
        keep: how many versions stay.

    Raises:
        ValueError: an unknown family, a uri where none belongs or none where one does, or one version for a bundle.
        indexes.DamagedArtefact: a file of the bundle is not as it was written.
        indexes.Locked: another version was published meanwhile. ConnectionError: Milvus does not answer.
    """
    if (to == MILVUS) != (uri is not None):
        raise ValueError(
            f"--uri: expected the address of Milvus together with --to milvus alone, got {uri!r} and {to!r}"
        )
    if (bundle / MANIFEST_NAME).is_file():
        raise ValueError(f"{bundle}: expected the root of a bundle, got one version of it; it never changes")
    source = resolve(bundle)
    manifest = read_manifest(source)
    check_file(source / "vectors.safetensors", manifest.files["vectors.safetensors"])
    vectors = load_arrays(source / "vectors.safetensors")
    seed = json.loads((source / "config.json").read_text(encoding="utf-8"))["seed"]
    name = collection or re.sub(r"\W", "_", bundle.resolve().name, flags=re.ASCII)
    indexes: dict[str, Index] = {}
    for part in PARTS:
        if uri is not None:
            indexes[part] = build_milvus(vectors[part], uri=uri, name=f"{name}_{part}", kind=kind, progress=progress)
        else:
            indexes[part] = build_index(vectors[part], family=to, seed=seed, progress=progress)

    def fill(directory: Path) -> None:
        if resolve(bundle) != source:
            raise Locked(f"{bundle}: another version was published meanwhile; move it again")
        _copy_the_rest(source, manifest, directory)
        for part, index in indexes.items():
            save_index(index, directory / "index" / part)
        if to != MILVUS:
            _set_family(directory / "config.json", to)

    version = publish(bundle, fill, facts=manifest.facts, keep=keep)
    return Move(version, {part: {"family": index.family, **index.params} for part, index in indexes.items()})


def _copy_the_rest(source: Path, manifest: Manifest, directory: Path) -> None:
    """Copy all files but those of the indexes; a copy that is not what the manifest says is refused."""
    for name, expected in manifest.files.items():
        if not name.startswith("index/"):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, directory / name)
            check_file(directory / name, expected)


def _set_family(path: Path, family: str) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    config["index"]["family"] = family
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")


def index_like(old: Index, vectors: np.ndarray, config: Config) -> Index:
    """An index over other vectors that stands where the old one stands: on the same Milvus, or in a family of FAISS."""
    if not isinstance(old, MilvusIndex):
        return build_index(vectors, family=config.index.family, seed=config.seed, device=config.device)
    named = _COLLECTION.fullmatch(old.collection)
    name = named[1] if named else old.collection
    return build_milvus(vectors, uri=old.uri, name=name, kind=str(old.params["kind"]))


def leftover_collections(bundle: Path) -> list[tuple[str, str]]:
    """(uri, collection) of what earlier versions of a bundle left on Milvus: no version that is kept names them.

    Not to be asked while somebody moves or rebuilds the bundle, whose new collections nothing names yet.
    """
    used = set(_collections_of(bundle))
    names = {(uri, named[1]) for uri, collection in used if (named := _COLLECTION.fullmatch(collection))}
    found = []
    for uri in sorted({uri for uri, _ in names}):
        for collection in list_collections(uri):
            named = _COLLECTION.fullmatch(collection)
            if named and (uri, named[1]) in names and (uri, collection) not in used:
                found.append((uri, collection))
    return found


def drop_leftovers(bundle: Path) -> list[tuple[str, str]]:
    """Delete the `leftover_collections` and return what they were."""
    leftovers = leftover_collections(bundle)
    for uri, collection in leftovers:
        drop_collection(uri, collection)
    return leftovers


def _collections_of(bundle: Path) -> Iterator[tuple[str, str]]:
    """The collections that the versions of a bundle name."""
    resolve(bundle)  # says what is wrong where this is no bundle
    for version in list_versions(bundle):
        for part in PARTS:
            own = read_manifest(version / "index" / part).facts.get("index")
            params = own.get("params") if isinstance(own, dict) and own.get("family") == MILVUS else None
            if isinstance(params, dict):
                yield str(params["uri"]), str(params["collection"])
