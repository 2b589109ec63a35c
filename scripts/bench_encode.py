"""Texts per second of our encoder against `SentenceTransformer.encode` with its defaults; one JSON line.

    python scripts/bench_encode.py --json --items items.parquet --texts 1000

Same model, same distinct texts, same process; every way is warmed up, then all take turns --repeats times, and medians
are told. Tokenising counts. "texts_per_cpu_s" counts processor time instead (of all threads), which other work on the
machine disturbs less; with --threads 1 it is the figure to compare by. Cosines and differences are to
SentenceTransformer's float32 vectors. Memory is the highest of the whole process, all ways together.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sentence_transformers import SentenceTransformer

from rerank.precision import has_bfloat16
from retrieval.encoder.text_encoder import DEFAULT_ENCODER, TextEncoder

BASELINE = "sentence_transformers"
BACKENDS = ("packed", "padded", "openvino")
WORDS = ("red", "blue", "green", "small", "old", "new", "cat", "dog", "tree", "house", "car", "book", "lamp", "garden")


@dataclass
class Way:
    """A way to encode, and what was measured of it."""

    encode: Callable[[Sequence[str]], np.ndarray]
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    vectors: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=np.float32))


def read_texts(path: Path, n_texts: int) -> list[str]:
    """Return the first n distinct item texts ("title. description") of a table with a column title.

    Raises:
        FileNotFoundError: there is no such file. ValueError: the table has no title, or nothing in it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--items {str(path)!r} is not a file; give a .parquet or .csv with a column title")
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    if "title" not in frame:
        raise ValueError(f"--items {path}: expected a column title (and description), got {list(frame.columns)}")
    titles = frame["title"].fillna("").astype(str)
    about = frame["description"].fillna("").astype(str) if "description" in frame else [""] * len(frame)
    whole = (f"{title}. {text}".strip(". ") for title, text in zip(titles, about, strict=True))
    texts = [text for text in dict.fromkeys(whole) if text]
    if not texts:
        raise ValueError(f"--items {path}: expected at least one title, got none")
    return texts[:n_texts]


def make_texts(n_texts: int, *, seed: int) -> list[str]:
    """Return n distinct texts of random words whose lengths are spread like item texts: most short, some long."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(4.3, 0.8, size=n_texts), 3, 250).astype(int)
    return [f"{number} {' '.join(rng.choice(WORDS, size=length))}" for number, length in enumerate(lengths)]


def make_ways(model: SentenceTransformer, backends: Sequence[str]) -> dict[str, Way]:
    """Return the baseline, then every backend in float32 and, where the hardware is fast in it, in bfloat16."""
    ways = {BASELINE: Way(lambda texts: model.encode(list(texts), show_progress_bar=False))}
    precisions = ["float32", "bfloat16"] if has_bfloat16(model.device) else ["float32"]
    for backend in backends:
        for precision in precisions:
            encoder = TextEncoder(model, name="bench", precision=precision, backend=backend)
            ways[f"{backend}_{precision}"] = Way(encoder.encode)
    return ways


def run(ways: dict[str, Way], texts: Sequence[str], repeats: int) -> None:
    """Warm every way up, then let them take turns; the times and vectors stay in the ways."""
    for way in ways.values():
        way.encode(texts[:32])
    for _ in range(repeats):
        for way in ways.values():
            wall, cpu = time.perf_counter(), time.process_time()
            way.vectors = way.encode(texts)
            way.wall_s.append(time.perf_counter() - wall)
            way.cpu_s.append(time.process_time() - cpu)


def figures(way: Way, baseline: Way) -> dict[str, Any]:
    """What is told of one way; speed-ups are ratios of medians."""
    expected, found = (one.vectors.astype(np.float64) for one in (baseline, way))
    expected, found = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (expected, found))
    cosines = (expected * found).sum(axis=1)
    wall_s, cpu_s = float(np.median(way.wall_s)), float(np.median(way.cpu_s))
    return {
        "texts_per_s": round(len(found) / wall_s, 1),
        "texts_per_cpu_s": round(len(found) / cpu_s, 1),
        "speedup": round(float(np.median(baseline.wall_s)) / wall_s, 2),
        "speedup_cpu": round(float(np.median(baseline.cpu_s)) / cpu_s, 2),
        "mean_cosine": round(float(cosines.mean()), 7),
        "min_cosine": round(float(cosines.min()), 7),
        "max_abs_diff": float(np.abs(expected - found).max()),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The whole benchmark: one line of results."""
    if options.texts < 1 or options.repeats < 1:
        raise ValueError(f"--texts and --repeats: expected 1 or more, got {options.texts} and {options.repeats}")
    texts = read_texts(options.items, options.texts) if options.items else make_texts(options.texts, seed=options.seed)
    model = TextEncoder.load(options.model, device="cpu").model
    absent = []
    backends = [name for name in options.backend.split(",") if name]
    if unknown := sorted(set(backends) - set(BACKENDS)):
        raise ValueError(f"--backend: expected some of {', '.join(BACKENDS)}, got {unknown}")
    if "openvino" in backends:
        try:
            import openvino  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError:
            backends.remove("openvino")
            absent.append("openvino")
    ways = make_ways(model, backends)
    run(ways, texts, options.repeats)
    tokens = model.tokenizer(texts, truncation=True, max_length=int(model.max_seq_length or 512))["input_ids"]
    auto = TextEncoder(model, name="bench")
    return {
        "model": Path(options.model).name,
        "texts": len(texts),
        "mean_tokens": round(float(np.mean([len(ids) for ids in tokens])), 1),
        "threads": torch.get_num_threads(),
        "default": f"packed_{auto.precision}",
        **{name: figures(way, ways[BASELINE]) for name, way in ways.items()},
        **({"absent": absent} if absent else {}),
        "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 10)),
    }


