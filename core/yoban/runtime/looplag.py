"""Notices a blocked event loop.

Guarantees: every turn of the loop that took longer than `SHOWN` is in the metric, and one above `warn` seconds in the log;
costs two looks at the clock for a turn, and nothing while the loop rests: there is no timer. Does not say who blocked.

A turn lasts from the moment when the loop stops waiting for its selector until it waits again: what comes due meanwhile is
late by what is left of it. On a loop without a selector, which is not asyncio's own, a timer is looked at each second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from yoban.kube.metrics import meter

log = logging.getLogger(__name__)

SHOWN = 0.02
"""Seconds."""

_lag = meter.create_histogram("yoban.loop.lag", "s", "Turns of the event loop that took longer than 20 ms")
Listener = Callable[[float], None]


class LoopLag:
    """Measures how late the loop may be.

    Args:
        warn: seconds above which a turn is logged.
        tick: seconds between two looks where the loop has no selector.
    """

    name = "loop lag"

    def __init__(self, warn: float = 0.5, tick: float = 1.0) -> None:
        self._warn = warn
        self._tick = tick
        self.worst = 0.0
        """The longest turn so far, in seconds."""

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        selector = getattr(loop, "_selector", None)
        if selector is None:
            await self._look(loop)
            return
        turns = getattr(selector.select, "__self__", None)
        if not isinstance(turns, _Turns):
            turns = _Turns(loop.time, selector.select)
            selector.select = turns.select
        turns.listeners.append(self._turn)
        try:
            await loop.create_future()
        finally:
            turns.listeners.remove(self._turn)

    def _turn(self, seconds: float) -> None:
        self.worst = max(self.worst, seconds)
        if seconds > SHOWN:
            _lag.record(seconds)
            if seconds > self._warn:
                log.warning("the event loop was blocked for %.2f s", seconds)

    async def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            due = loop.time() + self._tick
            await asyncio.sleep(self._tick)
            self._turn(max(0.0, loop.time() - due))


class _Turns:
    """Tells how long each turn of a loop took: between two calls of its selector. One for each loop, as long as it lives."""

    def __init__(self, clock: Callable[[], float], select: Callable[[float | None], Any]) -> None:
        self.listeners: list[Listener] = []
        self._clock = clock
        self._select = select
        self._woke = clock()

    def select(self, timeout: float | None = None) -> Any:
        """Takes the place of the selector's own."""
        took = self._clock() - self._woke
        if took > SHOWN:
            for listener in self.listeners:
                listener(took)
        found = self._select(timeout)
        self._woke = self._clock()
        return found
