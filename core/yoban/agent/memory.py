"""Gives memory back to the machine.

A segment or a chunk of a backup is worked on in buffers of some MiB. The C library is told (`AGENT_MEMORY` of the
supervisor) to keep what was freed of them at hand, since taking each anew from the machine costs more than compressing it.
So an agent that has become idle would keep it for ever; here it is returned now and then.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

from yoban.kube.clock import Clock

EVERY = 10.0
"""Seconds between two returns. One takes some milliseconds, in a thread."""


async def give_back(clock: Clock) -> None:
    """Return unused memory for ever; ends at once where the C library has no way to do it."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await clock.sleep(EVERY)
        await asyncio.to_thread(trim, 0)