def table(line: dict[str, Any]) -> str:
    """The same for people."""
    rows = [f"{line['model']}: {line['texts']} texts of {line['mean_tokens']} tokens, {line['threads']} threads"]
    rows.append(f"{'way':24}{'texts/s':>9}{'speed-up':>9}{'cpu':>7}  mean cosine  min cosine")
    for name, found in line.items():
        if isinstance(found, dict):
            rows.append(
                f"{name:24}{found['texts_per_s']:9.1f}{found['speedup']:9.2f}{found['speedup_cpu']:7.2f}"
                f"  {found['mean_cosine']:11.7f}  {found['min_cosine']:10.7f}"
            )
    return "\n".join(rows)


def plot(line: dict[str, Any], path: Path) -> None:
    """Draw texts per second, one bar per way."""
    from matplotlib.figure import Figure  # the extra [report]

    named = {name: found for name, found in line.items() if isinstance(found, dict)}
    axes = Figure(figsize=(7, 3.5), layout="constrained").subplots()
    bars = axes.barh(list(named), [found["texts_per_s"] for found in named.values()])
    axes.bar_label(bars, [f"{found['speedup']:.1f}x, cosine {found['mean_cosine']:.5f}" for found in named.values()])
    axes.invert_yaxis()
    axes.margins(x=0.35)
    axes.set(xlabel=f"texts/s ({line['mean_tokens']} tokens on average, {line['threads']} threads)")
    axes.figure.savefig(path)  # type: ignore[union-attr]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print a JSON line, not a table")
    parser.add_argument("--texts", type=int, default=1_000, help="so many distinct texts")
    parser.add_argument("--items", type=Path, help=".parquet or .csv with title and description; else random words")
    parser.add_argument("--model", default=DEFAULT_ENCODER, help="a sentence-transformers name or directory")
    parser.add_argument("--backend", default=",".join(BACKENDS), help="some of these, by comma")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch chooses")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="also draw the speeds into this file")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure all ways and print one line; 2 for bad input."""
    options = parse(argv)
    before = torch.get_num_threads()
    try:
        if options.threads:
            torch.set_num_threads(options.threads)
            if options.threads == 1:
                os.environ["TOKENIZERS_PARALLELISM"] = "false"
        line = measure(options)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        torch.set_num_threads(before)
    print(json.dumps(line) if options.json else table(line), flush=True)
    if options.plot:
        plot(line, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
