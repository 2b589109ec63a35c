"""A manifest that fits its files, and lies: every index it describes is refused in one line, before it is served."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from indexes import (
    DamagedArtefact,
    list_versions,
    load_index,
    publish,
    read_manifest,
    resolve,
    save_index,
    write_manifest,
)
from indexes.check import main
from indexes.files import Fingerprint
from indexes.manifest import Json, Manifest, _encode
from tests.indexes.contract import make_vectors
from tests.indexes.test_storage import forge, save

SAVED = ("ivf_sq8", "ivf_pq", "hnsw")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One index of each of these families, not to be written into."""
    root = tmp_path_factory.mktemp("saved")
    for family in SAVED:
        save(root / family, family)
    return root


@pytest.fixture
def forged(saved: Path, tmp_path: Path) -> Callable[[str, dict], Path]:
    """Return a function that copies the index of a family and gives it other parameters (None: takes one out)."""

    def change(family: str, changes: dict) -> Path:
        directory = tmp_path / family
        shutil.copytree(saved / family, directory)
        own = read_manifest(directory).facts["index"]
        assert isinstance(own, dict)
        assert isinstance(own["params"], dict)
        params = {name: value for name, value in {**own["params"], **changes}.items() if value is not None}
        forge(directory, params=params)
        return directory

    return change


@pytest.mark.parametrize(
    ("family", "name", "value", "expected"),
    [
        ("ivf_sq8", "n_probe", None, "an integer from 1 to 2147483647, got None"),
        ("ivf_sq8", "n_probe", 0, "an integer from 1 to 2147483647, got 0"),
        ("ivf_sq8", "n_probe", -5, "an integer from 1 to 2147483647, got -5"),
        ("ivf_sq8", "n_probe", 1.5, r"an integer from 1 to 2147483647, got 1\.5"),
        ("ivf_sq8", "n_probe", True, "an integer from 1 to 2147483647, got True"),
        ("ivf_sq8", "n_probe", [1], r"an integer from 1 to 2147483647, got \[1\]"),
        ("ivf_sq8", "n_lists", "abc", "an integer from 1 to 600, got 'abc'"),
        ("ivf_sq8", "n_lists", 601, "an integer from 1 to 600, got 601"),
        ("ivf_sq8", "n_lists", 2**70, "an integer from 1 to 600, got 1180591620717411303424"),
        ("ivf_sq8", "breadth", "x", "a number from 0 to 1000, got 'x'"),
        ("ivf_sq8", "breadth", 1e308, r"a number from 0 to 1000, got 1e\+308"),
        ("ivf_pq", "refine", -1, "a number from 1 to 1000, got -1"),
        ("ivf_pq", "refine", 1e12, r"a number from 1 to 1000, got 1000000000000\.0"),
        ("hnsw", "ef_search", None, "an integer from 1 to 2147483647, got None"),
        ("hnsw", "ef_search", 2**70, "an integer from 1 to 2147483647, got 1180591620717411303424"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(
    forged: Callable[[str, dict], Path], family: str, name: str, value: object, expected: str
) -> None:
    with pytest.raises(DamagedArtefact, match=f"describes no index of ours: {name}: expected {expected}"):
        load_index(forged(family, {name: value}))


def test_the_check_apart_calls_it_damaged(
    forged: Callable[[str, dict], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(forged("ivf_sq8", {"n_probe": None}))]) == 3
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("family", SAVED)
def test_parameters_that_have_a_default_may_be_missing(forged: Callable[[str, dict], Path], family: str) -> None:
    index = load_index(forged(family, {"breadth": None, "seed": None}))
    assert index.search(make_vectors(2, 8), 3).rows.shape == (2, 3)


def test_a_manifest_cannot_lift_the_limits_of_the_reader(
    forged: Callable[[str, dict], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import indexes.storage

    directory, limits = forged("ivf_sq8", {"n_lists": 2**31 - 1}), []
    forge(directory, n_items=2**60)
    real = indexes.storage.faiss.set_deserialization_loop_limit
    monkeypatch.setattr(
        indexes.storage.faiss, "set_deserialization_loop_limit", lambda limit: (limits.append(limit), real(limit))
    )
    with pytest.raises(DamagedArtefact, match=r"expected \(dim, n_items, metric\)"):
        load_index(directory)
    assert max(limits[:1]) <= (directory / "index.faiss").stat().st_size


def test_what_would_be_refused_is_not_saved(tmp_path: Path, saved: Path) -> None:
    index = load_index(saved / "ivf_pq")
    with pytest.raises(ValueError, match="refine: expected a number from 1 to 1000, got 5000"):
        save_index(index.with_params(refine=5000), tmp_path / "index")  # type: ignore[attr-defined]


def test_facts_nested_without_end_are_no_manifest(tmp_path: Path) -> None:
    for depth in range(800, 1_000):  # Python reads some of these, but cannot write them again
        nested = "[" * depth + "]" * depth
        (tmp_path / "manifest.json").write_text(
            f'{{"format": "tandem-manifest", "format_version": 1, "facts": {{"a": {nested}}}, "files": []}}'
        )
        with pytest.raises(DamagedArtefact, match="manifest"):
            read_manifest(tmp_path)


def test_a_graph_on_milvus_needs_its_width(tmp_path: Path) -> None:
    params: dict[str, Json] = {"uri": "items.db", "collection": "a", "kind": "hnsw", "fingerprint": "0" * 64}
    own: dict[str, Json] = {"family": "milvus", "params": params, "dim": 8, "n_items": 80, "metric": "inner_product"}
    write_manifest(tmp_path, facts={"index": own})
    with pytest.raises(DamagedArtefact, match="fingerprint of a collection, and ef_search of a graph"):
        load_index(tmp_path)


@pytest.mark.parametrize("size", ["384", 384.0, -1, True, None])
def test_sizes_that_are_no_counts_are_refused(tmp_path: Path, size: object) -> None:
    data = _encode(Manifest(facts={}, files={"file": Fingerprint(384, "0" * 64)}))
    body = data[: data.rindex(b',\n "checksum"')].replace(b"384", json.dumps(size).encode()) + b"\n}"
    checksum = hashlib.sha256(body).hexdigest()
    (tmp_path / "manifest.json").write_bytes(body[:-2] + f',\n "checksum": "{checksum}"\n}}\n'.encode())
    with pytest.raises(DamagedArtefact, match="cannot read it"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("facts", [[], [["dim", 1]], "text", 1])
def test_facts_that_are_no_table_are_refused(tmp_path: Path, facts: object) -> None:
    (tmp_path / "manifest.json").write_bytes(_encode(Manifest(facts=facts, files={})))  # type: ignore[arg-type]
    with pytest.raises(DamagedArtefact, match="manifest"):
        load_index(tmp_path)


def test_a_manifest_that_is_a_link_is_none(tmp_path: Path) -> None:
    version = publish(tmp_path / "root", lambda directory: None, facts={})
    os.rename(version / "manifest.json", tmp_path / "elsewhere")
    (version / "manifest.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedArtefact, match="CURRENT names this version, its manifest is missing or a link"):
        resolve(tmp_path / "root")
    with pytest.raises(DamagedArtefact, match="it is missing or a link in a published version"):
        resolve(version)
    assert list_versions(tmp_path / "root") == []
