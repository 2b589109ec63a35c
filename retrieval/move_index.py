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
    FAMILIES,
    DamagedArtefact,
    Index,
    Manifest,
    MilvusIndex,
    build_index,
    build_milvus,
    check_root,
    list_versions,
    publish,
    read_manifest,
    resolve,
    save_index,
)
from indexes.files import Fingerprint
from indexes.manifest import check_file
from indexes.milvus_build import KINDS, drop_collection, list_collections
from indexes.milvus_client import check_uri, is_local
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
    _check_target(bundle, to, uri)
    source = resolve(bundle)
    manifest = read_manifest(source)
    for part in ("vectors.safetensors", "config.json"):
        _check_source(source / part, manifest.files[part])
    vectors = load_arrays(source / "vectors.safetensors")
    seed = json.loads((source / "config.json").read_text(encoding="utf-8"))["seed"]
    name = collection or _own_name(bundle)
    indexes: dict[str, Index] = {}
    for part in PARTS:
        if uri is not None:
            indexes[part] = build_milvus(vectors[part], uri=uri, name=f"{name}_{part}", kind=kind, progress=progress)
        else:
            indexes[part] = build_index(vectors[part], family=to, seed=seed, progress=progress)

    def fill(directory: Path) -> None:
        _copy_the_rest(source, manifest, directory)
        for part, index in indexes.items():
            save_index(index, directory / "index" / part)
        if to != MILVUS:
            _set_family(directory / "config.json", to)

    version = publish(bundle, fill, facts=manifest.facts, keep=keep, based_on=source)
    return Move(version, {part: {"family": index.family, **index.params} for part, index in indexes.items()})


def _check_target(bundle: Path, to: str, uri: str | None) -> None:
    """Raise what `move_index` says of a move that makes no sense."""
    if to not in (MILVUS, "auto", *FAMILIES):
        raise ValueError(f"--to: expected one of {', '.join((MILVUS, 'auto', *FAMILIES))}, got {to!r}")
    if to == MILVUS and uri is None:
        raise ValueError(
            "--uri: expected with --to milvus, got none; give http://HOST:19530, or FILE.db on this machine"
        )
    if to != MILVUS and uri is not None:
        raise ValueError(f"--uri: expected only with --to milvus, got {uri!r} with --to {to}; leave it out")
    check_root(bundle)


def _copy_the_rest(source: Path, manifest: Manifest, directory: Path) -> None:
    """Copy all files but those of the indexes; a copy that is not what the manifest says is refused."""
    for name, expected in manifest.files.items():
        if name.startswith("index/"):
            continue
        if not (source / name).is_file():
            _check_source(source / name, expected)
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, directory / name)
        try:
            check_file(directory / name, expected)
        except DamagedArtefact:
            _check_source(source / name, expected)  # the fault is named where it is
            raise


def _check_source(path: Path, expected: Fingerprint) -> None:
    if not path.is_file():
        raise DamagedArtefact(path, "expected this file, it is missing")
    check_file(path, expected)


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


def leftover_collections(
    bundle: Path, *, uri: str | None = None, collection: str | None = None
) -> list[tuple[str, str]]:
    """(uri, collection) of what earlier versions of a bundle left on Milvus: no version that is kept names them.

    Not to be asked while somebody moves or rebuilds the bundle, whose new collections nothing names yet.

    Args:
        uri: a place to look at although no kept version names it. Only collections are given whose names `move_index`
            would make for this bundle, or that begin as those do which kept versions name elsewhere.
        collection: what their names begin with there, if the bundle was moved under another name than its own.

    Raises:
        ValueError: a collection without a uri, or an unusable uri. FileNotFoundError: a .db file that is not there.
    """
    if collection is not None and uri is None:
        raise ValueError(f"--collection: expected --uri with it, got {collection!r} alone; say where it is")
    used = set(_collections_of(bundle))
    names = {(place, named[1]) for place, found in used if (named := _COLLECTION.fullmatch(found))}
    if uri is not None:
        uri = check_uri(uri)
        if is_local(uri) and not Path(uri).is_dir():
            raise FileNotFoundError(f"--uri: expected a milvus-lite database, found nothing at {uri}; was it deleted?")
        prefixes = {f"{collection or _own_name(bundle)}_{part}" for part in PARTS}
        names = {(uri, name) for name in prefixes | ({name for _, name in names} if collection is None else set())}
    found = []
    for place in sorted({place for place, _ in names}):
        if is_local(place) and not Path(place).is_dir():
            continue  # a kept version names it still, and nothing is left where nothing is
        for candidate in list_collections(place):
            named = _COLLECTION.fullmatch(candidate)
            if named and (place, named[1]) in names and (place, candidate) not in used:
                found.append((place, candidate))
    return found


def drop_leftovers(bundle: Path, *, uri: str | None = None, collection: str | None = None) -> list[tuple[str, str]]:
    """Delete the `leftover_collections` and return what they were."""
    leftovers = leftover_collections(bundle, uri=uri, collection=collection)
    for place, name in leftovers:
        drop_collection(place, name)
    return leftovers


def _own_name(bundle: Path) -> str:
    """What the names of a bundle's collections begin with, unless another name is asked for."""
    return re.sub(r"\W", "_", bundle.resolve().name, flags=re.ASCII)


def _collections_of(bundle: Path) -> Iterator[tuple[str, str]]:
    """The collections that the versions of a bundle name."""
    resolve(bundle)  # says what is wrong where this is no bundle
    for version in list_versions(bundle):
        for part in PARTS:
            own = read_manifest(version / "index" / part).facts.get("index")
            params = own.get("params") if isinstance(own, dict) and own.get("family") == MILVUS else None
            if isinstance(params, dict):
                yield str(params["uri"]), str(params["collection"])
