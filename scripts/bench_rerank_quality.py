"""What faster ways of scoring cost in ranking quality, on real data: one JSON line per way.

Trains on everything before each user's newest interaction, then scores the same test users' candidates in float32
(the reference), bfloat16, int8 (weights alone; weights and activations) and in cascades, and compares the orders:
Kendall's tau per user, NDCG@10 of the reranker alone and of the final list, with paired bootstrap intervals.

    python scripts/bench_rerank_quality.py --data FOLDER --json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau
from transformers.activations import ACT2FN

from rerank import Reranker
from rerank.cascade import Cascade, fit_cascade
from rerank.encode import Encoded
from rerank.kernels import PreparedLinear
from rerank.precision import has_bfloat16
from rerank.scorer import Scorer
from retrieval.candidates import Candidates
from retrieval.config import Config, merge_values, parse_override, read_config
from retrieval.data import leave_last_out, read_interactions, read_items
from retrieval.fit import Fitted, fit
from retrieval.histories import histories_of
from retrieval.ranks import list_ndcg
from retrieval.sources import Queries
from retrieval.stage_one import in_batches, sub_queries

Score = Callable[[Sequence[Encoded]], list[np.ndarray]]
BATCH = 64


@dataclass(frozen=True)
class Way:
    """One way of scoring against float32. Differences are way minus float32, with a 95 % interval."""

    dataset: str
    way: str
    n_users: int
    candidates: int
    kendall: float
    """Mean over users of Kendall's tau between the logits and float32's."""
    max_abs_diff: float
    """Largest difference of a logit from float32's."""
    logit_ndcg10: float
    """NDCG@10 of the order by the logit alone."""
    final_ndcg10: float
    difference: float
    low: float
    high: float
    relative: float
    """difference / the final NDCG@10 in float32."""
    ms_per_user: float


@dataclass(frozen=True)
class Lists:
    """The test users' candidates, encoded once: what every way scores."""

    queries: list[Queries]
    candidates: list[Candidates]
    encoded: list[list[Encoded]]
    targets: list[np.ndarray]


class Int8Linear:
    """A `PreparedLinear` with int8 weights, one scale per output; `dynamic` also rounds the activations, per call."""

    def __init__(self, whole: PreparedLinear, *, dynamic: bool) -> None:
        scale = whole.weight.abs().amax(1).clamp_min(1e-12) / 127
        self.whole, self.packed = whole, None
        if dynamic:
            zero = torch.zeros(len(scale), dtype=torch.int64)
            warnings.filterwarnings("ignore", message=".*quantized tensor creation functions.*")
            rounded = torch.quantize_per_channel(whole.weight, scale.double(), zero, 0, torch.qint8)
            self.packed = torch.ops.quantized.linear_prepack(rounded, whole.bias)
        else:
            self.weight = (whole.weight / scale[:, None]).round() * scale[:, None]

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        if self.packed is None:
            out = F.linear(rows, self.weight, self.whole.bias)
        else:
            out = torch.ops.quantized.linear_dynamic(rows, self.packed)
        activation = self.whole.activation
        return out if activation is None else ACT2FN[activation](out)


def int8_scorer(reranker: Reranker, *, dynamic: bool) -> Scorer:
    """A float32 scorer whose blocks multiply with int8 weights; embeddings, norms and the head stay as they are."""
    scorer = Scorer(reranker.gpt2, reranker.soft, dtype=torch.float32)
    for block in scorer.blocks:
        for name, layer in list(vars(block).items()):
            if isinstance(layer, PreparedLinear):
                setattr(block, name, Int8Linear(layer, dynamic=dynamic))
    return scorer


def ways_of(reranker: Reranker, sample: Sequence[Encoded], keep: int) -> dict[str, Score]:
    """Every way of scoring; the cascades' early heads imitate the model on `sample`, which nothing is measured on."""
    exact = Scorer(reranker.gpt2, reranker.soft, dtype=torch.float32)
    ways: dict[str, Score] = {"float32": exact.score_many}
    if has_bfloat16(torch.device("cpu")):
        ways["bfloat16"] = Scorer(reranker.gpt2, reranker.soft, dtype=torch.bfloat16).score_many
    ways["int8 weights"] = int8_scorer(reranker, dynamic=False).score_many
    if "onednn" in torch.backends.quantized.supported_engines or "fbgemm" in torch.backends.quantized.supported_engines:
        ways["int8 weights and activations"] = int8_scorer(reranker, dynamic=True).score_many
    blanks = [np.zeros(encoded.n_candidates, dtype=np.float32) for encoded in sample]
    for n_blocks in range(1, len(exact.blocks)):
        cascade, _ = fit_cascade(exact, sample, blanks, n_blocks=n_blocks, keep=keep)
        ways[f"cascade {n_blocks} of {len(exact.blocks)} blocks, best {keep}"] = _cascaded(cascade, exact)
    return ways


def _cascaded(cascade: Cascade, scorer: Scorer) -> Score:
    return lambda batch: [cascade.score(scorer, encoded) for encoded in batch]


def gather(fitted: Fitted, reranker: Reranker, queries: Queries, targets: list[np.ndarray], depth: int) -> Lists:
    """Stage one's `depth` best for every user, and the reranker's reading of them."""
    model = replace(fitted.model, depths=replace(fitted.model.depths, rerank=depth))
    parts, found, encoded = [], [], []
    for part in in_batches(len(queries), BATCH):
        batch = sub_queries(queries, part)
        candidates = model.recall(batch)
        inputs = [model.rerank_input_of(reranker, batch, candidates, user) for user in range(len(batch))]
        parts.append(batch)
        found.append(candidates)
        encoded.append([reranker.encoder.encode(given) for given in inputs])
    return Lists(parts, found, encoded, targets)


