"""Puts tonight's item table into a bundle: embeds what changed, builds the indexes, publishes the next version.

    python scripts/build_index.py bundle --items items.parquet
    python scripts/build_index.py bundle --items items.parquet --interactions interactions.parquet

Prints one JSON line: version, n_items, n_embedded, n_removed, n_users, rejected, seconds. Exit codes: 0 done, 2 bad
input, 3 damaged bundle or file, 4 resources (disk, memory, another publisher), 130 and 143 for signals; after any of
these the version that was current before still is. With --interactions the users' histories are replaced too; the
models are not trained.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def rebuild(
    bundle: Path,
    items: Path,
    interactions: Path | None = None,
    *,
    maps: list[str] | None = None,
    rejects: Path | None = None,
    max_bad_rows: int | None = None,
    device: str = "auto",
) -> dict[str, object]:
    """Publishes the next version of the bundle over these items and says what was done.

    Args:
        maps: "NAME=COLUMN" or "TABLE.NAME=COLUMN", as for `tandem fit --map`.
        rejects: a folder for refused rows.
        max_bad_rows: stop above so many refused rows in a table.

    Raises:
        indexes.Locked: another version was published meanwhile, or somebody else is at it.
    """
    from retrieval import Recommender
    from retrieval.cli_tables import Reading, read_items_table, read_tables
    from retrieval.storage import save_bundle
    from retrieval.update import replace_catalogue

    started = time.monotonic()
    reading = Reading(maps=maps, rejects=rejects, max_bad_rows=max_bad_rows)
    if interactions is None:
        table, taken = read_items_table(items, reading, lambda message: None), None
    else:
        table, taken = read_tables(items, interactions, reading, lambda message: None)
    old = Recommender.load(bundle, device=device)
    new = replace_catalogue(old, table, taken)
    version = save_bundle(bundle, new, based_on=Path(str(old.facts["directory"])))
    text_of = dict(zip(old.item_ids.ids, old.model.catalogue.texts, strict=True))
    pairs = zip(new.item_ids.ids, new.model.catalogue.texts, strict=True)
    refused = [report.n_rejected for report in (table.report, taken.report if taken else None) if report is not None]
    return {
        "version": str(version),
        "n_items": len(new.item_ids),
        "n_embedded": sum(text_of.get(item_id) != text for item_id, text in pairs),
        "n_removed": sum(item_id not in new.item_ids for item_id in old.item_ids.ids),
        "n_users": len(new.users),
        "rejected": sum(refused),
        "seconds": round(time.monotonic() - started, 3),
    }


def _run(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--items", type=Path, required=True, help="item_id, title, ...; a file or a folder")
    parser.add_argument("--interactions", type=Path, help="newer histories for serving")
    parser.add_argument("--map", action="append", metavar="NAME=COLUMN", help="or TABLE.NAME=COLUMN; repeatable")
    parser.add_argument("--rejects", type=Path, help="folder for refused rows")
    parser.add_argument("--max-bad-rows", type=int, help="stop above so many refused rows")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    options = parser.parse_args(argv)
    report = rebuild(
        options.bundle,
        options.items,
        options.interactions,
        maps=options.map,
        rejects=options.rejects,
        max_bad_rows=options.max_bad_rows,
        device=options.device,
    )
    print(json.dumps(report))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs the job and returns its exit code."""
    from retrieval.exit_codes import guarded

    return guarded(lambda: _run(argv))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # so that it runs from a checkout without installation
    raise SystemExit(main())
