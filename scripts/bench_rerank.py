"""Times the shared-context scorer against sentence-transformers' CrossEncoder and plain transformers batches.

Same random weights, texts, machine and run; medians after a warm-up; tokenizing counts, except in `plain`.
Without case options all cases of a model are run. One JSON line per case with --json, else a table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedTokenizerFast

from rerank import RerankConfig, Reranker, RerankInput, TrainingList
from rerank.cross_encoder import CrossEncoder
from rerank.kernels import PreparedLinear
from rerank.precision import has_bfloat16
from rerank.train import training_speed

SHAPES = {"gpt2-mini": (6, 384, 6, 30_522), "gpt2": (12, 768, 12, 50_257)}  # layers, width, heads, words
HISTORY_TOKENS, CANDIDATES, CANDIDATE_TOKENS = (50, 200, 500), (20, 100, 500), (16, 64)
Clock = Callable[[], float]
MAX_RUNS, ENOUGH_SECONDS, LONG_SECONDS = 7, 6.0, 12.0


@dataclass(frozen=True)
class Case:
    """What one line of the benchmark says. Times are milliseconds, medians."""

    case: str
    ours_fp32_ms: float
    ours_bf16_ms: float | None
    crossencoder_ms: float
    plain_ms: float
    speedup_fp32: float
    speedup_bf16: float | None
    max_abs_diff_fp32: float
    """Largest difference of a logit from CrossEncoder's."""
    kendall_bf16: float | None
    """Rank correlation of bfloat16 with CrossEncoder's float32."""
    floor_ms: float
    """The blocks' matrix products alone, for every token once, at the best float32 rate of this machine."""
    share_of_floor: float
    gflops_per_second: float


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; the exit status is 0."""
    options = _parser().parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    torch.manual_seed(options.seed)
    if options.training or options.growth:
        found = (
            training_case(options.seed, clock) if options.training else growth_case(options.model or "gpt2-mini", clock)
        )
        print(json.dumps(found))
        return 0
    cases = []
    for model in [options.model] if options.model else list(SHAPES):
        with tempfile.TemporaryDirectory() as folder:
            make_model(model, Path(folder), seed=options.seed)
            for history, candidates, tokens in _chosen(options):
                case = run_case(Path(folder), model, history, candidates, tokens, seed=options.seed, clock=clock)
                cases.append(case)
                print(json.dumps(asdict(case)) if options.json else _line(case), flush=True)
    if options.plot:
        plot(cases, options.plot)
    return 0


def run_case(
    directory: Path, model: str, history: int, candidates: int, tokens: int, *, seed: int, clock: Clock
) -> Case:
    """Time one user's history against its candidates with every scorer."""
    from sentence_transformers import CrossEncoder as TheirCrossEncoder

    rng = np.random.default_rng(seed)
    query = _words(rng, history)
    pairs = [(query, _words(rng, tokens)) for _ in range(candidates)]
    theirs = TheirCrossEncoder(str(directory), device="cpu", activation_fn=torch.nn.Identity())
    theirs_ms, expected = _median_ms(lambda: theirs.predict(pairs, show_progress_bar=False), clock)
    gpt2 = GPT2ForSequenceClassification.from_pretrained(str(directory)).eval()
    ids = torch.tensor(theirs.tokenizer([f"{a} {b}" for a, b in pairs])["input_ids"])
    plain_ms, _ = _median_ms(lambda: plain(gpt2, ids), clock)
    ours_ms, ours = _ours(directory, pairs, "float32", clock)
    bf16_ms, bf16 = _ours(directory, pairs, "bfloat16", clock) if has_bfloat16(torch.device("cpu")) else (None, None)
    layers, width, _, _ = SHAPES[model]
    rate = matrix_rate(history + candidates * tokens, width, clock)
    floor_ms = 1e3 * 2 * 12 * layers * width**2 * (history + candidates * tokens) / rate
    return Case(
        case=f"{model} {history}x{candidates}x{tokens}",
        ours_fp32_ms=round(ours_ms, 2),
        ours_bf16_ms=None if bf16_ms is None else round(bf16_ms, 2),
        crossencoder_ms=round(theirs_ms, 2),
        plain_ms=round(plain_ms, 2),
        speedup_fp32=round(theirs_ms / ours_ms, 2),
        speedup_bf16=None if bf16_ms is None else round(theirs_ms / bf16_ms, 2),
        max_abs_diff_fp32=float(np.abs(ours - expected).max()),
        kendall_bf16=None if bf16 is None else round(float(np.asarray(kendalltau(expected, bf16))[0]), 5),
        floor_ms=round(floor_ms, 2),
        share_of_floor=round(floor_ms / ours_ms, 3),
        gflops_per_second=round(rate / 1e9, 1),
    )


