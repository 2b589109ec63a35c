"""The vectors a live index was built from: kept beside it, told from others, never written over while they are read."""

from pathlib import Path

import numpy as np
import pytest

from indexes import DamagedArtefact, LiveIndex, build_exact, load_live, read_manifest, save_live, write_manifest
from tests.indexes.test_live import DIM, random_vectors


def compacted(vectors: np.ndarray) -> LiveIndex:
    """As many items as before `compact`, but not the same."""
    live = LiveIndex(build_exact(vectors), vectors)
    live.remove(np.array([3]))
    live.add(random_vectors(1, 1))
    live.compact(build=build_exact)
    return live


def test_compacting_tells_which_vectors_belong_to_the_base() -> None:
    vectors = random_vectors(10, 0)
    assert LiveIndex(build_exact(vectors), vectors).vectors is vectors
    expected = np.concatenate([np.delete(vectors, 3, axis=0), random_vectors(1, 1)])
    np.testing.assert_array_equal(compacted(vectors).vectors, expected)
    empty = LiveIndex(build_exact(vectors), vectors)
    empty.remove(np.arange(10))
    empty.compact(build=build_exact, allocate=lambda shape: pytest.fail("there are no memory maps of nothing"))
    assert empty.vectors is None


def test_other_vectors_of_the_same_shape_are_refused(tmp_path: Path) -> None:
    vectors = random_vectors(10, 0)
    live = compacted(vectors)
    save_live(live, tmp_path / "live")
    with pytest.raises(
        ValueError, match=r"vectors: expected those of sha256 [0-9a-f]{12}\.\.\., got others"
    ) as refused:
        load_live(tmp_path / "live", vectors=vectors)
    assert not isinstance(refused.value, DamagedArtefact)  # the index is intact, the caller is mistaken
    loaded = load_live(tmp_path / "live", vectors=live.vectors)
    loaded.compact(build=build_exact)
    np.testing.assert_array_equal(loaded.search(vectors, 10).rows, live.search(vectors, 10).rows)


def test_vectors_of_another_shape_are_no_damage(tmp_path: Path) -> None:
    vectors = random_vectors(10, 0)
    save_live(LiveIndex(build_exact(vectors), vectors), tmp_path / "live")
    with pytest.raises(
        ValueError, match=r"vectors: expected shape \(10, 4\), those of the base, got \(9, 4\)"
    ) as refused:
        load_live(tmp_path / "live", vectors=vectors[:9])
    assert not isinstance(refused.value, DamagedArtefact)


def test_what_is_loaded_and_saved_without_its_vectors_still_knows_them(tmp_path: Path) -> None:
    vectors = random_vectors(10, 0)
    save_live(LiveIndex(build_exact(vectors), vectors), tmp_path / "first")
    again = load_live(tmp_path / "first")
    again.add(random_vectors(2, 1))
    save_live(again, tmp_path / "second")
    with pytest.raises(ValueError, match="vectors: expected those of sha256"):
        load_live(tmp_path / "second", vectors=random_vectors(10, 5))
    assert load_live(tmp_path / "second", vectors=vectors).n_alive == 12


def test_a_live_index_saved_without_a_fingerprint_is_read(tmp_path: Path) -> None:
    vectors = random_vectors(10, 0)
    save_live(LiveIndex(build_exact(vectors), vectors), tmp_path / "live")
    own = read_manifest(tmp_path / "live").facts["live"]
    assert isinstance(own, dict)
    del own["vectors_sha256"]
    (tmp_path / "live" / "manifest.json").unlink()
    write_manifest(tmp_path / "live", facts={"live": own})
    assert load_live(tmp_path / "live", vectors=vectors).n_alive == 10


@pytest.mark.parametrize("mapped", [True, False])
def test_compacting_does_not_write_over_the_vectors_it_reads(tmp_path: Path, mapped: bool) -> None:
    vectors = random_vectors(50, 0)
    if mapped:
        np.save(tmp_path / "vectors.npy", vectors)
        vectors = np.load(tmp_path / "vectors.npy", mmap_mode="r")

    def same_place(shape: tuple[int, int]) -> np.ndarray:
        if not mapped:
            return vectors[: shape[0]]
        return np.lib.format.open_memmap(tmp_path / "vectors.npy", "w+", np.float32, shape)

    live = LiveIndex(build_exact(vectors), vectors)
    live.remove(np.array([0]))
    queries = random_vectors(3, 1)
    before = live.search(queries, 5)
    with pytest.raises(ValueError, match="allocate: expected an array in a place of its own"):
        live.compact(build=build_exact, allocate=same_place)
    np.testing.assert_array_equal(live.search(queries, 5).rows, before.rows)
    with pytest.raises(ValueError, match="vectors: expected those of the base in order to build again, got None"):
        live.compact(build=build_exact)  # opening the file anew has emptied it


def test_compacting_into_a_new_file_works(tmp_path: Path) -> None:
    vectors = random_vectors(50, 0)
    np.save(tmp_path / "old.npy", vectors)
    live = LiveIndex(build_exact(vectors), np.load(tmp_path / "old.npy", mmap_mode="r"))
    live.remove(np.array([0]))

    def new_file(shape: tuple[int, int]) -> np.ndarray:
        return np.lib.format.open_memmap(tmp_path / "new.npy", "w+", np.float32, shape)

    live.compact(build=build_exact, allocate=new_file)
    np.testing.assert_array_equal(np.load(tmp_path / "new.npy"), vectors[1:])
    assert live.search(vectors[1:], 1).rows.shape == (49, 1)
    assert live.dim == DIM
