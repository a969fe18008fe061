"""Controllers that run for the length of a test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from yoban.kube.ratelimit import RateLimiter
from yoban.runtime import (
    Controller,
    ObjectKey,
    Result,
)

KEY = ObjectKey("ns", "a")
Reconcile = Callable[[ObjectKey], Awaitable[Result | None]]


@contextlib.asynccontextmanager
async def running(controller: Controller) -> AsyncIterator[None]:
    task = asyncio.create_task(controller.run())
    try:
        yield
        assert not task.done(), "a worker's trouble never ends the controller"
    finally:
        await controller.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def controller(reconcile: Reconcile, **options: object) -> Controller:
    return Controller("test", reconcile, limiter=RateLimiter(jitter=0.0), **options)  # type: ignore[arg-type]
