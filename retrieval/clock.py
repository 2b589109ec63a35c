"""What a fit is doing and how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager

Say = Callable[[str], None]


class Clock:
    """Wall seconds per named step, said as they begin."""

    def __init__(self, say: Say) -> None:
        self.seconds: dict[str, float] = {}
        self.say = say

    @contextmanager
    def step(self, name: str, what: str):
        """Time a block under a name; several blocks of one name add up."""
        self.say(what)
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
