"""The three tables everything else works on; a table that exists is valid."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from retrieval.data.columns import ITEM_TEXTS
from retrieval.data.ids import IdMap
from retrieval.data.report import ReadReport


@dataclass(frozen=True, eq=False)
class Items:
    """The catalogue."""

    ids: IdMap
    frame: pd.DataFrame
    """item_id, title, description, category, brand ("" where missing), then attributes; row i is item row i. A frame
    without some of these texts is completed; all texts are put into Unicode form NFC."""
    report: ReadReport = field(default_factory=ReadReport, repr=False)

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.frame):
            raise ValueError(f"expected one frame row per id, got {len(self.ids)} ids and {len(self.frame)} rows")
        object.__setattr__(self, "frame", _complete(self.frame))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def attributes(self) -> list[str]:
        """Columns beside item_id."""
        return [name for name in self.frame.columns if name != "item_id"]


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    """The item table with all text columns, "" where missing, and every text in Unicode form NFC.

    Models are told of categories and brands whether or not there are any, so that they go with every other item table.
    """
    if lacking := [name for name in ("item_id", "title") if name not in frame.columns]:
        held = ", ".join(map(str, frame.columns)) or "none"
        raise ValueError(f"items: expected the columns item_id and title, got {held}; add {' and '.join(lacking)}")
    complete = frame.copy(deep=False)
    for place, name in enumerate(ITEM_TEXTS, start=1):
        if name in frame.columns:
            complete[name] = frame[name].astype("str").fillna("")
        else:
            complete.insert(place, name, "")
    for place, (_, column) in enumerate(complete.items()):
        complete.isetitem(place, _in_nfc(column))
    return complete


def _in_nfc(column: pd.Series) -> pd.Series:
    """The texts of a column in Unicode form NFC, also those in lists; a column of something else as it is."""
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind == "categorical":
        plain = column.astype(object)
        return column if (normal := _in_nfc(plain)) is plain else normal
    if kind == "mixed":
        cells = [_list_in_nfc(cell) for cell in column]
        return pd.Series(cells, column.index, dtype=object)
    return column.str.normalize("NFC") if kind == "string" and not column.str.isascii().all() else column


def _list_in_nfc(cell: object) -> object:
    """A list with its texts in Unicode form NFC; a cell of something else, or of plain letters alone, as it is."""
    if not isinstance(cell, list | tuple | np.ndarray) or all(
        not isinstance(one, str) or one.isascii() for one in cell
    ):
        return cell
    return [unicodedata.normalize("NFC", one) if isinstance(one, str) else one for one in cell]


@dataclass(frozen=True, eq=False)
class Users:
    """What is known of users beside their history; optional."""

    ids: IdMap
    frame: pd.DataFrame
    """user_id, segment, profile ("" where missing), then attributes; row i is row i of `ids`, not of Interactions."""
    report: ReadReport = field(default_factory=ReadReport, repr=False)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Impressions:
    """Items shown without an interaction: negatives. Sorted by user, then time, then input order."""

    user_rows: np.ndarray
    """int32 (n,)."""
    item_rows: np.ndarray
    """int32 (n,)."""
    times: np.ndarray
    """float64 (n,)."""

    @classmethod
    def of(cls, user_rows: np.ndarray, item_rows: np.ndarray, times: np.ndarray) -> "Impressions":
        """Sorts the rows and drops exact repeats."""
        order = _order(user_rows, times, item_rows)[0]
        return cls(
            user_rows[order].astype(np.int32), item_rows[order].astype(np.int32), times[order].astype(np.float64)
        )

    def __len__(self) -> int:
        return len(self.user_rows)

    def take(self, places: np.ndarray) -> "Impressions":
        """Keeps the rows of a mask or of rising positions."""
        return Impressions(self.user_rows[places], self.item_rows[places], self.times[places])


def _no_impressions() -> Impressions:
    return Impressions(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float64))


@dataclass(frozen=True, eq=False)
class Interactions:
    """Who did something with what, when. Sorted by user row, then time, then input order, so a history is one slice.

    Build it with `Interactions.of`; the plain constructor trusts the order of its arguments.
    """

    users: IdMap
    items: IdMap
    user_rows: np.ndarray
    """int32 (n,)."""
    item_rows: np.ndarray
    """int32 (n,)."""
    times: np.ndarray
    """float64 (n,), Unix seconds or positions, see `time_kind`."""
    weights: np.ndarray
    """float32 (n,), event weight times row weight, above 0."""
    labels: np.ndarray
    """float32 (n,): 1, or NaN where the data has no label. Rows with label 0 are in `negatives`, never here."""
    ratings: np.ndarray
    """float32 (n,), NaN for none."""
    event_codes: np.ndarray
    """int16 (n,), places in `event_names`, -1 for none."""
    event_names: tuple[str, ...] = ()
    negatives: Impressions = field(default_factory=_no_impressions)
    time_kind: str = "seconds"
    """"seconds" or "positions"."""
    report: ReadReport = field(default_factory=ReadReport, repr=False)

    @classmethod
    def of(
        cls,
        users: IdMap,
        items: IdMap,
        user_rows: np.ndarray | Sequence[int],
        item_rows: np.ndarray | Sequence[int],
        times: np.ndarray | Sequence[float],
        *,
        weights: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        ratings: np.ndarray | None = None,
        event_codes: np.ndarray | None = None,
        event_names: tuple[str, ...] = (),
        negatives: Impressions | None = None,
        time_kind: str = "seconds",
    ) -> "Interactions":
        """Sorts rows given in input order and drops exact repeats (same user, item, time and event; the first stays).

        Raises:
            ValueError: arrays of different lengths, or a row outside `users` or `items`.
        """
        user_rows, item_rows = np.asarray(user_rows, np.int32), np.asarray(item_rows, np.int32)
        times = np.asarray(times, np.float64)
        n_rows = len(user_rows)
        arrays = [item_rows, times, *(a for a in (weights, labels, ratings, event_codes) if a is not None)]
        if any(len(array) != n_rows for array in arrays):
            raise ValueError(f"expected arrays of {n_rows} rows, got {[len(array) for array in arrays]}")
        for name, rows, size in (("user", user_rows, len(users)), ("item", item_rows, len(items))):
            if n_rows and (rows.min() < 0 or rows.max() >= size):
                raise ValueError(f"expected {name} rows 0..{size - 1}, got {int(rows.min())}..{int(rows.max())}")
        order, _ = _order(user_rows, times, item_rows, event_codes)
        none = np.full(n_rows, np.nan, np.float32)
        return cls(
            users=users,
            items=items,
            user_rows=user_rows[order],
            item_rows=item_rows[order],
            times=times[order],
            weights=(np.ones(n_rows, np.float32) if weights is None else np.asarray(weights, np.float32))[order],
            labels=(none if labels is None else np.asarray(labels, np.float32))[order],
            ratings=(none if ratings is None else np.asarray(ratings, np.float32))[order],
            event_codes=(np.full(n_rows, -1, np.int16) if event_codes is None else np.asarray(event_codes, np.int16))[
                order
            ],
            event_names=event_names,
            negatives=negatives if negatives is not None else _no_impressions(),
            time_kind=time_kind,
        )

    def __len__(self) -> int:
        return len(self.user_rows)

    @property
    def n_users(self) -> int:
        """Users in the map; some may have no interaction, after a split."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Items in the map; some may have no interaction."""
        return len(self.items)

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 (n_users + 1,): the interactions of user row u are offsets[u] up to offsets[u + 1]."""
        counts = np.bincount(self.user_rows, minlength=self.n_users)
        return np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))

    def require_items(self, ids: IdMap) -> None:
        """Raises ValueError unless the item rows are rows of this map: over another one they are other items."""
        if self.items == ids:
            return
        both = zip(self.items.ids.tolist(), ids.ids.tolist(), strict=False)
        row = next((row for row, (own, other) in enumerate(both) if own != other), min(len(self.items), len(ids)))
        here, there = ("nothing" if row >= len(found) else repr(found.ids[row]) for found in (ids, self.items))
        raise ValueError(
            f"interactions: expected item rows of the item table, where row {row} is {here}, got those of another one, "
            f"where it is {there}; make them over this table's ids"
        )

    def history(self, user_row: int) -> np.ndarray:
        """Gives the item rows of one user, int32, oldest first; a view. Repeat purchases stay."""
        return self.item_rows[self.offsets[user_row] : self.offsets[user_row + 1]]

    def item_counts(self) -> np.ndarray:
        """Gives the number of interactions per item, int64 (n_items,)."""
        return np.bincount(self.item_rows, minlength=self.n_items).astype(np.int64)

    def take(self, places: np.ndarray, *, negatives: Impressions | None = None) -> "Interactions":
        """Keeps the rows of a mask, or of strictly rising positions; users and items keep their rows.

        Args:
            negatives: the impressions to keep; all of them by default.

        Raises:
            ValueError: positions that do not rise, which would break the order.
        """
        places = np.asarray(places)
        if places.dtype == bool:
            places = np.flatnonzero(places)
        elif len(places) > 1 and (np.diff(places) <= 0).any():
            raise ValueError("expected strictly rising positions, got others; sort them first")
        per_row = ("user_rows", "item_rows", "times", "weights", "labels", "ratings", "event_codes")
        kept = {name: getattr(self, name)[places] for name in per_row}
        return replace(self, **kept, negatives=self.negatives if negatives is None else negatives)

    def to_frame(self) -> pd.DataFrame:
        """Gives user_id, item_id, timestamp, weight with outside ids, in table order; for people, not for loops."""
        return pd.DataFrame(
            {
                "user_id": self.users.ids[self.user_rows],
                "item_id": self.items.ids[self.item_rows],
                "timestamp": self.times,
                "weight": self.weights,
            }
        )


def _order(
    user_rows: np.ndarray, times: np.ndarray, item_rows: np.ndarray, event_codes: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
    """Returns positions int64 sorted by user, time, input order without exact repeats, and how many those were."""
    order = np.lexsort((times, user_rows))  # stable
    users, moments = user_rows[order], times[order]
    tied = np.zeros(len(order), bool)
    if len(order) > 1:
        same = (users[1:] == users[:-1]) & (moments[1:] == moments[:-1])
        tied[1:] |= same
        tied[:-1] |= same
    places = np.flatnonzero(tied)  # only rows that share user and time can be repeats, and they are few
    if not len(places):
        return order, 0
    tie_items = item_rows[order[places]]
    tie_events = np.zeros(len(places), np.int16) if event_codes is None else event_codes[order[places]]
    by_key = np.lexsort((tie_events, tie_items, moments[places], users[places]))
    keys = (users[places][by_key], moments[places][by_key], tie_items[by_key], tie_events[by_key])
    repeat = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
    doomed = places[by_key[1:][repeat]]
    keep = np.ones(len(order), bool)
    keep[doomed] = False
    return order[keep], len(doomed)
