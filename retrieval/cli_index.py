"""The verbs below `tandem index`: move, clean."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from retrieval.cli_config import Quiet
from retrieval.cli_tables import Teller
from retrieval.terminal import printable, render_json

Root = Annotated[Path, typer.Argument(help="The root of a bundle.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]

index = typer.Typer(
    name="index",
    help="Where the vectors of a bundle are searched: in FAISS files of the bundle, or on a Milvus server.",
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    app.add_typer(index)


@index.command()
def move(
    bundle: Root,
    to: Annotated[
        str,
        typer.Option(
            "--to", help="milvus, auto, exact, ivf, ivf_sq8, ivf_pq, ivf_rabitq, hnsw or hnsw_sq8.", show_default=False
        ),
    ],
    uri: Annotated[
        str | None, typer.Option("--uri", help="Of Milvus: http://HOST:19530, or FILE.db for milvus-lite.")
    ] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", help="How the collections' names begin; else the bundle's name.")
    ] = None,
    kind: Annotated[str, typer.Option("--kind", help="Of the collections: auto, flat (exact) or hnsw.")] = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Move the indexes of a bundle to another family, to Milvus or back; it becomes the bundle's next version.

    The token of the server is read from the environment variable TANDEM_MILVUS_TOKEN and stored nowhere. An
    interrupted move goes on when the same command is given again.

    \b
    tandem index move bundle --to milvus --uri http://localhost:19530
    tandem index move bundle --to milvus --uri items.db
    tandem index move bundle --to ivf_pq
    """
    from retrieval.move_index import move_index

    say = Teller(quiet)
    say(f"build for {to}")
    moved = move_index(
        bundle,
        to=to,
        uri=uri,
        collection=collection,
        kind=kind,
        progress=lambda stage, done, n_all: say(f"{stage} {done:,} of {n_all:,}"),
    )
    if as_json:
        print(render_json({"version": str(moved.version), "indexes": {**moved.parts}}))
        return
    print(moved.version)
    for part, facts in moved.parts.items():
        print(printable(f"  {part}: {', '.join(f'{name} {value}' for name, value in facts.items())}"))


@index.command()
def clean(
    bundle: Root,
    uri: Annotated[
        str | None,
        typer.Option("--uri", help="Of a Milvus that no kept version names any more."),
    ] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", help="With --uri: how their names begin; else the bundle's name.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete them; without, they are only named.")] = False,
) -> None:
    """Delete the Milvus collections of earlier versions of a bundle that are not kept any more.

    Not while somebody moves or rebuilds the bundle. Whose a collection is tells only the beginning of its name: two
    bundles on one Milvus need names of their own (--collection of move).

    \b
    tandem index clean bundle
    tandem index clean bundle --uri http://localhost:19530
    tandem index clean bundle --yes
    """
    from retrieval.move_index import drop_leftovers, leftover_collections

    find = drop_leftovers if yes else leftover_collections
    found = find(bundle, uri=uri, collection=collection)
    if not found:
        print("nothing to delete: every collection is one of a version that is kept", file=sys.stderr)
    for place, name in found:
        print(printable(f"{'deleted' if yes else 'not used any more'}: {name} at {place}"))
