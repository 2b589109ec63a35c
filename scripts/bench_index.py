"""Index families against each other and against hnswlib, usearch and voyager at equal recall; one JSON line each.

    python scripts/bench_index.py --json --n-items 250000 --vectors items.npy --queries users.npy

The vectors given are repeated up to --n-items, each copy with Gaussian noise of length --noise and brought back to
length 1; without --vectors they are drawn around 2,000 centres. Every engine is tuned to the smallest setting that
finds --recall of the exact top 100 on one half of the queries, and is measured on the other half: in one call with all
of them, with all threads and with one; "queries_per_cpu_s" counts processor time on one thread and "build_cpu_s" that
of the build, which other work on the machine disturbs less. Memory is the size of the saved index. An engine that is
not installed is reported as absent; none of the three is a dependency.
"""

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from indexes import FAMILIES, build_with_report, exact_hits, load_index, recall, save_index
from indexes.hits import Hits

DEPTH = 100
RIVALS = ("hnswlib", "usearch", "voyager")
EF_VALUES = (100, 108, 116, 128, 144, 160, 180, 200, 224, 256, 320, 400, 512, 640, 800, 1024, 1536, 2048)
REPEATS = 3
SHARES = (0.5, 0.1, 0.01, 0.001)
N_FILTER_QUERIES = 300


@dataclass(frozen=True)
class Built:
    """An engine tuned to the recall target, and what that took."""

    engine: Any
    build_s: float
    build_cpu_s: float
    size_bytes: int
    params: dict[str, Any]


@dataclass(frozen=True)
class World:
    """What is searched: vectors and tuning queries, and the truth about them."""

    vectors: np.ndarray
    tuning: np.ndarray
    tuning_truth: Hits
    queries: np.ndarray
    truth: Hits
    recall_target: float


