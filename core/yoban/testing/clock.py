"""Virtual time for tests: a loop whose clock moves only when everything waits, and a clock that reads it.

Guarantees: with `VirtualClockLoop`, `asyncio.sleep(3600)` takes no real time, timers fire in their order, and while a
thread works for the loop (`asyncio.to_thread`) or bytes are on their way on a socket of this process, time stands still.
Does not guarantee anything for processes outside: a test that waits for one belongs on a real loop.

Use it from a conftest::

    def pytest_asyncio_loop_factories(config, item):
        return {"virtual": VirtualClockLoop}
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import UTC, datetime, timedelta
from typing import Any

START = 1000.0  # time of a new loop
_GRACE = 0.0005  # real seconds given to bytes on loopback before time is moved on
_POLL = 0.02  # real seconds between looks while a thread works


class _VirtualSelector(selectors.BaseSelector):
    """A selector that reports ready files, and instead of waiting for none moves the loop's time on."""

    def __init__(self, real: selectors.BaseSelector) -> None:
        self._real = real
        self.time = 0.0
        self.threads = 0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Any:
        return self._real.get_map()

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.get_key(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:  # nothing is due ever: only a thread, a socket or a signal can go on
            return self._real.select(None)
        ready = self._real.select(0)
        if ready or timeout <= 0:
            return ready
        if self.threads:
            return self._real.select(_POLL)
        if len(self._real.get_map()) > 1:  # more than the loop's own wake-up pipe
            ready = self._real.select(_GRACE)
            if ready:
                return ready
        self.time += timeout
        return []


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` starts at `START` and advances only when nothing else can run."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector(selectors.DefaultSelector())
        self._virtual.time = START
        super().__init__(self._virtual)

    def time(self) -> float:
        """Virtual seconds."""
        return self._virtual.time

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """As asyncio's; time stands still until `func` has returned."""
        future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        self._virtual.threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: asyncio.Future[Any]) -> None:
        self._virtual.threads -= 1


class LoopClock:
    """A `Clock` that reads the running loop: on `VirtualClockLoop` all its times are virtual.

    Args:
        epoch: the wall time at loop time 0.
    """

    def __init__(self, epoch: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._epoch = epoch

    def monotonic(self) -> float:
        """The running loop's time in seconds; outside of one (a plain fixture) the time at which loops start."""
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return START

    def boottime(self) -> float:
        """As `monotonic`: a virtual machine is never suspended."""
        return self.monotonic()

    def now(self) -> datetime:
        """The epoch plus the loop's time."""
        return self._epoch + timedelta(seconds=self.monotonic())

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running loop."""
        await asyncio.sleep(max(0.0, seconds))
