"""The verbs that make bundles and measure them: fit, train-encoder, train-reranker, build-index, evaluate, demo."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.cli_checks import check_bundle_root, check_device, check_evaluation, check_out
from retrieval.cli_config import (
    Budget,
    ConfigPath,
    Device,
    KeepSeen,
    Quiet,
    Seed,
    Sets,
    budgeted,
    chosen_config,
    overrides,
    show_config,
)
from retrieval.cli_rebuild import MaxRemoved, build_index
from retrieval.cli_tables import Reading, Teller, read_tables, reads_tables

if TYPE_CHECKING:
    from retrieval.config import Config
    from retrieval.data import Interactions, Items
    from retrieval.two_stage import TwoStage

ItemsPath = Annotated[Path, typer.Option("--items", help="Item table: parquet, CSV or JSON lines; a file or a folder.")]
InteractionsPath = Annotated[Path, typer.Option("--interactions", help="Who took what when; a file or a folder.")]
OutPath = Annotated[Path, typer.Option("--out", help="The bundle: a directory that keeps versions, made if missing.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the application."""
    app.command("demo")(demo)
    app.command("fit")(fit)
    app.command("train-encoder")(train_encoder)
    app.command("train-reranker")(train_reranker)
    app.command("build-index")(build_index)
    app.command("evaluate")(evaluate)
    app.command("config")(show_config)


def _fit_and_publish(
    table: Items,
    taken: Interactions,
    config: Config,
    out: Path,
    say: Any,
    *,
    quiet: bool,
    settings: Any = None,
    encoder: Any = None,
) -> Path:
    from indexes import Locked
    from indexes.files import exclusive
    from retrieval.fit import fit as fit_model
    from retrieval.model_source import require_reranker
    from retrieval.recommend import Recommender
    from retrieval.storage import save_bundle

    require_reranker(config)
    out.mkdir(parents=True, exist_ok=True)
    # From the start, not only while publishing: two fits would share their checkpoints.
    with exclusive(out / ".fit.lock") as holder:
        if holder is not None:
            raise Locked(f"{out}: expected to be the only fit for this bundle, process {holder} is at it; wait for it")
        fitted = fit_model(
            table,
            taken,
            config,
            say=say,
            progress=not quiet,
            checkpoints=out / ".checkpoints",
            settings=settings,
            encoder=encoder,
        )
        recommender = Recommender.of(fitted.model, taken, config, fitted.settings)
        version = save_bundle(out, recommender)
        shutil.rmtree(out / ".checkpoints", ignore_errors=True)  # a later fit must not go on from this one's
    say(f"published {version}; validation NDCG@10 {fitted.validation_ndcg:.4f}{verdict(fitted.model)}")
    print(version)
    return version


def verdict(model: TwoStage) -> str:
    """What became of GPT-2, for a person."""
    if model.reranker is None:
        return ""
    return "; GPT-2 counts" if model.rerank_counts else "; GPT-2 does not count: validation users tell no gain by it"


@reads_tables
def fit(
    *,
    reading: Reading,
    items: ItemsPath,
    interactions: InteractionsPath,
    out: OutPath,
    config: ConfigPath = None,
    sets: Sets = None,
    keep_seen: KeepSeen = None,
    device: Device = None,
    seed: Seed = None,
    budget: Budget = None,
    quiet: Quiet = False,
) -> None:
    """Train both stages on your data and publish a bundle; prints the new version's directory.

    Example: tandem fit --items items.parquet --interactions interactions.csv --out bundle
    """
    say = Teller(quiet)
    chosen = chosen_config(config, sets, keep_seen=keep_seen, device=device, seed=seed)
    check_out(out)
    table, taken = read_tables(items, interactions, reading, say)
    _fit_and_publish(table, taken, budgeted(chosen, budget, table, taken), out, say, quiet=quiet)


@reads_tables
def train_encoder(
    *,
    reading: Reading,
    items: ItemsPath,
    interactions: InteractionsPath,
    out: OutPath,
    config: ConfigPath = None,
    sets: Sets = None,
    keep_seen: KeepSeen = None,
    device: Device = None,
    seed: Seed = None,
    quiet: Quiet = False,
) -> None:
    """Train stage one only (recall) and publish a bundle without a reranker.

    Example: tandem train-encoder --items items.parquet --interactions interactions.parquet --out bundle
    """
    say = Teller(quiet)
    chosen = chosen_config(config, sets, keep_seen=keep_seen, device=device, seed=seed)
    check_out(out)
    table, taken = read_tables(items, interactions, reading, say)
    _fit_and_publish(table, taken, replace(chosen, use_reranker=False), out, say, quiet=quiet)


