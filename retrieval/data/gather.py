"""Chunks of interactions become arrays of rows, times and weights, and at the end one sorted Interactions."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from retrieval.data import arrow
from retrieval.data.catalogue import IdTypes, encode_ids
from retrieval.data.chunks import Chunk
from retrieval.data.events import EventReader
from retrieval.data.ids import IdEncoder, IdMap
from retrieval.data.rejects import RejectLog, RowFaults
from retrieval.data.tables import Impressions, Interactions, Items
from retrieval.data.times import TimeReader, TimeUnit
from retrieval.data.values import read_numbers

_TYPES = {
    "user_rows": np.int32,
    "item_rows": np.int32,
    "times": np.float64,
    "weights": np.float32,
    "labels": np.float32,
    "ratings": np.float32,
    "event_codes": np.int16,
}


class InteractionBuilder:
    """Takes chunks, keeps their good rows as small arrays. See `read_interactions` for the arguments."""

    def __init__(
        self, items: Items | IdMap | None, events: Mapping[str, float] | None, time_unit: TimeUnit, unlabelled: str
    ) -> None:
        self._items = items.ids if isinstance(items, Items) else items
        self._item_report = items.report if isinstance(items, Items) else None
        self._item_encoder, self._user_encoder = IdEncoder(self._items), IdEncoder()
        self._events, self._times = EventReader(events), TimeReader(time_unit)
        self._keeps_unlabelled = unlabelled == "keep"
        self._has_labels, self._has_events, self._wants_events = False, False, events is not None
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in _TYPES}
        self.id_types = IdTypes()
        self.n_kept = 0
        """Good rows so far, exact repeats included."""

    def add(self, chunk: Chunk, log: RejectLog) -> None:
        """Checks one chunk and keeps its good rows."""
        faults = RowFaults(len(chunk))
        values: dict[str, np.ndarray] = {}
        for name, encoder in (("user_id", self._user_encoder), ("item_id", self._item_encoder)):
            self.id_types.note(chunk, name)
            values[name.replace("_id", "_rows")] = encode_ids(encoder, chunk, name, faults)
        column = chunk.columns.get("timestamp", pa.nulls(len(chunk), pa.string()))
        values["times"], found = self._times.read(column, where=str(chunk.file))
        for mask, reason in found:
            faults.mark(mask, f"timestamp {reason}")
        values["weights"], values["event_codes"] = self._read_weights(chunk, faults)
        values["labels"] = self._read_labels(chunk, faults)
        values["ratings"] = self._read_ratings(chunk, faults)
        impression = np.isnan(values["labels"]) & (values["weights"] == 0)
        values["labels"] = np.where(impression, 0, values["labels"])
        # A row labelled 1 is an interaction whatever its event; it must not weigh nothing.
        values["weights"] = np.where((values["weights"] == 0) & (values["labels"] == 1), 1, values["weights"])
        log.add(str(chunk.file), chunk.rows, faults, chunk.columns)
        good = faults.good
        self.n_kept += int(good.sum())
        for name, kind in _TYPES.items():
            self._parts[name].append(values[name][good].astype(kind))

    def _read_weights(self, chunk: Chunk, faults: RowFaults) -> tuple[np.ndarray, np.ndarray]:
        """Row weight times event weight float32, and event codes int16."""
        weights, codes = np.ones(len(chunk), np.float32), np.full(len(chunk), -1, np.int16)
        if (column := chunk.columns.get("event")) is not None:
            self._has_events = True
            try:
                codes, weights, found = self._events.read(column)
            except TypeError as error:
                raise ValueError(f"{chunk.file}: column 'event': expected text, found {error}") from None
            for mask, reason in found:
                faults.mark(mask, f"event {reason}")
        if (column := chunk.columns.get("weight")) is not None:
            numbers = read_numbers(column)
            faults.mark(numbers.missing, "weight is missing")
            faults.mark(numbers.wrong, "weight is no finite number")
            with np.errstate(invalid="ignore", over="ignore"):
                small = numbers.values.astype(np.float32)
                faults.mark(~(small > 0) & ~numbers.missing & ~numbers.wrong, "weight is not above 0")
                faults.mark(np.isinf(small * weights), "weight is no finite number")
                weights = np.where(np.isfinite(small), small * weights, weights).astype(np.float32)
        return weights, codes

    def _read_labels(self, chunk: Chunk, faults: RowFaults) -> np.ndarray:
        """1, 0 or NaN; float64."""
        column = chunk.columns.get("label")
        if column is None:
            return np.full(len(chunk), np.nan)
        self._has_labels = True
        if not isinstance(column, list) and arrow.is_text(column.type):
            column = arrow.spelled_out(column, {"true": "1", "false": "0"})
        numbers = read_numbers(column)
        if not self._keeps_unlabelled:
            faults.mark(numbers.missing, "label is missing")
        faults.mark(numbers.wrong, "label is no number")
        faults.mark(np.isfinite(numbers.values) & ~np.isin(numbers.values, (0, 1)), "label is neither 1 nor 0")
        return numbers.values

    def _read_ratings(self, chunk: Chunk, faults: RowFaults) -> np.ndarray:
        column = chunk.columns.get("rating")
        if column is None:
            return np.full(len(chunk), np.nan, np.float32)
        numbers = read_numbers(column)
        faults.mark(numbers.wrong, "rating is no finite number")
        return numbers.values

    def warnings(self) -> list[str]:
        """What a person should know about ids and times."""
        lines = [*self.id_types.warnings(), *self._times.warnings()]
        ours = self.id_types.by_column().get("item_id")
        theirs = self._item_report.id_types.get("item_id") if self._item_report else None
        if ours and theirs and ours != theirs:
            lines.append(
                f"item_id is {ours} here and {theirs} in the item table; compared as text, so 1 and '1' are one id"
            )
        return lines

    def finish(self, source: str) -> Interactions:
        """Gives the table, sorted and without exact repeats.

        Raises:
            ValueError: the data has labels and they are all equal, or weights of events were given and it has none.
        """
        if self._wants_events and not self._has_events:
            raise ValueError(
                f"{source}: expected a column event, since events are weighed (--event), found none; "
                "leave --event out, or say which column it is: --map interactions.event=COLUMN"
            )
        # One column at a time, its chunks let go at once: two copies of everything would double the peak.
        arrays = {name: np.concatenate(self._parts.pop(name)) for name in _TYPES}
        arrays["times"] = self._times.settled(arrays["times"])
        self._check_labels(arrays["labels"], source)
        users = self._keep_used_users(arrays)
        items = self._items if self._items is not None else self._item_encoder.to_map()
        shown = arrays["labels"] == 0
        negatives = None
        if shown.any():
            negatives = Impressions.of(*(arrays[name][shown] for name in ("user_rows", "item_rows", "times")))
            arrays = {name: array[~shown] for name, array in arrays.items()}
        n_shown = int(shown.sum())
        if not len(arrays["times"]):
            raise ValueError(f"{source}: expected interactions, got only {n_shown} impressions without one")
        return Interactions.of(
            users,
            items,
            arrays.pop("user_rows"),
            arrays.pop("item_rows"),
            arrays.pop("times"),
            **arrays,
            event_names=self._events.names,
            negatives=negatives,
            time_kind=self._times.kind,
        )

    def _check_labels(self, labels: np.ndarray, source: str) -> None:
        if not self._has_labels:
            return
        n_ones, n_zeros = int((labels == 1).sum()), int((labels == 0).sum())
        if n_ones == 0 or n_zeros == 0:
            raise ValueError(
                f"{source}: expected labels of both kinds, got {n_ones} of 1 and {n_zeros} of 0; if every row is an "
                "interaction, leave the column unread: --map label= (a column map with an empty name)"
            )

    def _keep_used_users(self, arrays: dict[str, np.ndarray]) -> IdMap:
        """Renumbers users so that those whose rows were all refused have no row."""
        used = np.bincount(arrays["user_rows"], minlength=len(self._user_encoder)) > 0
        if used.all():
            return self._user_encoder.to_map()
        arrays["user_rows"] = (np.cumsum(used) - 1).astype(np.int32)[arrays["user_rows"]]
        return self._user_encoder.to_map(np.flatnonzero(used))
