"""Figures of the process itself, read from /proc when somebody asks: memory, CPU, files, start.

Guarantees the names that Prometheus users know. On systems without /proc it says nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from opentelemetry.metrics import CallbackOptions, Meter, Observation

_PROC = Path("/proc/self")


def observe(meter: Meter) -> None:
    """Add the process's gauges to `meter`. Called once a process."""
    meter.create_observable_gauge(
        "process.resident_memory", [_single(resident_bytes)], unit="By", description="Resident memory."
    )
    meter.create_observable_counter(
        "process.cpu", [_single(time.process_time)], unit="s", description="CPU time used, user and system."
    )
    meter.create_observable_gauge("process.open_fds", [_single(open_files)], description="Open file descriptors.")
    started = time.time()
    meter.create_observable_gauge(
        "process.start_time", [_single(lambda: started)], unit="s", description="Start, in seconds since the epoch."
    )


def resident_bytes() -> float | None:
    """Return resident memory in bytes, None where /proc does not tell."""
    try:
        pages = int((_PROC / "statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files() -> float | None:
    """Return the number of open file descriptors, None where /proc does not tell."""
    try:
        return sum(1 for _ in (_PROC / "fd").iterdir())
    except OSError:
        return None


def _single(read: Callable[[], float | None]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        value = read()
        return [] if value is None else [Observation(value)]

    return observe
