"""Tasks that look at something outside the cluster, again and again, for reconcilers that must not wait.

Guarantees: every task has this owner; when it stops, all are cancelled and awaited; a task that fails is told of in the
log and does not take others with it. Does not restart one: an observer's loop catches what it expects.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from yoban.kube.objects import ObjectKey

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

Listener = Callable[[ObjectKey], None]
"""Called in the loop when there is news of a Database; only enqueues."""


class Tasks(Generic[K]):
    """Tasks by key. Made and used inside the running loop."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tasks: dict[K, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    def __contains__(self, key: K) -> bool:
        return key in self._tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, key: K, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Start `work` under `key`; False when one is running there, or everything is stopping."""
        if self._closed or key in self._tasks:
            return False
        task = asyncio.create_task(work(), name=f"{self.name} {key}")
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))
        return True

    def cancel(self, key: K) -> None:
        """Cancel what runs under `key`; the key is free at once. Nothing there is fine."""
        task = self._tasks.pop(key, None)
        if task is not None:
            self._ending.add(task)
            task.cancel()

    async def close(self) -> None:
        """Cancel and await everything; nothing can be started any more."""
        self._closed = True
        for key in list(self._tasks):
            self.cancel(key)
        while self._ending:
            await asyncio.wait(set(self._ending))

    def _ended(self, key: K, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)


class Listeners:
    """Who wants to hear news."""

    def __init__(self) -> None:
        self._all: list[Listener] = []

    def add(self, listener: Listener) -> None:
        """Have `listener` called from now on."""
        self._all.append(listener)

    def tell(self, key: ObjectKey) -> None:
        """There is news of the Database `key`."""
        for listener in self._all:
            listener(key)
