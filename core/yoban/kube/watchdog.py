"""A thread that ends the process when nobody told it in time that all is well.

Guarantees: runs beside the event loop, so it also acts when the loop is blocked and could not cancel itself; reads the
boot-time clock, so time spent suspended counts. Does not clean up anything: that is the point.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from yoban.kube.clock import SystemClock

EXIT_CODE = 70
_LOOK = 1.0  # seconds; a suspended machine resumes timers late, so the clock is looked at this often


class Watchdog:
    """Calls `exit(code)` when a deadline passes that was not moved on or called off.

    Args:
        exit: `os._exit`, another in tests.
        boottime: the clock in seconds.
    """

    def __init__(self, exit: Callable[[int], object] = os._exit, boottime: Callable[[], float] | None = None) -> None:
        self._exit = exit
        self._boottime = boottime or SystemClock().boottime
        self._condition = threading.Condition()
        self._deadline: float | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def arm(self, deadline: float) -> None:
        """End the process at boot time `deadline`, unless told otherwise until then. Call again to move it on."""
        with self._condition:
            self._deadline = deadline
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="yoban-watchdog", daemon=True)
                self._thread.start()
            self._condition.notify()

    def disarm(self) -> None:
        """No deadline any more. May be called twice."""
        with self._condition:
            self._deadline = None
            self._condition.notify()

    def close(self) -> None:
        """Disarm and end the thread. May be called twice."""
        with self._condition:
            self._closed = True
            self._deadline = None
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _watch(self) -> None:
        with self._condition:
            while not self._closed:
                if self._deadline is None:
                    self._condition.wait()
                    continue
                left = self._deadline - self._boottime()
                if left <= 0:
                    self._deadline = None
                    self._exit(EXIT_CODE)
                    continue
                self._condition.wait(min(left, _LOOK))