@reads_tables
def train_reranker(
    *,
    reading: Reading,
    bundle: Annotated[Path, typer.Argument(help="A bundle whose configuration and source settings are taken over.")],
    items: ItemsPath,
    interactions: InteractionsPath,
    max_removed: MaxRemoved = 0.5,
    sets: Sets = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Train the GPT-2 reranker for a bundle on (newer) interactions and publish it as the bundle's next version.

    Both tables take the place of what the bundle has: give all items, and all interactions, not only what is new.

    Stage one is fitted again with the settings the bundle found, because its training lists must come from sources that
    never saw the evaluated interactions.

    Example: tandem train-reranker bundle --items items.parquet --interactions interactions.parquet
    """
    from retrieval.bundle_files import config_of
    from retrieval.config import config_from, merge_values

    say = Teller(quiet)
    check_device(device)
    check_bundle_root(bundle)
    # The encoder is the bundle's own; trained once is enough.
    over: dict[str, Any] = {
        "use_reranker": True,
        "encoder": {"finetune": "never"},
        **({"device": device} if device else {}),
    }
    chosen = config_from(merge_values(config_of(bundle).to_dict(), merge_values(over, overrides(sets))))
    if not chosen.use_reranker:
        raise ValueError("use_reranker: expected true, a reranker is to be trained; `tandem train-encoder` trains none")
    table, taken = read_tables(items, interactions, reading, say)
    from retrieval.rebuild import KnownIds, require_kept
    from retrieval.storage import read_settings

    require_kept(KnownIds.of(bundle), table, taken, max_removed=max_removed)
    _, settings, encoder = read_settings(bundle, device=device or "auto")
    _fit_and_publish(table, taken, chosen, bundle, say, quiet=quiet, settings=settings, encoder=encoder)


@reads_tables
def evaluate(
    *,
    reading: Reading,
    items: ItemsPath,
    interactions: InteractionsPath,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the evaluation as JSON.")] = None,
    report: Annotated[Path | None, typer.Option("--report", help="A report: .txt; .html, .png (extra report).")] = None,
    split: Annotated[str, typer.Option("--split", help="leave-last-out or time.")] = "leave-last-out",
    name: Annotated[str | None, typer.Option("--name", help="What the data set is called in the report.")] = None,
    max_users: Annotated[int | None, typer.Option("--max-users", min=1, help="Measure on so many test users.")] = None,
    cold_items: Annotated[
        float, typer.Option("--cold-items", help="This share of the items loses all training interactions.")
    ] = 0.0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="So many runs, for means and deviations.")] = 1,
    users: Annotated[Path | None, typer.Option("--users", help="Users with a segment column, for a table.")] = None,
    segment: Annotated[
        str | None, typer.Option("--segment-column", help="The column of --users to tell apart; else segment.")
    ] = None,
    config: ConfigPath = None,
    sets: Sets = None,
    keep_seen: KeepSeen = None,
    device: Device = None,
    seed: Seed = None,
    budget: Budget = None,
    quiet: Quiet = False,
) -> None:
    """Train on the past, rank all items for every test user, and compare every stage with the baselines.

    Example: tandem evaluate --items items.csv --interactions interactions.csv --json evaluation.json
    """
    say = Teller(quiet)
    check_evaluation(json_file, report, users, segment, split)
    chosen = chosen_config(config, sets, keep_seen=keep_seen, device=device, seed=seed)
    table, taken = read_tables(items, interactions, reading, say)
    from retrieval.benchmark import segments_of
    from retrieval.evaluate import evaluate as run
    from retrieval.fit_steps import load_encoder
    from retrieval.model_source import require_reranker
    from retrieval.report import render_text, write_report
    from retrieval.seeds import with_seeds

    segments = None if users is None else segments_of(users, segment or "segment")
    chosen = budgeted(chosen, budget, table, taken)
    require_reranker(chosen)
    encoder = load_encoder(chosen)  # once, so that further seeds find the text vectors in its cache

    def measure(config: Config) -> dict[str, Any]:
        return run(
            table, taken, config,
            dataset=name or items.resolve().parent.name, split=split, max_users=max_users, cold_share=cold_items,
            segments=segments, data_seed=chosen.seed, encoder=encoder, say=say, progress=not quiet,
        )[0]  # fmt: skip

    result = with_seeds(measure, chosen, seeds, say=say)
    print(render_text(result, bold=sys.stdout.isatty()))  # before the files: whatever happens to these, here they are
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=1, default=float), encoding="utf-8")
    if report is not None:
        write_report(result, report)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Where data, bundle and report go.")] = Path("demo"),
    users: Annotated[int, typer.Option("--users", min=1, help="For how many users lists are shown.")] = 5,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """The whole life on MovieLens-100K: fetch, train, evaluate, publish, check, recommend."""
    from retrieval.demo import run_demo

    run_demo(out, n_users=users, device=device or "auto", say=Teller(quiet), progress=not quiet)
