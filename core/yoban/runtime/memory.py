"""How the process keeps and returns memory.

Buffers of some MiB come and go (segments, chunks of a backup, answers of the API server). Taken from the kernel each time,
their fresh pages cost more than compressing what is in them; kept by each thread for itself, they make the process large.
So threads share one heap, what is freed stays at hand, and what is too much goes back now and then.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import linecache
import time

ARENA_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD = -8, -3, -1
"""Numbers of glibc's `mallopt`."""
LARGEST_OF_HEAP = 32 << 20
KEPT = 64 << 20
"""Bytes: the largest buffer that is made of what was freed, and what is kept at hand between two returns."""
EVERY = 10.0
"""Seconds between two returns. One takes some milliseconds, in a thread."""
BUSY = 0.05
"""Seconds of processor time: who used less since the last return has freed nothing worth another."""


def share_heap() -> None:
    """Set up the C library. Before threads are started; does nothing where it is not glibc. May be called again."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(ARENA_MAX, 1)
        library.mallopt(MMAP_THRESHOLD, LARGEST_OF_HEAP)
        library.mallopt(TRIM_THRESHOLD, KEPT)


def settle() -> None:
    """Call it once everything is loaded: that stays, the collector need not look at it again. May be called again."""
    linecache.clearcache()  # sources that were read for descriptions in them
    gc.collect()
    gc.freeze()


class Memory:
    """Returns unused memory to the machine.

    Args:
        every: seconds between two returns.
    """

    name = "memory"

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        self._library = ctypes.CDLL(None)

    async def run(self) -> None:
        """Return it until cancelled; ends at once where the C library is not glibc."""
        returned = float("-inf")
        while hasattr(self._library, "malloc_trim"):
            await asyncio.sleep(self._every)
            if time.process_time() - returned >= BUSY:
                await asyncio.to_thread(self._library.malloc_trim, 0)
                returned = time.process_time()