def make_vectors(n_items: int, base: np.ndarray | None, *, dim: int, noise: float, seed: int) -> np.ndarray:
    """Return unit vectors, float32 (n_items, dim): those of `base` repeated with noise, or drawn around centres."""
    rng = np.random.default_rng(seed)
    if base is None:
        centres = rng.normal(size=(2_000, dim))
        base = centres[rng.integers(2_000, size=min(n_items, 20_000))]
        base = base + 0.9 * rng.normal(size=base.shape)
    vectors = np.empty((n_items, base.shape[1]), dtype=np.float32)
    for start in range(0, n_items, len(base)):
        block = base[: n_items - start] if start == 0 else base[rng.permutation(len(base))][: n_items - start]
        if start:
            block = block + noise / np.sqrt(base.shape[1]) * rng.standard_normal(block.shape)
        vectors[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def make_queries(vectors: np.ndarray, given: np.ndarray | None, n_queries: int, *, seed: int) -> np.ndarray:
    """Return unit queries, float32: a sample of those given, or the means of two near items each."""
    rng = np.random.default_rng(seed + 1)
    if given is not None:
        chosen = given[rng.permutation(len(given))[:n_queries]]
    else:
        first = vectors[rng.integers(len(vectors), size=n_queries)]
        near = exact_hits(vectors, first, 20).rows[np.arange(n_queries), rng.integers(1, 20, size=n_queries)]
        chosen = first + vectors[near]
    return (chosen / np.linalg.norm(chosen, axis=1, keepdims=True)).astype(np.float32)


class OurEngine:
    """One of our families, loaded from where it was saved."""

    def __init__(self, index: Any, allowed: np.ndarray | None = None) -> None:
        self.index, self.allowed = index, allowed

    def search(self, queries: np.ndarray, n_threads: int) -> np.ndarray:
        faiss.omp_set_num_threads(n_threads)
        return self.index.search(queries, DEPTH, allowed=self.allowed).rows


def build_ours(family: str, world: World, n_threads: int) -> Built:
    """One of our families, built and tuned to the recall target."""
    faiss.omp_set_num_threads(n_threads)
    started, cpu_started = time.perf_counter(), time.process_time()
    index, _ = build_with_report(world.vectors, family=family, queries=world.tuning, recall_target=world.recall_target)
    build_s, build_cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    with tempfile.TemporaryDirectory() as directory:
        save_index(index, Path(directory) / "index")
        size = (Path(directory) / "index" / "index.faiss").stat().st_size
        index = load_index(Path(directory) / "index")
    return Built(OurEngine(index), build_s, build_cpu_s, size, dict(index.params))


class HnswlibEngine:
    """hnswlib: the graph people reach for first."""

    ef = DEPTH

    def __init__(self, module: Any, vectors: np.ndarray, n_threads: int) -> None:
        self.index = module.Index(space="ip", dim=vectors.shape[1])
        self.index.init_index(max_elements=len(vectors), M=16, ef_construction=200, random_seed=0)
        self.index.add_items(vectors, np.arange(len(vectors)), num_threads=n_threads)

    def search(self, queries: np.ndarray, n_threads: int) -> np.ndarray:
        self.index.set_ef(self.ef)
        return self.index.knn_query(queries, k=DEPTH, num_threads=n_threads)[0].astype(np.int64)


class UsearchEngine:
    """usearch with its own parameters."""

    ef = DEPTH

    def __init__(self, module: Any, vectors: np.ndarray, n_threads: int) -> None:
        self.index = module.index.Index(ndim=vectors.shape[1], metric="ip", dtype="bf16", connectivity=16)
        self.index.add(np.arange(len(vectors)), vectors, threads=n_threads)

    def search(self, queries: np.ndarray, n_threads: int) -> np.ndarray:
        self.index.expansion_search = self.ef
        return self.index.search(queries, DEPTH, threads=n_threads).keys.astype(np.int64).reshape(-1, DEPTH)


class VoyagerEngine:
    """Spotify's voyager."""

    ef = DEPTH

    def __init__(self, module: Any, vectors: np.ndarray, n_threads: int) -> None:
        self.index = module.Index(module.Space.InnerProduct, num_dimensions=vectors.shape[1], M=16, random_seed=0)
        self.index.add_items(vectors, np.arange(len(vectors)), num_threads=n_threads)

    def search(self, queries: np.ndarray, n_threads: int) -> np.ndarray:
        rows, _ = self.index.query(queries, k=DEPTH, num_threads=n_threads, query_ef=self.ef)
        return rows.astype(np.int64)


RIVAL_ENGINES = {"hnswlib": HnswlibEngine, "usearch": UsearchEngine, "voyager": VoyagerEngine}


def build_rival(name: str, module: Any, world: World, n_threads: int) -> Built:
    """Build with the library's own defaults (M 16, 200 while building) and choose its ef."""
    started, cpu_started = time.perf_counter(), time.process_time()
    engine = RIVAL_ENGINES[name](module, world.vectors, n_threads)
    build_s, build_cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    for value in EF_VALUES:
        engine.ef = value
        if share_found(engine, world.tuning, world.tuning_truth, world, n_threads) >= world.recall_target:
            break
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "index"
        engine.index.save_index(str(path)) if name == "hnswlib" else engine.index.save(str(path))
        size = path.stat().st_size
    return Built(engine, build_s, build_cpu_s, size, {"ef": engine.ef})


def share_found(engine: Any, queries: np.ndarray, truth: Hits, world: World, n_threads: int) -> float:
    """Recall: the share of the exact top k that was found; a row that ties with the last of it counts."""
    rows = engine.search(queries, n_threads)
    return recall(Hits(np.zeros(rows.shape, np.float32), rows), truth, queries=queries, vectors=world.vectors)


def queries_per_second(
    engine: Any,
    queries: np.ndarray,
    n_threads: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the best of REPEATS, so that other work on the machine disturbs least."""
    best_s = float("inf")
    for _ in range(REPEATS):
        started = clock()
        engine.search(queries, n_threads)
        best_s = min(best_s, clock() - started)
    return len(queries) / best_s


def measure_filters(built: Built, world: World, n_threads: int) -> dict[str, dict[str, float]]:
    """Return recall and speed under filters that let a share of the rows pass, at random or on one side of a plane."""
    rng = np.random.default_rng(0)
    queries = world.queries[:N_FILTER_QUERIES]
    side = world.vectors @ rng.normal(size=world.vectors.shape[1]).astype(np.float32)
    masks = {f"random {share:g}": rng.random(len(world.vectors)) < share for share in SHARES}
    masks |= {f"side {share:g}": side >= np.quantile(side, 1 - share) for share in SHARES}
    figures = {}
    for name, allowed in masks.items():
        truth = exact_hits(world.vectors, queries, DEPTH, allowed=allowed)
        engine = OurEngine(built.engine.index, allowed)  # type: ignore[attr-defined]
        share = share_found(engine, queries, truth, world, n_threads)
        speed = queries_per_second(engine, queries, n_threads)
        figures[name] = {"recall@100": round(share, 4), "queries_per_s": round(speed)}
    return figures


def measure(name: str, world: World, n_threads: int, *, filters: bool = False) -> dict[str, Any]:
    """Build one engine and measure it: one line of results."""
    line: dict[str, Any] = {"engine": name, "n_items": len(world.vectors), "dim": world.vectors.shape[1]}
    if name in RIVALS:
        try:
            module = importlib.import_module(name)
            importlib.import_module("usearch.index") if name == "usearch" else None
        except ImportError:
            return {**line, "absent": True}
        built = build_rival(name, module, world, n_threads)
    else:
        built = build_ours(name, world, n_threads)
    some = world.queries[: len(world.queries) // 2]
    return {
        **line,
        "build_s": round(built.build_s, 1),
        "build_cpu_s": round(built.build_cpu_s, 1),
        "size_mb": round(built.size_bytes / 1e6, 3),
        "recall@100": round(share_found(built.engine, world.queries, world.truth, world, n_threads), 4),
        f"queries_per_s_{n_threads}_threads": round(queries_per_second(built.engine, world.queries, n_threads)),
        "queries_per_s_1_thread": round(queries_per_second(built.engine, some, 1)),
        "queries_per_cpu_s": round(queries_per_second(built.engine, some, 1, time.process_time)),
        "params": built.params,
        **({"filters": measure_filters(built, world, n_threads)} if filters and name not in RIVALS else {}),
    }


def plot(lines: list[dict[str, Any]], path: Path, n_threads: int) -> None:
    """Draw speed against size, one point per engine."""
    from matplotlib.figure import Figure  # the extra [report]

    axes = Figure(figsize=(7, 5)).subplots()
    for line in lines:
        if "absent" not in line:
            speed = line[f"queries_per_s_{n_threads}_threads"]
            axes.scatter(line["size_mb"], speed)
            axes.annotate(f"{line['engine']} ({line['recall@100']:.3f})", (line["size_mb"], speed))
    axes.set(xlabel="size, MB", ylabel=f"queries/s, {n_threads} threads", xscale="log", yscale="log")
    axes.figure.savefig(path)  # type: ignore[union-attr]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON lines, not a table")
    parser.add_argument("--n-items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384, help="without --vectors")
    parser.add_argument("--vectors", type=Path, help="real embeddings, .npy float32 (n, dim)")
    parser.add_argument("--queries", type=Path, help="real queries, .npy float32 (n, dim)")
    parser.add_argument("--n-queries", type=int, default=2_000, help="half of them to tune on")
    parser.add_argument("--noise", type=float, default=0.6)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--threads", type=int, default=faiss.omp_get_max_threads())
    parser.add_argument("--engines", default=",".join([*FAMILIES, *RIVALS]), help="some of these, by comma")
    parser.add_argument("--filters", action="store_true", help="also measure our families under attribute filters")
    parser.add_argument("--plot", type=Path, help="also draw speed against size into this file")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure every engine asked for, one JSON line each."""
    options = parse(argv)
    known = [*FAMILIES, *RIVALS]
    if unknown := sorted(set(options.engines.split(",")) - set(known)):
        print(f"error: --engines: expected some of {', '.join(known)}, got {unknown}", file=sys.stderr)
        return 2
    base, given = (np.load(path, allow_pickle=False) if path else None for path in (options.vectors, options.queries))
    vectors = make_vectors(options.n_items, base, dim=options.dim, noise=options.noise, seed=options.seed)
    queries = make_queries(vectors, given, options.n_queries, seed=options.seed)
    tuning, queries = queries[: len(queries) // 2], queries[len(queries) // 2 :]
    faiss.omp_set_num_threads(options.threads)
    truths = [exact_hits(vectors, part, DEPTH) for part in (tuning, queries)]
    world = World(vectors, tuning, truths[0], queries, truths[1], options.recall)
    lines: list[dict[str, Any]] = []
    for name in options.engines.split(","):
        lines.append(measure(name, world, options.threads, filters=options.filters))
        plain = "  ".join(f"{key} {value}" for key, value in lines[-1].items() if not isinstance(value, dict))
        print(json.dumps(lines[-1]) if options.json else plain, flush=True)
    if options.plot:
        plot(lines, options.plot, options.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
