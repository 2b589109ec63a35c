"""What kinds of event are worth: a map from event name to weight; weight 0 is an impression nobody acted on."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from retrieval.data import arrow
from retrieval.data.rejects import NOT_COUNTING
from retrieval.data.values import plain_text

DEFAULT_EVENTS: Mapping[str, float] = MappingProxyType({"impression": 0.0, "exposure": 0.0})
"""Used when no map is given: these are never part of a history, every other event has weight 1."""


class EventReader:
    """Turns event columns into codes and weights, chunk by chunk; event names are compared without case and spaces.

    Args:
        weights: event -> weight; an event it lacks is a fault. None: DEFAULT_EVENTS, and weight 1 for all others.
    """

    def __init__(self, weights: Mapping[str, float] | None) -> None:
        for event, weight in (weights or {}).items():
            if not np.isfinite(weight) or weight < 0:
                raise ValueError(f"expected event weights of 0 or more, got {event}={weight!r}")
        given = DEFAULT_EVENTS if weights is None else weights
        self._weights = {event.strip().lower(): float(weight) for event, weight in given.items()}
        self._takes_all = weights is None
        self._codes: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Event names by code."""
        return tuple(self._codes)

    def read(self, column: pa.Array | list) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, str]]]:
        """Returns codes int16 (n,) (-1: no event), weights float32 (n,), and (mask, what is wrong) for every fault.

        Raises:
            TypeError: a column of lists or objects; the caller knows its name.
        """
        texts = pa.array(map(plain_text, column), pa.string()) if isinstance(column, list) else column
        if pa.types.is_nested(texts.type):
            raise TypeError(str(texts.type))
        names, places = arrow.encoded(arrow.lowered(arrow.trimmed(texts)))
        codes, weights, faults = np.full(len(names) + 1, -1, np.int16), np.ones(len(names) + 1, np.float32), []
        for place, name in enumerate(names):
            weight = self._weights.get(name, 1.0 if self._takes_all else None)
            if name and weight is None:
                faults.append((places == place, f"{name[:40]!r} {NOT_COUNTING}"))
            elif name:
                weights[place] = weight
                codes[place] = self._code(name)
        if not self._takes_all:
            empty = codes[places] < 0
            for mask, _ in faults:
                empty &= ~mask
            faults += [(empty, "is missing")] if empty.any() else []
        return codes[places], weights[places], faults

    def _code(self, name: str) -> int:
        if name not in self._codes and len(self._codes) >= 1000:
            raise ValueError(
                "expected a few kinds of event, got more than 1,000; is `event` mapped to the right column?"
            )
        return self._codes.setdefault(name, len(self._codes))
