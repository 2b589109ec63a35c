"""Ranked lists on disk, found again by what made them: an interrupted benchmark goes on where it stopped.

The key is data and options, not the code; after a change of the code take a new folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.stage_figures import Rankings

Made = tuple[Rankings, dict[str, Any]]


def kept_or_made(
    folder: Path | None, name: str, key: Mapping[str, Any], make: Callable[[], Made], say: Callable[[str], None]
) -> Made:
    """The lists and facts kept in a folder under this name and key, else those that `make` gives, which are then kept.

    Args:
        folder: None keeps nothing.
    """
    if folder is None:
        return make()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:10]
    path = folder / f"{name}-{digest}"
    found = read_lists(path)
    if found is not None:
        say(f"lists kept in {path.name}")
        found[1].pop("key")
        return found
    rankings, facts = make()
    write_lists(path, rankings, {**facts, "key": key})
    return rankings, facts


def write_lists(path: Path, rankings: Rankings, facts: Mapping[str, Any]) -> None:
    """Keep lists as PATH.npz and facts as PATH.json; the latter last, so that a broken run leaves nothing to read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"stage_{name}": rows.astype(np.int32) for name, rows in rankings.ranked.items()}
    part = path.with_name(f".{path.name}.{os.getpid()}.npz")
    np.savez_compressed(part, candidate_recall=rankings.candidate_recall, allow_pickle=False, **arrays)
    os.replace(part, f"{path}.npz")
    text = json.dumps({"seconds_of_stages": rankings.seconds, **facts}, default=float)
    part = path.with_name(f".{path.name}.{os.getpid()}.json")
    part.write_text(text, encoding="utf-8")
    os.replace(part, f"{path}.json")


def read_lists(path: Path) -> tuple[Rankings, dict[str, Any]] | None:
    """What `write_lists` kept, or None."""
    facts_file, lists_file = Path(f"{path}.json"), Path(f"{path}.npz")
    if not facts_file.is_file() or not lists_file.is_file():
        return None
    facts = json.loads(facts_file.read_text(encoding="utf-8"))
    with np.load(lists_file, allow_pickle=False) as arrays:
        ranked = {
            name.removeprefix("stage_"): arrays[name].astype(np.int64)
            for name in arrays.files
            if name.startswith("stage_")
        }
        rankings = Rankings(ranked, arrays["candidate_recall"], facts.pop("seconds_of_stages"))
    return rankings, facts
