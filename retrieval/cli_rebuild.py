"""The verb that gives a bundle a new catalogue: build-index."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from retrieval.cli_checks import check_bundle_root, check_device
from retrieval.cli_config import Device, Quiet
from retrieval.cli_tables import Reading, Teller, read_items_table, read_tables, reads_tables

MaxRemoved = Annotated[
    float,
    typer.Option(
        "--max-removed", min=0.0, max=1.0, help="Stop where more of the bundle's items, or of its users, are left out."
    ),
]


@reads_tables
def build_index(
    *,
    reading: Reading,
    bundle: Annotated[Path, typer.Argument(help="The bundle to give a new catalogue.")],
    items: Annotated[Path, typer.Option("--items", help="The whole catalogue as it is now: what it lacks is removed.")],
    interactions: Annotated[
        Path | None,
        typer.Option(
            "--interactions", help="All histories to serve from, instead of the bundle's; nothing is trained."
        ),
    ] = None,
    max_removed: MaxRemoved = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help="What was done, as one line of JSON on stdout.")] = False,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Put a new item table into a bundle: embed what changed, build the indexes, publish the next version.

    Both tables take the place of what the bundle has: give all items, and all interactions, not only what is new.

    \b
    tandem build-index bundle --items items.parquet
    tandem build-index bundle --items items.parquet --interactions interactions.parquet
    """
    started = time.monotonic()
    say = Teller(quiet)
    check_device(device)
    check_bundle_root(bundle)
    if interactions is not None:
        table, taken = read_tables(items, interactions, reading, say)
    else:
        table, taken = read_items_table(items, reading, say), None
    from retrieval.rebuild import changes_of, require_kept
    from retrieval.recommend import Recommender
    from retrieval.storage import save_bundle
    from retrieval.update import replace_catalogue

    say(f"load {bundle}")
    recommender = Recommender.load(bundle, device=device or "auto")
    require_kept(recommender, table, taken, max_removed=max_removed)
    say(f"index {len(table):,} items")
    new, based_on = replace_catalogue(recommender, table, taken), Path(str(recommender.facts["directory"]))
    version = save_bundle(bundle, new, based_on=based_on)
    changes = changes_of(recommender, new)
    say.of_changes(f"published {version}: {changes}", removed=bool(changes.n_removed or changes.n_users_removed))
    if not as_json:
        print(version)
        return
    rejected = sum(one.n_rejected for one in (table.report, taken.report if taken else None) if one is not None)
    seconds = round(time.monotonic() - started, 3)
    print(json.dumps({"version": str(version), **asdict(changes), "rejected": rejected, "seconds": seconds}))
