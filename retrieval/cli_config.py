"""The configuration on the command line: a file, then --set, then the flags; and the verb that prints it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.cli_checks import check_device

if TYPE_CHECKING:
    from retrieval.config import Config
    from retrieval.data import Interactions, Items

ConfigPath = Annotated[Path | None, typer.Option("--config", help="TOML file; see `tandem config` for every key.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="SECTION.KEY=VALUE, wins over the file; repeatable.")]
KeepSeen = Annotated[
    bool | None, typer.Option("--keep-seen/--mask-seen", help="May items come again that a user has seen?")
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only what was refused or removed.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of everything random.")]
Budget = Annotated[
    float | None,
    typer.Option("--budget", min=0.1, help="Minutes of a fit on two CPU cores; sets how much is trained."),
]


def chosen_config(
    path: Path | None, sets: list[str] | None, *, keep_seen: bool | None, device: str | None, seed: int | None
) -> Config:
    """The configuration file, then --set, then the flags.

    Raises:
        ValueError: see `retrieval.config.read_config` and `parse_override`.
    """
    from retrieval.config import merge_values, read_config

    check_device(device)
    over = overrides(sets)
    flags = {"keep_seen": keep_seen, "device": device, "seed": seed}
    return read_config(path, merge_values(over, {name: value for name, value in flags.items() if value is not None}))


def overrides(sets: list[str] | None) -> dict[str, Any]:
    """What all of --set say, merged; the last one wins. Raises ValueError for what is no SECTION.KEY=VALUE."""
    from retrieval.config import merge_values, parse_override

    over: dict[str, Any] = {}
    for text in sets or []:
        over = merge_values(over, parse_override(text))
    return over


def budgeted(config: Config, minutes: float | None, items: Items, interactions: Interactions) -> Config:
    """The configuration cut down to a fit of so many minutes; as it is without a budget."""
    from retrieval.budget import within_budget

    if minutes is None:
        return config
    return within_budget(config, len(interactions), len(items), minutes)


def show_config(config: ConfigPath = None, sets: Sets = None) -> None:
    """Print every configuration key as the TOML file that `--config` reads: the defaults, or what a file and --set make
    of them, checked as a fit would check it."""
    from retrieval.config import read_config, to_toml

    print(to_toml(read_config(config, overrides(sets)).to_dict()))
