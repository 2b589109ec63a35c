"""A live index equals one that is built anew, after any sequence of changes and from any thread."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from indexes import DamagedArtefact, build_exact, build_index, build_ivf, recall
from indexes.hits import Hits
from indexes.live import LiveIndex
from indexes.live_storage import load_live, save_live
from tests.indexes.contract import make_queries, make_vectors

DIM = 4


def random_vectors(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


def rebuilt(model: dict[int, np.ndarray], queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Hits:
    """What an index built from scratch over the living vectors answers."""
    rows = np.array([row for row in sorted(model) if allowed is None or allowed[row]], dtype=np.int64)
    if rows.size == 0:
        return Hits(np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1))
    hits = build_exact(np.stack([model[row] for row in rows.tolist()])).search(queries, k)
    return Hits(hits.scores, np.where(hits.rows < 0, -1, rows[hits.rows]))


class LiveMachine(RuleBasedStateMachine):
    """Random changes to a live index, and to a dict that says what it should hold."""

    @initialize(n=st.integers(0, 30), seed=st.integers(0, 99))
    def start(self, n: int, seed: int) -> None:
        vectors = random_vectors(n, seed)
        self.live = LiveIndex(build_exact(vectors) if n else None, vectors if n else None, dim=DIM)
        self.model = dict(enumerate(vectors))
        self.dead: set[int] = set()

    @rule(n=st.integers(0, 12), seed=st.integers(0, 99))
    def add(self, n: int, seed: int) -> None:
        vectors = random_vectors(n, seed)
        rows = self.live.add(vectors).tolist()
        assert not set(rows) & (self.model.keys() | self.dead)
        self.model.update(zip(rows, vectors, strict=True))

    @precondition(lambda self: self.model)
    @rule(data=st.data(), seed=st.integers(0, 99))
    def replace(self, data: st.DataObject, seed: int) -> None:
        rows = data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True, max_size=6))
        vectors = random_vectors(len(rows), seed)
        self.live.replace(np.array(rows, dtype=np.int64), vectors)
        self.model.update(zip(rows, vectors, strict=True))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        rows = data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True, max_size=10))
        self.live.remove(np.array(rows, dtype=np.int64))
        for row in rows:
            del self.model[row]
        self.dead |= set(rows)

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def refuse_dead_rows(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(sorted(self.dead)))
        with pytest.raises(ValueError, match=f"rows: expected living rows, got {row}"):
            self.live.remove(np.array([row]))

    @rule()
    def compact(self) -> None:
        self.live.compact(build=build_exact)
        assert self.live.n_delta == 0

    @rule(data=st.data(), seed=st.integers(0, 99))
    def compact_while_it_changes(self, data: st.DataObject, seed: int) -> None:
        def build(vectors: np.ndarray):
            self.add(3, seed)
            if self.model:
                self.replace(data, seed)
                self.remove(data)
            return build_exact(vectors)

        self.live.compact(build=build)

    @rule(k=st.integers(1, 60), seed=st.integers(0, 99), share=st.floats(0, 1))
    def search_under_a_filter(self, k: int, seed: int, share: float) -> None:
        allowed = np.random.default_rng(seed).random(self.live.n_items) < share
        queries = random_vectors(3, seed + 1)
        self.assert_same(
            queries, self.live.search(queries, k, allowed=allowed), rebuilt(self.model, queries, k, allowed)
        )

    @invariant()
    def search_finds_what_a_rebuilt_index_finds(self) -> None:
        if hasattr(self, "live"):
            assert self.live.n_alive == len(self.model)
            k, queries = 1 + self.live.n_items % 90, random_vectors(2, self.live.n_items)
            self.assert_same(queries, self.live.search(queries, k), rebuilt(self.model, queries, k))

    def assert_same(self, queries: np.ndarray, found: Hits, expected: Hits) -> None:
        """Rows may differ only where scores tie: twins in base and delta are summed up in different orders."""
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
        for query, rows, scores in zip(queries, found.rows.tolist(), found.scores.tolist(), strict=True):
            hits = {row: score for row, score in zip(rows, scores, strict=True) if row >= 0}
            assert len(hits) == np.isfinite(scores).sum()
            for row, score in hits.items():
                assert score == pytest.approx(float(query @ self.model[row]), abs=1e-4)


LONG = bool(os.environ.get("TANDEM_LONG_TESTS"))
LiveMachine.TestCase.settings = settings(max_examples=1_000 if LONG else 60, stateful_step_count=25, deadline=None)
TestLiveMachine = LiveMachine.TestCase


@pytest.mark.parametrize("family", ["ivf_sq8", "ivf_pq", "hnsw"])
def test_recall_holds_through_many_changes(family: str) -> None:
    vectors, rng = make_vectors(1_500, 16), np.random.default_rng(0)
    live = LiveIndex(build_index(vectors, family=family, recall_target=0.97), vectors)
    model = dict(enumerate(vectors))
    queries = make_queries(vectors, 100)
    for step in range(4):
        fresh = make_vectors(150, 16, seed=10 + step)
        model.update(zip(live.add(fresh).tolist(), fresh, strict=True))
        gone = rng.choice(sorted(model), size=200, replace=False)
        live.remove(gone)
        for row in gone.tolist():
            del model[row]
        changed = rng.choice(sorted(model), size=50, replace=False)
        live.replace(changed, fresh[:50])
        model.update(zip(changed.tolist(), fresh, strict=False))
        if step == 2:
            live.compact(build=lambda part: build_index(part, family=family, recall_target=0.97))
        expected = rebuilt(model, queries, 100)
        found = live.search(queries, 100)
        assert recall(found, expected) >= 0.95
        assert set(found.rows.ravel().tolist()) <= model.keys()


def test_searches_see_whole_changes_while_threads_change_it() -> None:
    vectors = make_vectors(1_500, 16)
    live = LiveIndex(build_ivf(vectors, family="ivf"), vectors)
    twin = 50.0 * vectors[:1]
    problems: list[str] = []
    done = threading.Event()

    def search() -> None:
        while not done.wait(0.001):
            rows = live.search(twin, 6).rows[0]
            # The pairs are added and removed together: a search sees both of a pair or neither.
            added = [row for row in rows.tolist() if row >= len(vectors)]
            if len(added) % 2:
                problems.append(f"half a change: {rows}")

    searchers = [threading.Thread(target=search) for _ in range(2)]
    for searcher in searchers:
        searcher.start()
    for _ in range(6):
        rows = live.add(np.concatenate([twin, twin]))
        compaction = threading.Thread(target=live.compact, kwargs={"build": lambda part: build_ivf(part, family="ivf")})
        compaction.start()
        live.remove(rows)
        live.add(np.concatenate([twin, twin]))
        compaction.join()
        live.remove(live.search(twin, 2).rows[0])
    done.set()
    for searcher in searchers:
        searcher.join()
    assert problems == []
    assert live.n_alive == 1_500


def test_rows_given_after_a_filter_was_made_are_barred() -> None:
    vectors = random_vectors(20, 0)
    live = LiveIndex(build_exact(vectors), vectors)
    allowed = np.arange(20) % 2 == 0
    live.add(vectors)
    found = live.search(vectors[:3], 20, allowed=allowed).rows
    assert (np.sort(found[:, :10], axis=1) == np.arange(0, 20, 2)).all()
    assert (found[:, 10:] == -1).all()
    assert (live.search(vectors[:3], 20, allowed=np.empty(0, dtype=bool)).rows == -1).all()
    with pytest.raises(ValueError, match=r"allowed: expected bool \(40,\), got bool \(41,\)"):
        live.search(vectors[:3], 20, allowed=np.ones(41, dtype=bool))
    with pytest.raises(ValueError, match="allowed: expected bool"):
        live.search(vectors[:3], 20, allowed=np.zeros(20))


def test_filtered_searches_go_on_while_a_thread_adds() -> None:
    vectors = random_vectors(500, 0)
    live = LiveIndex(build_exact(vectors), vectors)
    done = threading.Event()

    def add() -> None:
        while not done.wait(0.0001):
            live.add(vectors[:1])

    adder = threading.Thread(target=add)
    adder.start()
    try:
        for _ in range(50):
            allowed = np.zeros(live.n_items, dtype=bool)
            allowed[::2] = True
            while live.n_items == len(allowed):  # until the filter is too short
                assert adder.is_alive()
                done.wait(0.0001)
            rows = live.search(vectors[:1], 3, allowed=allowed).rows
            assert ((rows % 2 == 0) & (rows < len(allowed))).all()
    finally:
        done.set()
        adder.join()


def test_any_integer_does_for_k() -> None:
    vectors = random_vectors(300, 0)
    live = LiveIndex(build_exact(vectors), vectors, dim=DIM)
    live.remove(np.arange(20))
    found, expected = (live.search(vectors[:2], k) for k in (np.array([250], dtype=np.uint8)[0], 250))
    np.testing.assert_array_equal(found.rows, expected.rows)


def test_a_search_under_way_keeps_the_old_state() -> None:
    vectors = random_vectors(20, 0)
    live = LiveIndex(build_exact(vectors), vectors)
    before = live.state()
    live.remove(np.arange(20))
    assert before.alive().all()
    assert live.search(vectors[:1], 3).rows.tolist() == [[-1, -1, -1]]


@pytest.mark.parametrize("n_base", [0, 25])
def test_saved_and_loaded_it_goes_on_where_it_was(tmp_path: Path, n_base: int) -> None:
    vectors = random_vectors(n_base, 0)
    live = LiveIndex(build_exact(vectors) if n_base else None, vectors if n_base else None, dim=DIM)
    live.remove(live.add(random_vectors(5, 1))[:2])
    if n_base:
        live.replace(np.array([3]), random_vectors(1, 2))
    save_live(live, tmp_path / "live", facts={"model": "abc"})
    loaded = load_live(tmp_path / "live", vectors=vectors if n_base else None)
    queries = random_vectors(4, 3)
    for index in (live, loaded):
        index.compact(build=build_exact)
    np.testing.assert_array_equal(loaded.search(queries, 40).rows, live.search(queries, 40).rows)
    assert loaded.add(queries).tolist() == live.add(queries).tolist()  # no number is given twice


def test_a_damaged_delta_is_refused(tmp_path: Path) -> None:
    live = LiveIndex(None, dim=DIM)
    live.add(random_vectors(5, 1))
    save_live(live, tmp_path / "live")
    path = tmp_path / "live" / "delta.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DamagedArtefact, match=r"delta\.npy: expected sha256"):
        load_live(tmp_path / "live")


def test_changes_that_make_no_sense_are_refused() -> None:
    vectors = random_vectors(10, 0)
    live = LiveIndex(build_exact(vectors), vectors)
    with pytest.raises(ValueError, match=r"vectors: expected float32 \(n, 4\), got float32 \(2, 3\)"):
        live.add(np.zeros((2, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="NaN or infinity in row 1"):
        live.add(np.array([[0, 0, 0, 1], [0, np.nan, 0, 0]], dtype=np.float32))
    with pytest.raises(ValueError, match="rows: expected each row once"):
        live.remove(np.array([1, 1]))
    with pytest.raises(ValueError, match="rows: expected living rows, got 10"):
        live.remove(np.array([3, 10]))
    with pytest.raises(ValueError, match="rows: expected living rows, got -1"):
        live.remove(np.array([-1]))
    with pytest.raises(ValueError, match="rows: expected integers"):
        live.remove(np.array([1.5]))
    with pytest.raises(ValueError, match="vectors: expected 2, one per row, got 1"):
        live.replace(np.array([1, 2]), vectors[:1])
    assert live.n_alive == 10
    with pytest.raises(ValueError, match="dim: expected the dimension"):
        LiveIndex(None)
    with pytest.raises(ValueError, match=r"vectors: expected shape \(10, 4\), those of the base, got \(9, 4\)"):
        LiveIndex(build_exact(vectors), vectors[:9])
    with pytest.raises(ValueError, match="vectors: expected None without a base, got 10; build a base from them"):
        LiveIndex(None, vectors, dim=4)
    blind = LiveIndex(build_exact(vectors))
    with pytest.raises(ValueError, match="vectors: expected those of the base in order to build again, got None"):
        blind.compact()
