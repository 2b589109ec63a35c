"""Puts tonight's item table into a bundle: `tandem build-index` for a scheduler, from a checkout without installation.

    python scripts/build_index.py bundle --items items.parquet
    python scripts/build_index.py bundle --items items.parquet --interactions interactions.parquet

Prints one JSON line: version, n_items, n_embedded, n_removed, n_users, n_users_removed, rejected, seconds. Both tables
take the place of what the bundle has, also the histories; the models are not trained. Where more than half of its items
or users would go, nothing is published unless --max-removed allows it. Exit codes: 0 done, 2 bad input, 3 damaged
bundle or file, 4 resources (disk, memory, another publisher), 130 and 143 for signals; after any of these the version
that was current before still is. The options are those of the command:
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(argv: list[str] | None = None) -> int:
    """Runs the job and returns its exit code."""
    from retrieval.cli import main as tandem

    arguments = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
    return tandem(["build-index", *arguments, "--json", "--quiet"])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # so that it runs from a checkout without installation
    raise SystemExit(main())
