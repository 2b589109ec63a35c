"""Scores a table of users, or one segment of it: `tandem batch` for a scheduler, from a checkout without installation.

    python scripts/batch_score.py bundle --users users.parquet --out lists
    python scripts/batch_score.py bundle --users users.parquet --segment gold --out gold --k 20

Prints one JSON line: out, bundle_version, n_users, n_rows, n_parts, n_computed, n_unknown, n_ignored,
n_cold, n_empty, rejected, seconds.
The folder appears when all of it is done; a killed job goes on when it is started again. Exit codes: 0 done, 2 bad
input, 3 damaged bundle or file, 4 resources (disk, memory, another run), 130 and 143 for signals. The options are those
of the command:
"""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_TOLD = ("out", "bundle_version", "n_users", "n_rows", "n_computed", "n_unknown", "n_ignored", "n_cold", "n_empty")


def main(argv: list[str] | None = None) -> int:
    """Runs the job and returns its exit code."""
    from retrieval.cli import main as tandem
    from retrieval.exit_codes import OK, guarded

    arguments = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return tandem(["batch", "--help"])
    with redirect_stdout(io.StringIO()) as printed:
        code = tandem(["batch", *arguments, "--json", "--quiet"])
    return code if code != OK else guarded(lambda: _print_line(json.loads(printed.getvalue())))


def _print_line(report: dict) -> int:
    # A run that an earlier version had finished counted less.
    line = {name: report.get(name, 0) for name in _TOLD} | {
        "n_parts": len(report["parts"]),
        "rejected": sum(report["rejected"].values()),
        "seconds": round(report["seconds"], 3),
    }
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # so that it runs from a checkout without installation
    raise SystemExit(main())