def measure(fitted: Fitted, lists: Lists, score: Score) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, float]:
    """Logits per user, NDCG@10 per user by the logit alone and of the final list, milliseconds per user."""
    logits: list[np.ndarray] = []
    alone, final = [], []
    score(lists.encoded[0])
    seconds, start = 0.0, 0
    for queries, candidates, encoded in zip(lists.queries, lists.candidates, lists.encoded, strict=True):
        started = time.perf_counter()
        scores = score(encoded)
        seconds += time.perf_counter() - started
        padded = np.full(candidates.rows.shape, np.nan, dtype=np.float32)
        for user, values in enumerate(scores):
            padded[user, : len(values)] = values
        wanted = np.array([rows[0] for rows in lists.targets[start : start + len(queries)]])
        start += len(queries)
        alone.append(list_ndcg(np.nan_to_num(padded, nan=-1e30), candidates.rows, wanted))
        final.append(list_ndcg(fitted.model.fuse(queries, candidates, padded), candidates.rows, wanted))
        logits += scores
    return logits, np.concatenate(alone), np.concatenate(final), 1e3 * seconds / len(logits)


def run(folder: Path, config: Config, options: argparse.Namespace) -> list[Way]:
    """Fit on a folder's `items.parquet` and `interactions.parquet`, measure every way."""
    from retrieval.significance import paired_bootstrap

    items = read_items(folder / "items.parquet")
    parts = leave_last_out(read_interactions(folder / "interactions.parquet", items=items))
    config = replace(config, use_history_model=False)  # the cross-encoder's arithmetic is compared, and it alone
    fitted = fit(items, parts.train, config, say=lambda line: print(line, file=sys.stderr, flush=True))
    reranker = fitted.model.reranker
    if reranker is None:
        raise ValueError(f"{folder}: no reranker could be trained on so little data; give more interactions")
    histories, rng = histories_of(parts.train), np.random.default_rng(config.seed)
    order = rng.permutation(len(parts.test_users))
    chosen, others = np.sort(order[: options.users]), order[options.users :][: options.cascade_users]
    if len(others) < 2:
        raise ValueError(f"--users {options.users}: leave 2 or more of {len(order)} users to fit the cascades on")

    def lists_of(places: np.ndarray) -> Lists:
        seen = [histories[user] for user in parts.test_users[places]]
        queries = fitted.model.catalogue.queries(seen, keep_seen=config.keep_seen)
        return gather(fitted, reranker, queries, [parts.targets[place] for place in places], options.candidates)

    sample = [encoded for batch in lists_of(others).encoded for encoded in batch]
    lists, results = lists_of(chosen), []
    exact: tuple[list[np.ndarray], np.ndarray] | None = None
    for name, score in ways_of(reranker, sample, options.keep).items():
        logits, alone, final, ms = measure(fitted, lists, score)
        exact = exact or (logits, final)
        taus = [float(np.asarray(kendalltau(a, b))[0]) for a, b in zip(exact[0], logits, strict=True) if len(a) > 1]
        gap = paired_bootstrap(final, exact[1], seed=config.seed)
        way = Way(
            dataset=folder.name,
            way=name,
            n_users=len(chosen),
            candidates=options.candidates,
            kendall=float(np.nanmean(taus)),
            max_abs_diff=max(float(np.abs(a - b).max(initial=0)) for a, b in zip(exact[0], logits, strict=True)),
            logit_ndcg10=float(alone.mean()),
            final_ndcg10=float(final.mean()),
            difference=gap.diff,
            low=gap.low,
            high=gap.high,
            relative=gap.diff / max(float(exact[1].mean()), 1e-9),
            ms_per_user=ms,
        )
        results.append(way)
        facts = {key: round(value, 5) if isinstance(value, float) else value for key, value in asdict(way).items()}
        print(json.dumps(facts) if options.json else _line(way), flush=True)
    return results


def _line(way: Way) -> str:
    return (
        f"{way.way:36} tau {way.kendall:.4f}  NDCG@10 logit {way.logit_ndcg10:.4f} final {way.final_ndcg10:.4f} "
        f"({way.difference:+.4f} [{way.low:+.4f}, {way.high:+.4f}], {way.relative:+.2%})  {way.ms_per_user:.2f} ms"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; exit status 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with items.parquet and interactions.parquet")
    parser.add_argument("--users", type=int, default=2_000, help="test users measured, at random (seeded)")
    parser.add_argument(
        "--cascade-users", type=int, default=500, help="other users the cascades' early heads are fitted on"
    )
    parser.add_argument("--candidates", type=int, default=500, help="candidates per user")
    parser.add_argument("--keep", type=int, default=100, help="candidates a cascade takes through all blocks")
    parser.add_argument("--config", type=Path, help="a TOML file as `tandem config` prints it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="of the fit's configuration"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per way")
    options = parser.parse_args(argv)
    try:
        values: dict[str, Any] = {}
        for override in options.set:
            values = merge_values(values, parse_override(override))
        run(options.data, read_config(options.config, values), options)
    except (ValueError, FileNotFoundError) as error:
        print(f"bench_rerank_quality: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
