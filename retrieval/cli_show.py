"""What the serving verbs print: tables for a person, one JSON document for a program."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.terminal import printable, render_json, render_table

if TYPE_CHECKING:
    from retrieval.recommend import Recommender
    from retrieval.results import Recommendation, RecommendationList

_HISTORY_SHOWN = 5
_IGNORED_SHOWN = 5
# The bundle's own figure is there after every fit; that of an evaluation only where one was made.
_FIGURES = {"validation_ndcg@10": "validation ndcg@10", "ndcg@10": "test ndcg@10"}
_RIGHT = ("rank", "score", "recall", "rerank")


def show_list(
    recommender: Recommender,
    found: RecommendationList,
    *,
    as_json: bool = False,
    explain: bool = False,
    history: Sequence[str] | None = None,
    to_item: str | None = None,
) -> None:
    """Print a list, best first, with whom it is for above it and what was not as asked below."""
    if as_json:
        version = Path(str(recommender.facts.get("directory", ""))).name
        document = {
            "bundle_version": version,
            "user_id": found.user_id,
            "note": found.note,
            "ignored_history": found.ignored_history,
            "ignored_ids": found.ignored_ids,
            "items": [{name: _plain(value) for name, value in asdict(item).items()} for item in found],
        }
        print(render_json(document))
        return
    for line in _heading(recommender, found, history, to_item):
        print(line)
    header, rows = _rows(found.items, explain=explain)
    if rows:
        print(render_table(header, rows, right=_RIGHT))
    for line in _remarks(found):
        print(line)


def _heading(
    recommender: Recommender, found: RecommendationList, history: Sequence[str] | None, to_item: str | None
) -> list[str]:
    """For whom the list is, and the titles of what they took last."""
    catalogue = recommender.model.catalogue
    if to_item is not None:
        row = int(recommender.item_ids.to_rows([to_item])[0])
        return [printable(f"like {catalogue.titles[row]} ({to_item})"), ""]
    if history is not None:
        rows = recommender.item_ids.to_rows(list(history), unknown="ignore")
        rows = rows[rows >= 0]
    elif found.user_id is not None and found.user_id in recommender.users:
        rows = recommender.histories[int(recommender.users.to_rows([found.user_id])[0])]
    else:
        rows = []
    who = f"user {found.user_id}" if found.user_id is not None else "history"
    newest = [catalogue.titles[row] for row in rows[::-1][:_HISTORY_SHOWN]]
    if not newest:
        return []
    return [printable(f"{who}: {len(rows):,} items, the newest: {'; '.join(newest)}"), ""]


def _rows(items: Sequence[Recommendation], *, explain: bool) -> tuple[list[str], list[list[str]]]:
    has_reasons = any(item.reasons for item in items)
    header = ["rank", "score", "item_id", "title"]
    header += ["recall", "rerank"] * explain + ["why" if explain else "found by"] * has_reasons
    rows = []
    for item in items:
        row = [str(item.rank), _score(item.score), item.item_id, item.title]
        if explain:
            row += [_number(item.recall_score), _number(item.rerank_score)]
        if has_reasons:
            row.append(("; " if explain else ", ").join(item.reasons))
        rows.append(row)
    return header, rows


def _remarks(found: RecommendationList) -> list[str]:
    lines = []
    if found.note:
        lines.append(f"note: {found.note}")
    if ignored := found.ignored_ids:
        named = ", ".join(one[:60] for one in ignored[:_IGNORED_SHOWN]) + ", ..." * (len(ignored) > _IGNORED_SHOWN)
        lines.append(
            f"note: {len(ignored)} items of the history are not in the catalogue and were left out: {named} "
            "(ids are text: 1 is not 01)"
        )
    return [printable(line) for line in lines]


def _score(value: float) -> str:
    """Four places, or two digits of a probability too small for them."""
    return f"{value:.1e}" if 0 < abs(value) < 1e-4 else f"{value:.4f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _plain(value: Any) -> Any:
    """A JSON value; NaN and infinities, which JSON lacks, become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return list(value) if isinstance(value, tuple) else value


def show_batch(report: Mapping[str, Any], out: Path, *, as_json: bool) -> None:
    """Print what a batch run did."""
    if as_json:
        print(render_json({"out": str(out), **report}))
        return
    seconds = max(report["seconds"], 1e-9)
    print(f"{out}: {report['n_users']:,} users, {report['n_rows']:,} rows, {len(report['parts']):,} parts")
    if report["n_computed"]:
        pace = report["n_computed"] / seconds
        print(f"computed {report['n_computed']:,} users in {seconds:.1f} s ({pace:,.1f} users/s)")
    if report["n_unknown"]:
        print(f"note: {report['n_unknown']:,} users without a known history got the popular list")
    if report.get("n_ignored"):  # an earlier version counted neither these nor the next
        print(f"note: {report['n_ignored']:,} items of histories are not in the catalogue and were left out")
    if report.get("n_cold"):
        print(f"note: {report['n_cold']:,} users without any item in the catalogue got the popular list")
    if report["n_empty"]:
        print(f"note: {report['n_empty']:,} users have no list; is the filter too narrow?")
    for reason, count in report["rejected"].items():
        print(printable(f"note: refused {count:,} rows: {reason}"))


def show_facts(facts: Mapping[str, Any], *, as_json: bool, seconds: float) -> None:
    """Print that a bundle is intact, and what its manifest says of it."""
    if as_json:
        print(render_json({"intact": True, **facts}))
        return
    print(printable(f"{facts['directory']}: intact, {facts['n_files']} files ({seconds:.1f} s)"))
    for name, value in facts.items():
        if name not in ("directory", "n_files", "kind") and value is not None:
            print(printable(f"  {name}: {_fact(value)}"))


def show_damage(bundle: Path, what: str) -> None:
    """Print as JSON that a bundle is not intact, and why."""
    print(render_json({"intact": False, "bundle": str(bundle), "error": what}))


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(part)}" for name, part in value.items())
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def show_versions(bundle: Path, *, as_json: bool) -> None:
    """Print the versions below a root and which one is current.

    Raises:
        FileNotFoundError: no version was ever published there.
    """
    from indexes import DamagedArtefact, list_versions, read_manifest, resolve

    current = resolve(bundle).resolve()
    rows = []
    for version in list_versions(bundle) or [current]:
        is_current = version.resolve() == current
        try:
            facts = read_manifest(version).facts
            figures = facts.get("figures")
            known = {"n_items": facts.get("n_items"), "n_users": facts.get("n_users")}
            known |= {name: figures.get(name) if isinstance(figures, dict) else None for name in _FIGURES}
        except DamagedArtefact as error:
            known = {"damaged": str(error)}
        rows.append({"version": version.name, "current": is_current, **known})
    if as_json:
        print(render_json({"versions": rows}))
        return
    figures = {name: title for name, title in _FIGURES.items() if any(row.get(name) is not None for row in rows)}
    header = ["", "version", "items", "users", *figures.values()]
    cells = [
        [
            "*" if row["current"] else "",
            row["version"],
            *([_fact(row["n_items"]), _fact(row["n_users"])] if "n_items" in row else ["damaged", ""]),
            *("" if row.get(name) is None else f"{row[name]:.4f}" for name in figures),
        ]
        for row in rows
    ]
    print(render_table(header, cells, right=("items", "users", *figures.values())))
