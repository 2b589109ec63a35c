"""Scores a table of users, or one segment of it, the way a nightly job does.

    python scripts/batch_score.py bundle --users users.parquet --out lists
    python scripts/batch_score.py bundle --users users.parquet --segment gold --out gold --k 20

Prints one JSON line: out, bundle_version, n_users, n_rows, n_parts, n_computed, n_unknown, n_ignored,
n_cold, n_empty, rejected, seconds.
The folder appears when all of it is done; a killed job goes on when it is started again. Exit codes: 0 done, 2 bad
input, 3 damaged bundle or file, 4 resources (disk, memory, another run), 130 and 143 for signals.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _run(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--users", type=Path, required=True, help="user_id, segment, history; a file or a folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of lists")
    parser.add_argument("--segment", help="only users of this segment")
    parser.add_argument("--k", "-k", type=int, default=10, help="items per user")
    parser.add_argument("--filter", help="only items like this, e.g. \"category = 'Books'\"")
    parser.add_argument("--chunk-size", type=int, default=2_048, help="users per part")
    parser.add_argument("--format", default="parquet", help="parquet, csv or jsonl")
    parser.add_argument("--restart", action="store_true", help="throw away what is there")
    parser.add_argument("--map", action="append", metavar="NAME=COLUMN", help="its name in the file; repeatable")
    parser.add_argument("--rejects", type=Path, help="file for refused rows")
    parser.add_argument("--max-bad-rows", type=int, help="stop above so many refused rows")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--precision", default="auto", help="of the reranker: auto, float32 or bfloat16")
    asked = parser.parse_args(argv)
    from retrieval import Recommender
    from retrieval.batch import BatchOptions, UserStream, run_batch
    from retrieval.cli_tables import column_map, map_of

    options = BatchOptions(
        k=asked.k, filters=asked.filter, segment=asked.segment, chunk_users=asked.chunk_size, format=asked.format
    )
    users = UserStream(
        asked.users,
        chunk_users=options.chunk_users,
        segment=options.segment,
        column_map=map_of(column_map(asked.map, "users"), "users"),
        rejects=asked.rejects,
        max_bad_rows=asked.max_bad_rows,
    )
    recommender = Recommender.load(asked.bundle, device=asked.device, precision=asked.precision)
    report = run_batch(recommender, users, asked.out, options, restart=asked.restart)
    told = ("bundle_version", "n_users", "n_rows", "n_computed", "n_unknown", "n_ignored", "n_cold", "n_empty")
    print(
        json.dumps(
            {
                "out": str(asked.out),
                **{name: report.get(name, 0) for name in told},
                "n_parts": len(report["parts"]),
                "rejected": sum(report["rejected"].values()),
                "seconds": round(report["seconds"], 3),
            }
        )
    )
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs the job and returns its exit code."""
    from retrieval.exit_codes import guarded

    return guarded(lambda: _run(argv))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # so that it runs from a checkout without installation
    raise SystemExit(main())
