"""Work in threads that touches files.

Guarantees: when the caller is cancelled, `in_thread` returns only after the thread is done, so that nobody closes a file
under it. The work itself cannot be interrupted: hand over pieces of well below a second.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


def yielding(workers: int) -> ThreadPoolExecutor:
    """Return a pool whose threads give way to others on a busy machine: work ahead of a server that must not slow it.

    The caller shuts it down.
    """
    return ThreadPoolExecutor(workers, "yoban-yielding", _give_way)


def _give_way() -> None:
    # Linux keeps this for each thread, and asks no right for it; but for the way back, of a process that gives way more.
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, max(10, os.getpriority(os.PRIO_PROCESS, thread)))


async def in_thread(call: Callable[..., T], *args: object, pool: Executor | None = None) -> T:
    """Run `call(*args)` in a thread of `pool` (default: the loop's own) and return what it returns."""
    task = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(pool, copy_context().run, call, *args))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # it was nobody's: the cancellation is what the caller hears
        raise cancelled
    return task.result()