def _ours(directory: Path, pairs: list[tuple[str, str]], precision: str, clock: Clock) -> tuple[float, np.ndarray]:
    encoder = CrossEncoder(directory, precision=precision, device="cpu", activation_fn=lambda logits: logits)

    def score() -> np.ndarray:
        encoder.tokens.forget()  # texts are tokenized anew each time, as by the others
        return encoder.predict(pairs)

    return _median_ms(score, clock)


@torch.inference_mode()
def plain(gpt2: GPT2ForSequenceClassification, ids: torch.Tensor, *, batch_size: int = 32) -> torch.Tensor:
    """Every pair in full, in batches without any padding: int64 (n_pairs, n_tokens) -> (n_pairs,)."""
    batches = [gpt2(input_ids=batch).logits[:, 0] for batch in ids.split(batch_size)]
    return torch.cat(batches)


@torch.inference_mode()
def matrix_rate(rows: int, width: int, clock: Clock) -> float:
    """The best float32 rate, operations per second, of the products that reach this machine's peak."""
    left, weight, bias = torch.randn(min(rows, 4096), width), torch.randn(width, 4 * width), torch.zeros(4 * width)
    prepared = PreparedLinear(weight, bias, torch.float32)
    operations = 2 * len(left) * width * 4 * width
    seconds = min(_median_ms(lambda: left @ weight, clock)[0], _median_ms(lambda: prepared(left), clock)[0]) / 1e3
    return operations / seconds


def training_case(
    seed: int, clock: Clock, *, n_lists: int = 8, candidates: int = 20, history: int = 64, tokens: int = 16
) -> dict:
    """Lists per second of training: one shared context per list against every pair in full."""
    config = RerankConfig(n_layer=6, n_head=6, history_tokens=history, candidate_tokens=tokens, seed=seed)
    tokenizer = make_tokenizer(2_000)
    rng = np.random.default_rng(seed)
    lists = []
    for _ in range(n_lists):
        texts = tuple(_words(rng, tokens, 2_000) for _ in range(candidates))
        labels = np.zeros(candidates, dtype=np.float32)
        labels[rng.integers(candidates)] = 1
        lists.append(TrainingList(RerankInput((_words(rng, history, 2_000),), texts), labels))
    speeds = {
        f"{kind}_{precision}": training_speed(
            lists, config, tokenizer, precision=precision, pairwise=kind == "pairs", clock=clock
        )
        for precision in ("float32", "bfloat16")
        for kind in ("shared", "pairs")
    }
    facts = {"case": f"training {history}x{candidates}x{tokens}", **{k: round(v, 3) for k, v in speeds.items()}}
    for precision in ("float32", "bfloat16"):
        facts[f"speedup_{precision}"] = round(speeds[f"shared_{precision}"] / speeds[f"pairs_{precision}"], 2)
    return facts


def growth_case(model: str, clock: Clock, *, candidates: int = 100, tokens: int = 16, items: int = 12) -> dict:
    """A returning user, with and without a new item, in both prompt orders, with and without kept states."""
    layers, width, n_head, _ = SHAPES[model]
    rng = np.random.default_rng(0)
    texts = tuple(_words(rng, tokens) for _ in range(candidates))
    history = [_words(rng, tokens - 1) for _ in range(items + 40)]
    facts: dict[str, str | float] = {"case": f"growth {model} {items}x{tokens} + {candidates}x{tokens}"}
    with tempfile.TemporaryDirectory() as folder:
        gpt2, tokenizer = make_model(model, Path(folder), seed=0)
        for newest_last in (False, True):
            order = "newest_last" if newest_last else "newest_first"
            config = RerankConfig(
                n_layer=layers, n_embd=width, n_head=n_head, history_tokens=900, candidate_tokens=tokens + 1,
                newest_last=newest_last,
            )  # fmt: skip
            kept = Reranker(gpt2, tokenizer, None, config, precision="float32", context_cache_mb=1_000)
            grown = []
            for extra in range(6):
                now = RerankInput(tuple(reversed(history[: items + extra])), texts)
                start = clock()
                kept.score(now)
                grown.append(1e3 * (clock() - start))
            facts[f"{order}_grown_ms"] = round(float(np.median(grown[1:])), 2)
            facts[f"{order}_unchanged_ms"] = round(_median_ms(lambda: kept.score(now), clock)[0], 2)  # noqa: B023
            facts[f"{order}_no_cache_ms"] = round(_median_ms(lambda: kept.score_many([now]), clock)[0], 2)  # noqa: B023
    return facts


