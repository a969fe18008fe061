"""Work in threads that touches files.

Guarantees: when the caller is cancelled, `in_thread` returns only after the thread is done, so that nobody closes a file
under it. The work itself cannot be interrupted: hand over pieces of well below a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[..., T], *args: object) -> T:
    """Run `call(*args)` in a worker thread and return what it returns."""
    task = asyncio.ensure_future(asyncio.to_thread(call, *args))
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
