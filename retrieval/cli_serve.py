"""The verbs that use a bundle: recommend, search, similar, rerank, batch, check, versions, rollback."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrieval import cli_show
from retrieval.cli_checks import check_bundle_there, check_device, check_list, check_readable
from retrieval.cli_config import Quiet
from retrieval.cli_tables import Teller, column_map, map_of

if TYPE_CHECKING:
    from retrieval.recommend import Recommender

Bundle = Annotated[Path, typer.Argument(help="A bundle (its root takes the current version), or one version of it.")]
K = Annotated[int, typer.Option("--k", "-k", help="How many items, 1 to 1000.")]
Filter = Annotated[
    str | None, typer.Option("--filter", help="Only these items, e.g. 'category = \"Books\" and not price >= 20'.")
]
User = Annotated[str | None, typer.Option("--user", "-u", help="A user id.")]
HistoryIds = Annotated[
    list[str] | None, typer.Option("--history", help="Item ids, oldest first: a,b,c (or a JSON array); repeatable.")
]
OneItem = Annotated[
    list[str] | None, typer.Option("--item", help="One history item, after --history; for ids with commas; repeatable.")
]
Explain = Annotated[bool, typer.Option("--explain", help="Say why, in sentences, and show both stages' scores.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Device = Annotated[str, typer.Option("--device", help="auto (CUDA where there is one), cpu or cuda.")]
TableFormat = Annotated[
    str,
    typer.Option(
        "--format",
        help="parquet, csv or jsonl. csv is for spreadsheets: an id that they would run as a formula (it begins with "
        "=, + or @, or with - and is no number) gets an apostrophe before it; join on the others.",
    ),
]
Precision = Annotated[str, typer.Option("--precision", help="Of the reranker: auto, float32 (exact) or bfloat16.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    for verb in (recommend, search, similar, rerank, batch, check, versions, rollback):
        app.command(verb.__name__)(verb)


def recommend(
    bundle: Bundle,
    user: User = None,
    history: HistoryIds = None,
    item: OneItem = None,
    k: K = 10,
    filters: Filter = None,
    explain: Explain = False,
    as_json: Json = False,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """The best items for a user, or for a history of items (oldest first).

    A user the bundle does not know, without a history, gets the popular items, and the answer says so.

    \b
    tandem recommend bundle --user 42
    tandem recommend bundle --history 50,181,172 --k 5 --explain
    tandem recommend bundle --user 42 --filter 'year >= 1990' --json
    """
    given = _ids("--history", history, item)
    if user is None and given is None:
        raise ValueError("recommend: expected a user_id or a history, got neither; give --user ID or --history A,B")
    recommender = _load(bundle, device, precision, k=k, filters=filters)
    found = recommender.recommend(user, history=given, k=k, filters=filters, explain=explain)
    cli_show.show_list(recommender, found, as_json=as_json, explain=explain, history=given)


def search(
    bundle: Bundle,
    text: Annotated[str, typer.Argument(help="What the items should be about.")],
    k: K = 10,
    filters: Filter = None,
    as_json: Json = False,
    device: Device = "auto",
) -> None:
    """The items whose texts are nearest to a text; the score is the cosine of their BERT vectors.

    \b
    tandem search bundle "a robot that falls in love"
    """
    recommender = _load(bundle, device, "auto", k=k, filters=filters)
    cli_show.show_list(recommender, recommender.search(text, k=k, filters=filters), as_json=as_json)


def similar(
    bundle: Bundle,
    item: Annotated[str, typer.Argument(help="An item id.")],
    k: K = 10,
    filters: Filter = None,
    as_json: Json = False,
    device: Device = "auto",
) -> None:
    """The items most like an item, by the trained item vectors; the score is their cosine.

    \b
    tandem similar bundle 50
    """
    recommender = _load(bundle, device, "auto", k=k, filters=filters)
    found = recommender.similar(item, k=k, filters=filters)
    cli_show.show_list(recommender, found, as_json=as_json, to_item=item)


def rerank(
    bundle: Bundle,
    items: Annotated[
        list[str] | None, typer.Option("--items", help="Candidates to order: a,b,c (or a JSON array); repeatable.")
    ] = None,
    candidate: Annotated[
        list[str] | None, typer.Option("--candidate", help="One candidate; for ids with commas; repeatable.")
    ] = None,
    user: User = None,
    history: HistoryIds = None,
    item: OneItem = None,
    as_json: Json = False,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Candidates from elsewhere in the final order for a user, or for a history of items (oldest first).

    \b
    tandem rerank bundle --user 42 --items 172,174,210
    tandem rerank bundle --history 50,181 --items 172,174,210
    """
    candidates = _ids("--items", items, candidate)
    if candidates is None:
        raise ValueError("rerank: expected candidates, got none; give them as --items a,b,c")
    given = _ids("--history", history, item)
    if given is None and user is None:
        given = []  # nothing is known of them: the popular order
    recommender = _load(bundle, device, precision)
    found = recommender.rerank(given, candidates, user_id=user)
    cli_show.show_list(recommender, found, as_json=as_json, explain=True, history=given)


