"""What a rebuild changes in a recommender, told and bounded: a table with only what is new would empty the bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from indexes.manifest import check_file
from retrieval.bundle_files import open_bundle
from retrieval.data import IdMap, Interactions, Items
from retrieval.recommend import Recommender


@dataclass(frozen=True)
class Changes:
    """n_items, n_users: what there is now. n_embedded: items that are new or have another text. n_removed,
    n_users_removed: what there was before and is no more."""

    n_items: int
    n_embedded: int
    n_removed: int
    n_users: int
    n_users_removed: int

    def __str__(self) -> str:
        return (
            f"{self.n_items:,} items ({self.n_embedded:,} embedded, {self.n_removed:,} removed), "
            f"{self.n_users:,} users ({self.n_users_removed:,} removed)"
        )


def changes_of(old: Recommender, new: Recommender) -> Changes:
    """What is different in the new one."""
    text_of = dict(zip(old.item_ids.ids, old.model.catalogue.texts, strict=True))
    pairs = zip(new.item_ids.ids, new.model.catalogue.texts, strict=True)
    return Changes(
        n_items=len(new.item_ids),
        n_embedded=sum(text_of.get(item_id) != text for item_id, text in pairs),
        n_removed=len(_gone(old.item_ids, new.item_ids)),
        n_users=len(new.users),
        n_users_removed=len(_gone(old.users, new.users)),
    )


@dataclass(frozen=True)
class KnownIds:
    """Whom and what a bundle knows, without what it thinks of them."""

    item_ids: IdMap
    users: IdMap

    @classmethod
    def of(cls, bundle: Path) -> KnownIds:
        """Those of a bundle (its root takes the current version). Raises as `open_bundle` without verifying."""
        directory, manifest = open_bundle(bundle, verify=False)
        columns = []
        for name, column in (("items.parquet", "item_id"), ("users.parquet", "user_id")):
            check_file(directory / name, manifest.files[name])
            columns.append(pq.read_table(directory / name, columns=[column])[column].to_pylist())
        return cls(*map(IdMap.of, columns))


def require_kept(
    known: Recommender | KnownIds, items: Items, interactions: Interactions | None, *, max_removed: float
) -> None:
    """Refuse tables that leave out more than this share of the items or users that are known.

    Raises:
        ValueError: they do; what was left out is counted and named.
    """
    pairs = [("items", known.item_ids, items.ids)]
    if interactions is not None:
        pairs.append(("users", known.users, interactions.users))
    for what, before, now in pairs:
        gone = _gone(before, now)
        if what == "items" and len(gone) == len(before):
            continue  # another catalogue altogether, of which `replace_catalogue` says so
        if gone and len(gone) / len(before) > max_removed:  # as a share: .29 * 100 is below 29
            table = "--items" if what == "items" else "--interactions"
            raise ValueError(
                f"{table}: expected most of the bundle's {len(before):,} {what}, but {len(gone):,} are not in it (such "
                f"as {', '.join(map(repr, gone[:3]))}), and it takes the place of what the bundle has; give the whole "
                f"table, or --max-removed {_share(len(gone), len(before))} if they are to go"
            )


def _gone(before: IdMap, now: IdMap) -> list[str]:
    """The ids that are no more, in their order."""
    return before.ids[now.to_rows(before.ids, unknown="ignore") < 0].tolist()


def _share(part: int, whole: int) -> str:
    """The least two-digit share that allows it."""
    return f"{-(-100 * part // whole) / 100:g}"