def make_model(
    model: str, directory: Path, *, seed: int
) -> tuple[GPT2ForSequenceClassification, PreTrainedTokenizerFast]:
    """A classifier of a known shape with random weights, and a tokenizer in which `w17` is the token 17."""
    layers, width, n_head, n_words = SHAPES[model]
    shape = GPT2Config(
        vocab_size=n_words, n_layer=layers, n_embd=width, n_head=n_head, pad_token_id=0, bos_token_id=2, eos_token_id=3
    )
    shape.num_labels = 1
    torch.manual_seed(seed)
    gpt2 = GPT2ForSequenceClassification(shape).eval()
    tokenizer = make_tokenizer(n_words)
    gpt2.save_pretrained(str(directory))
    tokenizer.save_pretrained(str(directory))
    return gpt2, tokenizer


def make_tokenizer(n_words: int) -> PreTrainedTokenizerFast:
    """One token per word `w4`, `w5`, ..., words separated by spaces; the first four are frame tokens."""
    frame = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    words = [*frame.values(), *(f"w{row}" for row in range(len(frame), n_words))]
    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token=frame["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=1024, **frame)


def _words(rng: np.random.Generator, count: int, n_words: int = 30_000) -> str:
    return " ".join(f"w{row}" for row in rng.integers(10, n_words, size=count))


def _median_ms(run: Callable, clock: Clock) -> tuple[float, np.ndarray]:
    """Median of up to `MAX_RUNS` runs after a warm-up (which counts itself if over `LONG_SECONDS`); the last result."""
    times: list[float] = []
    warm = False
    while not warm or not times or (len(times) < MAX_RUNS and sum(times) < ENOUGH_SECONDS):
        start = clock()
        result = run()
        seconds = clock() - start
        if warm or seconds > LONG_SECONDS:
            times.append(seconds)
        warm = True
    return 1e3 * float(np.median(times)), np.asarray(result)


def plot(cases: list[Case], path: Path) -> None:
    """Bars: how many times faster than CrossEncoder, case by case."""
    from matplotlib import pyplot

    places = np.arange(len(cases))
    figure, axes = pyplot.subplots(figsize=(8, 1.5 + 0.35 * len(cases)))
    axes.barh(places - 0.2, [case.speedup_fp32 for case in cases], 0.38, label="float32")
    axes.barh(places + 0.2, [case.speedup_bf16 or 0 for case in cases], 0.38, label="bfloat16")
    axes.set_yticks(places, [case.case for case in cases])
    axes.invert_yaxis()
    axes.set_xlabel("times faster than sentence-transformers CrossEncoder (history x candidates x candidate tokens)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _line(case: Case) -> str:
    bf16 = "" if case.ours_bf16_ms is None else f"  bf16 {case.ours_bf16_ms:8.1f} ms ({case.speedup_bf16:5.1f}x)"
    return (
        f"{case.case:24} ours {case.ours_fp32_ms:8.1f} ms ({case.speedup_fp32:5.1f}x){bf16}  "
        f"CrossEncoder {case.crossencoder_ms:9.1f} ms  plain {case.plain_ms:9.1f} ms  "
        f"floor {case.floor_ms:7.1f} ms ({case.share_of_floor:.0%})"
    )


def _chosen(options: argparse.Namespace) -> list[tuple[int, int, int]]:
    return list(
        product(
            HISTORY_TOKENS if options.history_tokens is None else (options.history_tokens,),
            CANDIDATES if options.candidates is None else (options.candidates,),
            CANDIDATE_TOKENS if options.candidate_tokens is None else (options.candidate_tokens,),
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SHAPES), help="default: both")
    parser.add_argument("--history-tokens", type=int, help=f"default: all of {HISTORY_TOKENS}")
    parser.add_argument("--candidates", type=int, help=f"default: all of {CANDIDATES}")
    parser.add_argument("--candidate-tokens", type=int, help=f"default: all of {CANDIDATE_TOKENS}")
    parser.add_argument("--json", action="store_true", help="one JSON object per case")
    parser.add_argument("--plot", type=Path, help="write a PNG")
    parser.add_argument("--training", action="store_true", help="training speed against pairs in full, instead")
    parser.add_argument("--growth", action="store_true", help="returning users in both prompt orders, instead")
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count CPU time, not wall time: for a busy machine, with --threads 1"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
