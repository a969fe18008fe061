"""Notices a blocked event loop.

Guarantees: a block longer than a tick shows in the metric, and one above `warn` seconds in the log. Does not say who blocked.
"""

from __future__ import annotations

import asyncio
import logging

from yoban.kube.metrics import meter

log = logging.getLogger(__name__)

_lag = meter.create_histogram("yoban.loop.lag", "s", "How late the event loop wakes up")


class LoopLag:
    """Measures how late the loop wakes up.

    Args:
        tick: seconds between measures.
        warn: seconds of lag above which it is logged.
    """

    name = "loop lag"

    def __init__(self, tick: float = 1.0, warn: float = 0.5) -> None:
        self._tick = tick
        self._warn = warn
        self.worst = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._tick
            await asyncio.sleep(self._tick)
            lag = max(0.0, loop.time() - due)
            self.worst = max(self.worst, lag)
            _lag.record(lag)
            if lag > self._warn:
                log.warning("the event loop was blocked for %.2f s", lag)