def batch(
    bundle: Bundle,
    users: Annotated[
        Path, typer.Option("--users", help="user_id, optional segment and history (item ids); a file or a folder.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder of lists; it appears when all of it is done.")],
    segment: Annotated[str | None, typer.Option("--segment", help="Only users of this segment.")] = None,
    k: K = 10,
    filters: Filter = None,
    chunk_size: Annotated[
        int, typer.Option("--chunk-size", help="Users per part; so many are lost at most when a run is killed.")
    ] = 2_048,
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="Go on with an earlier run, or throw away what is there.")
    ] = True,
    table_format: TableFormat = "parquet",
    maps: Annotated[
        list[str] | None, typer.Option("--map", help="NAME=COLUMN, e.g. user_id=customer; repeatable.")
    ] = None,
    encoding: Annotated[str, typer.Option("--encoding", help="Of CSV and JSON lines.")] = "utf-8",
    rejects: Annotated[Path | None, typer.Option("--rejects", help="File for refused rows (JSON lines).")] = None,
    max_bad_rows: Annotated[
        int | None, typer.Option("--max-bad-rows", min=0, help="Stop above so many refused rows; else where most are.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Lists for many users: a table of users in, a folder of ranked lists out.

    Columns: user_id, segment, rank, item_id, score. The folder holds part files and _SUCCESS (JSON: options, rows,
    sha256 of every part). A killed run goes on when the same command is given again.

    \b
    tandem batch bundle --users users.parquet --out lists
    tandem batch bundle --users users.csv --segment gold --out gold --k 20 --format csv
    tandem batch bundle --users users.parquet --out lists --restart
    """
    renamed = map_of(column_map(maps, "users"), "users")
    check_readable(users)
    _check_serving(bundle, device, precision, k=k, filters=filters)
    from retrieval.batch import BatchOptions, UserStream, run_batch

    options = BatchOptions(k, filters, segment, chunk_size, table_format)  # pyright: ignore[reportArgumentType]
    stream = UserStream(
        users,
        chunk_users=chunk_size,
        segment=segment,
        column_map=renamed,
        encoding=encoding,
        rejects=rejects,
        max_bad_rows=max_bad_rows,
    )
    recommender = _load(bundle, device, precision)
    report = run_batch(recommender, stream, out, options, restart=not resume, progress=not quiet, say=Teller(quiet))
    cli_show.show_batch(report, out, as_json=as_json)


def check(bundle: Bundle, as_json: Json = False) -> None:
    """Compare every byte of a bundle with its manifest; exit code 0 when intact, 3 when damaged.

    \b
    tandem check bundle
    """
    from indexes import DamagedArtefact
    from retrieval.bundle_files import check_bundle

    started = time.monotonic()
    try:
        facts = check_bundle(bundle)
    except DamagedArtefact as error:
        if as_json:
            cli_show.show_damage(bundle, str(error))
        raise
    cli_show.show_facts(facts, as_json=as_json, seconds=time.monotonic() - started)


def versions(bundle: Bundle, as_json: Json = False) -> None:
    """The versions a bundle keeps, oldest first, and which one is current.

    \b
    tandem versions bundle
    """
    cli_show.show_versions(bundle, as_json=as_json)


def rollback(
    bundle: Bundle,
    to: Annotated[str | None, typer.Option("--to", help="A version, e.g. 000003; else the one before.")] = None,
) -> None:
    """Make an older version current again, after verifying it; prints its directory. Nothing is deleted.

    \b
    tandem rollback bundle
    tandem rollback bundle --to 000003
    """
    from indexes import list_versions
    from indexes import rollback as roll_back

    kept = [version.name for version in list_versions(bundle)]
    if to is not None and to.isdigit():
        to = to.zfill(6)
    if to is not None and kept and to not in kept:
        raise ValueError(f"--to: expected a version that is kept ({', '.join(kept)}), got {to!r}")
    print(roll_back(bundle, to=to))


def _load(bundle: Path, device: str, precision: str, *, k: int = 1, filters: str | None = None) -> Recommender:
    """The recommender, after everything that can be told without it."""
    _check_serving(bundle, device, precision, k=k, filters=filters)
    from retrieval.recommend import Recommender

    return Recommender.load(bundle, device=device, precision=precision)


def _check_serving(bundle: Path, device: str, precision: str, *, k: int, filters: str | None) -> None:
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"--precision: expected auto, float32 or bfloat16, got {precision!r}")
    check_device(device)
    check_list(k, filters)
    check_bundle_there(bundle)


def _ids(option: str, several: list[str] | None, single: list[str] | None) -> list[str] | None:
    """Ids of a comma-separated option and of its one-by-one twin; None when neither was given."""
    from retrieval.batch.users import parse_history

    if several is None and single is None:
        return None
    try:
        return [item_id for text in several or [] for item_id in parse_history(text) or ()] + list(single or [])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{option}: {error}") from None
