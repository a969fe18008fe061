"""Tell waiters that something changed: a counter that tasks wait on.

Guarantees: a change between looking and waiting is not missed, because one waits for a number greater than the one seen.
Changes may be joined: ten rings may wake a waiter once.
"""

from __future__ import annotations

import asyncio


class Notice:
    """A counter of changes. Used on one event loop only."""

    def __init__(self) -> None:
        self.serial = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Count a change and wake all waiters."""
        self.serial += 1
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def wait(self, after: int, timeout: float) -> int:
        """Return the counter as soon as it is greater than `after`, or after `timeout` seconds whatever it is."""
        if self.serial > after:
            return self.serial
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait({future}, timeout=timeout)
        finally:
            self._waiting.discard(future)
            future.cancel()
        return self.serial
