"""Saved indexes: what is refused at the door, whoever wrote the manifest."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from indexes import DamagedArtefact, build_exact, build_index, load_index, read_manifest, save_index, write_manifest
from tests.indexes.contract import make_vectors

N_HOSTILE = 2_000 if os.environ.get("TANDEM_LONG_TESTS") else 40


def save(directory: Path, family: str = "exact") -> Path:
    save_index(build_index(make_vectors(600, 8), family=family), directory)
    return directory


def forge(directory: Path, faiss_index: faiss.Index | None = None, **changes: object) -> None:
    """Replace the index file or facts of a saved index, with a manifest that fits."""
    own = dict(read_manifest(directory).facts["index"])  # type: ignore[arg-type]
    (directory / "manifest.json").unlink()
    if faiss_index is not None:
        faiss.write_index(faiss_index, str(directory / "index.faiss"))
    write_manifest(directory, facts={"index": {**own, **changes}})  # type: ignore[dict-item]


@pytest.mark.parametrize("family", ["exact", "ivf_sq8", "ivf_pq", "ivf_rabitq", "hnsw_sq8"])
def test_hostile_files_are_refused_or_harmless_in_bounded_memory(tmp_path: Path, family: str) -> None:
    save(tmp_path / "index", family)
    command = [sys.executable, "-m", "tests.indexes.hostile_driver", str(tmp_path / "index"), str(N_HOSTILE)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    assert seen["honest"] == "loaded"
    assert set(seen["ends"]) <= {"refused", "loaded"}  # no signal, no traceback
    assert seen["ends"]["refused"] > N_HOSTILE / 4
    assert seen["worst_kib"] < 1.5 * seen["honest_kib"]


def test_the_limits_of_the_faiss_reader_are_given_back(tmp_path: Path) -> None:
    before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    load_index(save(tmp_path / "index", "ivf"))
    assert (faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()) == before


def test_an_array_larger_than_the_file_is_not_allocated(tmp_path: Path) -> None:
    data = bytearray((save(tmp_path / "index") / "index.faiss").read_bytes())
    n_floats = data.index((600 * 8).to_bytes(8, "little"))  # the length of the vector of codes
    data[n_floats : n_floats + 8] = (1 << 35).to_bytes(8, "little")
    (tmp_path / "index" / "index.faiss").write_bytes(data)
    forge(tmp_path / "index")
    with pytest.raises(DamagedArtefact, match=r"index\.faiss: FAISS cannot read it"):
        load_index(tmp_path / "index")


@pytest.mark.parametrize("factory", ["PCA4,Flat", "IDMap2,Flat", "SQ8", "SQ8,RFlat"])
def test_types_we_do_not_build_are_refused(tmp_path: Path, factory: str) -> None:
    vectors = make_vectors(600, 8)
    other = faiss.index_factory(8, factory, faiss.METRIC_INNER_PRODUCT)
    other.train(vectors)  # type: ignore[call-arg]
    if factory.startswith("IDMap"):
        other.add_with_ids(vectors, np.arange(600))  # type: ignore[call-arg]
    else:
        other.add(vectors)  # type: ignore[call-arg]
    forge(save(tmp_path / "index"), other)
    with pytest.raises(DamagedArtefact, match=r"expected a FAISS file of type b'IxFI', got"):
        load_index(tmp_path / "index")


def test_parts_we_do_not_build_are_refused(tmp_path: Path) -> None:
    vectors = make_vectors(600, 8)
    other = faiss.index_factory(8, "IVF15_HNSW,SQ8", faiss.METRIC_INNER_PRODUCT)
    other.train(vectors)  # type: ignore[call-arg]
    other.add(vectors)  # type: ignore[call-arg]
    forge(save(tmp_path / "index", "ivf_sq8"), other)
    with pytest.raises(DamagedArtefact, match="its inverted lists do not hold each row once"):
        load_index(tmp_path / "index")


def test_rows_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "index", "ivf")
    other = faiss.read_index(str(tmp_path / "index" / "index.faiss"))
    other.reset()
    other.add_with_ids(make_vectors(600, 8), np.arange(600) + 1)
    forge(tmp_path / "index", other)
    with pytest.raises(DamagedArtefact, match="its inverted lists do not hold each row once"):
        load_index(tmp_path / "index")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 9}, r"expected \(dim, n_items, metric\) \(9, 600, 0\), got \(8, 600, 0\)"),
        ({"n_items": 601}, r"expected \(dim, n_items, metric\) \(8, 601, 0\), got \(8, 600, 0\)"),
        ({"family": "hnsw", "params": {"ef_search": 16}}, "expected a FAISS file of type b'IHNf'"),
        ({"family": "annoy"}, "family: expected one of exact, .* got 'annoy'"),
        ({"dim": True}, "dim: expected a count, got True"),
        ({"params": []}, r"params: expected a table, got \[\]"),
    ],
)
def test_a_manifest_that_does_not_fit_the_file_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    forge(save(tmp_path / "index"), **changes)
    with pytest.raises(DamagedArtefact, match=message):
        load_index(tmp_path / "index")


def test_answers_that_changed_are_refused(tmp_path: Path) -> None:
    other = build_exact(make_vectors(600, 8, seed=9)).faiss_index
    forge(save(tmp_path / "index"), other)
    with pytest.raises(DamagedArtefact, match="golden queries are answered otherwise"):
        load_index(tmp_path / "index")


def test_without_verifying_a_shorter_file_is_refused_still(tmp_path: Path) -> None:
    path = save(tmp_path / "index") / "index.faiss"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedArtefact, match="expected a file of 19245 bytes"):  # 45 + 600 * 8 * 4
        load_index(tmp_path / "index", verify=False)


def test_a_directory_in_use_is_not_written_into(tmp_path: Path) -> None:
    save(tmp_path / "index")
    with pytest.raises(FileExistsError, match="expected an empty directory"):
        save(tmp_path / "index")


def test_facts_stand_beside_the_index(tmp_path: Path) -> None:
    save_index(build_exact(make_vectors(20, 8)), tmp_path / "index", facts={"model": "abc"})
    facts = read_manifest(tmp_path / "index").facts
    assert facts["model"] == "abc"
    assert facts["index"] == {
        "family": "exact",
        "params": {},
        "dim": 8,
        "n_items": 20,
        "metric": "inner_product",
        "faiss_version": faiss.__version__,
    }


def test_a_place_without_an_index_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a manifest"):
        load_index(tmp_path)
    write_manifest(tmp_path, facts={})
    with pytest.raises(DamagedArtefact, match="its manifest describes no index of ours"):
        load_index(tmp_path)


@pytest.mark.parametrize("version", sorted(path.name for path in (Path(__file__).parent / "stored").glob("*")))
def test_indexes_of_earlier_releases_are_read(tmp_path: Path, version: str) -> None:
    stored = Path(__file__).parent / "stored" / version
    shutil.copytree(stored, tmp_path / "copy")
    for directory in sorted((tmp_path / "copy").iterdir()):
        assert load_index(directory).search(make_vectors(5, 8), 3).rows.shape == (5, 3)
