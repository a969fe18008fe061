"""Time as an argument: what reads a clock or sleeps in this package takes a `Clock`.

Guarantees: `monotonic` and `boottime` never go back; `boottime` also counts while the machine is suspended, so a deadline
that fences must use it. Does not guarantee that `now` is right: wall time is for people and for records, never for
decisions.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of time in seconds. Implementations are shared and may be called from any thread but for `sleep`."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back, may stand still while the machine is suspended."""
        ...

    def boottime(self) -> float:
        """Seconds since boot, time spent suspended included."""
        ...

    def now(self) -> datetime:
        """The wall time, aware, in UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; a negative value is zero."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        """CLOCK_MONOTONIC in seconds, as the running loop reads it: a test's loop may have a time of its own."""
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return time.monotonic()

    def boottime(self) -> float:
        """CLOCK_BOOTTIME in seconds, where the kernel has it; CLOCK_MONOTONIC elsewhere."""
        clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        return time.clock_gettime(clock)

    def now(self) -> datetime:
        """The wall time in UTC."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running loop."""
        await asyncio.sleep(max(0.0, seconds))


def rfc3339_micro(moment: datetime) -> str:
    """`moment` as Kubernetes' MicroTime (`2026-01-02T03:04:05.000006Z`), always in UTC.

    Raises ValueError for a naive time, which would be written as a lie.
    """
    if moment.tzinfo is None:
        raise ValueError("a naive time has no meaning in a record; pass an aware one")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def rfc3339(moment: datetime) -> str:
    """`moment` as Kubernetes' Time (whole seconds, `2026-01-02T03:04:05Z`), always in UTC; ValueError for a naive time."""
    if moment.tzinfo is None:
        raise ValueError("a naive time has no meaning in a record; pass an aware one")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_rfc3339(text: str) -> datetime:
    """The aware time that `text` (RFC 3339, as the API server writes it) means; ValueError for anything else."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no offset")
    return moment.astimezone(UTC)
