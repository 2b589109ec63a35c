"""The runner for one machine: users in, a folder of parts and `_SUCCESS` out, that appears complete or not at all.

    out/part-000000.parquet ...     user_id, segment, rank, item_id, score
    out/_SUCCESS                    JSON: rows, users, sha256 of every part, options, bundle

Work goes on in `.NAME.partial` beside it, which is renamed at the end. A run that was killed goes on from its finished
parts when the same command is given again; after a change of options or bundle it refuses to, unless told to restart.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from indexes import DamagedArtefact
from indexes.files import fingerprint, replace_file, sync
from retrieval.batch.chunks import BatchOptions, Part, check_part, finish_chunk, finished_part, part_from
from retrieval.batch.place import SUCCESS, Place, check_place, locked
from retrieval.batch.plan import Plan, make_plan
from retrieval.batch.users import UserStream
from retrieval.recommend import Recommender

FORMAT_VERSION = 1
Say = Callable[[str], None]


def run_batch(
    recommender: Recommender,
    users: UserStream,
    out: str | Path,
    options: BatchOptions,
    *,
    restart: bool = False,
    progress: bool = False,
    say: Say = lambda message: None,
) -> dict[str, Any]:
    """Write the lists of all users below `out` and return what `_SUCCESS` holds, with `n_computed` and `seconds`.

    Args:
        recommender: loaded from a published bundle; its manifest tells whether earlier parts still fit.
        users: read twice (first checked and counted), with the chunk size and segment of the options.
        restart: throw away what is there, finished or not.
        progress: a bar with users per second on stderr. say: told in one line what begins.

    Raises:
        ValueError: a bad k or filter, bad users, repeated user ids, `out` is something else, or holds lists made with
            other options.
        indexes.Locked: another run writes to `out`. OSError: the disk is full; what was finished is kept.
    """
    started = time.monotonic()
    place = Place(Path(os.path.abspath(out)))
    if (users.chunk_users, users.segment) != (options.chunk_users, options.segment):
        raise ValueError("run_batch: expected the users in chunks as the options say; make UserStream from the options")
    check_place(place.out)
    recommender.check(k=options.k, filters=options.filters)  # before the users are read and anything is written
    run = _identity(recommender, options)
    say(f"check the users of {users.name}")
    plan = make_plan(users)
    with locked(place):
        finished = None if restart else _finished_before(place.out, run, plan, say)
        if finished is not None:
            shutil.rmtree(place.work, ignore_errors=True)
            return {**finished, "n_computed": 0, "seconds": time.monotonic() - started}
        parts, n_computed = _finish_all(recommender, users, plan, options, place, run, restart, progress, say)
        seconds = time.monotonic() - started
        report = _report(run, recommender, users, plan, parts)
        _commit(place, report)
    return {**report, "n_computed": n_computed, "seconds": seconds}


def _finish_all(
    recommender: Recommender,
    users: UserStream,
    plan: Plan,
    options: BatchOptions,
    place: Place,
    run: dict[str, Any],
    restart: bool,
    progress: bool,
    say: Say,
) -> tuple[list[Part], int]:
    """All parts in order, and for how many users they were computed now."""
    _open_run(place, run, restart=restart)
    folders = {"parts": place.parts, "receipts": place.receipts}
    parts = [finished_part(n, digest, options, **folders) for n, digest in enumerate(plan.digests)]
    _remove_strangers(place, {part.file for part in parts if part is not None})
    todo = plan.n_users - sum(part.n_users for part in parts if part is not None)
    if todo < plan.n_users:
        say(f"go on: {plan.n_users - todo:,} of {plan.n_users:,} users are finished")
    try:
        with tqdm(total=todo, unit="user", desc="batch", disable=not progress, **_pace()) as bar:
            for chunk in users:
                if chunk.number >= len(parts) or chunk.digest != plan.digests[chunk.number]:
                    raise ValueError(f"{users.name}: the users changed while they were read; run again")
                if parts[chunk.number] is None:
                    parts[chunk.number] = finish_chunk(recommender, chunk, options, **folders, done=bar.update)
        if None in parts:  # fewer chunks than were counted
            raise ValueError(f"{users.name}: the users changed while they were read; run again")
    except BaseException:
        n_kept = sum(part is not None for part in parts)
        say(
            f"stopped: {n_kept:,} of {len(parts):,} parts are kept in {place.work}; the same command goes on from there"
        )
        raise
    return [part for part in parts if part is not None], todo


def _pace() -> dict[str, Any]:
    """A moving bar for a person, a line now and then for a log."""
    return {"mininterval": 0.5} if sys.stderr.isatty() else {"mininterval": 30, "ncols": 80}


def _identity(recommender: Recommender, options: BatchOptions) -> dict[str, Any]:
    """What must be equal for two parts to belong to one run."""
    directory = recommender.facts.get("directory")
    if directory is None:
        raise ValueError("batch: expected a recommender loaded from a bundle; save it with save_bundle and load it")
    encoder, reranker = recommender.model.catalogue.encoder, recommender.model.reranker
    return {
        "format_version": FORMAT_VERSION,
        "bundle": fingerprint(Path(str(directory)) / "manifest.json").sha256,
        **json.loads(json.dumps(asdict(options))),
        "device": encoder.device.type,
        "precision": "none" if reranker is None else str(reranker.scorer.dtype).removeprefix("torch."),
    }


def _finished_before(out: Path, run: dict[str, Any], plan: Plan, say: Say) -> dict[str, Any] | None:
    """The report of an earlier run, when `out` holds exactly the lists asked for and all of it is intact."""
    if not (out / SUCCESS).is_file():
        return None
    try:
        report = check_output(out)
    except DamagedArtefact as error:
        say(f"made again: {error}")
        return None
    _refuse_change(out, "finished lists", report["run"], run)
    if [part["digest"] for part in report["parts"]] != plan.digests:
        raise ValueError(f"{out}: holds the lists of other users; name another --out, or --restart to replace them")
    say("nothing to do: the lists are there and intact")
    return report


def _refuse_change(place: Path, what: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [name for name in now if before.get(name) != now[name]]
    told = ", ".join(f"{name} {_short(before.get(name))} -> {_short(now[name])}" for name in changed)
    if changed == ["bundle"]:
        cure = "name another --out, as one per night, or --restart to replace them"
        raise ValueError(f"{place}: holds {what} of another version of the bundle ({told}); {cure}")
    if changed:
        cure = "give the old ones again, name another --out, or --restart to throw it away"
        raise ValueError(f"{place}: holds {what} made with other options ({told}); {cure}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:13] + "..."


def _open_run(place: Place, run: dict[str, Any], *, restart: bool) -> None:
    """Begin a run, or go on with one of the same identity."""
    if restart:
        for folder in (place.parts, place.receipts):
            shutil.rmtree(folder, ignore_errors=True)
        place.run_file.unlink(missing_ok=True)
    if place.run_file.is_file():
        try:
            before = json.loads(place.run_file.read_bytes())
        except ValueError:
            before = {}
        _refuse_change(place.work, "an unfinished run", before, run)
    else:
        replace_file(place.run_file, json.dumps(run, indent=1).encode())
    for folder in (place.parts, place.receipts):
        folder.mkdir(exist_ok=True)


def _remove_strangers(place: Place, finished: set[str]) -> None:
    """Take away what a killed run left half-made, and parts of users that are no longer asked for."""
    for file in place.parts.iterdir():
        if file.name not in finished:
            file.unlink()
    for file in place.receipts.iterdir():
        if file.name.removesuffix(".json") not in finished:
            file.unlink()


def _report(
    run: dict[str, Any], recommender: Recommender, users: UserStream, plan: Plan, parts: list[Part]
) -> dict[str, Any]:
    return {
        "run": run,
        "bundle_version": Path(str(recommender.facts["directory"])).name,
        "n_users": plan.n_users,
        "n_rows": sum(part.n_rows for part in parts),
        "n_empty": sum(part.n_empty for part in parts),
        **{name: sum(getattr(part, name) for part in parts) for name in ("n_unknown", "n_ignored", "n_cold")},
        "rejected": dict(plan.rejected),
        "parts": [asdict(part) for part in parts],
    }


def _commit(place: Place, report: dict[str, Any]) -> None:
    """Write `_SUCCESS` and put the finished folder in its place, in one rename where nothing was there."""
    replace_file(place.parts / SUCCESS, json.dumps(report, indent=1).encode())
    old = place.work / "replaced"
    shutil.rmtree(old, ignore_errors=True)
    if place.out.exists():
        os.rename(place.out, old)
    os.rename(place.parts, place.out)
    sync(place.out.parent)
    shutil.rmtree(place.work, ignore_errors=True)


def check_output(out: str | Path) -> dict[str, Any]:
    """Verify a finished batch, every byte of every part; returns what `_SUCCESS` holds.

    Raises:
        FileNotFoundError: it is not finished. DamagedArtefact: a part is missing, altered or was added.
    """
    out = Path(out)
    if not (out / SUCCESS).is_file():
        raise FileNotFoundError(f"{out}: expected {SUCCESS} in it; the batch is not finished")
    try:
        report = json.loads((out / SUCCESS).read_bytes())
        parts = [part_from(values) for values in report["parts"]]
        if not isinstance(report["run"], dict):
            raise ValueError("expected options")
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedArtefact(out / SUCCESS, "cannot be read", cure="run the batch again") from error
    for part in parts:
        check_part(out, part)
    added = {file.name for file in out.iterdir()} - {part.file for part in parts} - {SUCCESS}
    if added:
        raise DamagedArtefact(out / min(added), "expected no such file", cure="run the batch again")
    return report
