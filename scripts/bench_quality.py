"""Measures quality on data folders: every stage and every yardstick, one JSON line per data set.

    python scripts/bench_quality.py --json --data DIR --data DIR --cold-items 0.1 --seeds 3 --out results

A data folder holds the tables items and interactions (and users with a segment column, if there are segments) as
parquet, CSV or JSON lines. All items are ranked for every test user; settings are chosen by validation inside the
training part, the same way on every data set. With --out an interrupted benchmark goes on where it stopped. The exit
code is 2 where a data set could not be measured; its line says why.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SPLITS = ("leave-last-out", "time")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", required=True, help="a data folder; repeatable")
    parser.add_argument("--json", action="store_true", help="print JSON lines, not a table")
    parser.add_argument("--split", choices=SPLITS, default=SPLITS[0], help="everybody's last item, or the last tenth")
    parser.add_argument(
        "--cold-items", type=float, default=0.0, help="also a run in which this share of the items is new"
    )
    parser.add_argument("--seeds", type=int, default=1, help="so many runs; figures are their means")
    parser.add_argument("--budget", type=float, help="minutes that one fit may take; sets how much is trained")
    parser.add_argument("--keep-seen", nargs="?", choices=["auto", "yes", "no"], const="yes", default="auto")
    parser.add_argument("--no-yardsticks", nargs="*", metavar="NAME", help="leave these out; without a name, all")
    parser.add_argument("--max-users", type=int, help="measure on so many test users")
    parser.add_argument("--config", type=Path, help="TOML, as for tandem fit")
    parser.add_argument("--set", dest="sets", action="append", help="SECTION.KEY=VALUE, as for tandem fit")
    parser.add_argument("--device", help="auto, cpu or cuda")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", type=Path, help="keep lists and lines here, and reuse what is there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write tables into this file")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw NDCG@10 by stage into this file")
    parser.add_argument("--check-sasrec", action="store_true", help="only SASRec, as papers train it, and their figure")
    parser.add_argument("--quiet", action="store_true")
    chosen = parser.parse_args(argv)
    if chosen.seeds < 1:
        parser.error(f"--seeds: expected 1 or more, got {chosen.seeds}")
    return chosen


def yardsticks_but(left_out: list[str] | None) -> tuple[str, ...]:
    """The yardsticks to measure: an empty list leaves all of them out.

    Raises:
        ValueError: an unknown name.
    """
    from retrieval.yardsticks import NAMES

    if unknown := sorted(set(left_out or []) - set(NAMES)):
        raise ValueError(f"--no-yardsticks: expected some of {', '.join(NAMES)}, got {', '.join(unknown)}")
    return () if left_out == [] else tuple(name for name in NAMES if name not in (left_out or []))


def _run(argv: list[str] | None) -> int:
    """Measure every data set given, one line each; those that cannot be measured have a line that says why."""
    chosen = parse(argv)
    from retrieval.benchmark import Options, benchmark, check_sasrec, read_folder
    from retrieval.cli_config import chosen_config
    from retrieval.cli_tables import Teller
    from retrieval.model_source import require_reranker
    from retrieval.report_benchmark import plot_benchmark, render_markdown

    say = Teller(chosen.quiet)
    config = chosen_config(chosen.config, chosen.sets, keep_seen=None, device=chosen.device, seed=chosen.seed)
    require_reranker(config)
    options = Options(
        split=chosen.split,
        cold_share=chosen.cold_items,
        n_seeds=chosen.seeds,
        keep_seen=chosen.keep_seen,
        minutes=chosen.budget,
        max_users=chosen.max_users,
        yardsticks=yardsticks_but(chosen.no_yardsticks),
        out=chosen.out,
    )
    if chosen.check_sasrec:
        for folder in chosen.data:
            print(json.dumps(check_sasrec(read_folder(folder), config, options, say), default=float), flush=True)
        return 0
    lines: list[dict[str, Any]] = []
    for folder in chosen.data:
        try:
            lines.append(benchmark(read_folder(folder), config, options, say))
        except (ValueError, KeyError, FileNotFoundError) as error:
            lines.append({"dataset": folder.resolve().name, "split": chosen.split, "error": str(error)})
        text = json.dumps(lines[-1], default=float)
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / f"{lines[-1]['dataset']}-{options.split}.json").write_text(text + "\n", encoding="utf-8")
        print(text if chosen.json else render_markdown(lines[-1:]), flush=True)
    if chosen.markdown is not None:
        chosen.markdown.write_text(render_markdown(lines), encoding="utf-8")
    if chosen.plot is not None and any("error" not in line for line in lines):
        chosen.plot.write_bytes(plot_benchmark(lines))
    return 2 if any("error" in line for line in lines) else 0


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark and return its exit code (see `retrieval.exit_codes`)."""
    from retrieval.exit_codes import guarded

    return guarded(lambda: _run(argv))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # so that it runs from a checkout without installation
    sys.exit(main())
