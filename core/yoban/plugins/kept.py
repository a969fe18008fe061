"""One connection of the agent to each server, kept from one use to the next. For plugin authors; core does not use it.

Guarantees: users take turns; a connection is given up when its user leaves with an error or is cancelled, since an answer
may still be on its way, and made anew for the next one. Connections belong to the event loop that made them: another loop
gets others.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Generic, TypeVar

from yoban.plugins.context import InstanceContext

C = TypeVar("C")


class KeptConnection(ABC, Generic[C]):
    """Lends a driver's connection `C` to the local server of an instance. A plugin says what its driver calls things."""

    def __init__(self) -> None:
        self._of_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Held[C]] = weakref.WeakKeyDictionary()

    @abstractmethod
    async def connect(self, ctx: InstanceContext) -> C:
        """Open a connection, within a deadline.

        Raises:
            Unavailable: the server does not answer.
        """

    @abstractmethod
    def usable(self, connection: C) -> bool:
        """Whether statements can be sent, as far as is known. Costs nothing."""

    @abstractmethod
    def drop(self, connection: C) -> None:
        """Drop a connection without a word to the server. Never blocks nor raises; may be called again."""

    @abstractmethod
    async def leave(self, connection: C) -> None:
        """Close a connection as a client should, in a bounded time. Never raises what a dying server may do."""

    def translated(self, ctx: InstanceContext) -> AbstractContextManager[None]:
        """Return what turns the driver's errors of a use into ours. The default leaves them as they are."""
        return contextlib.nullcontext()

    @asynccontextmanager
    async def use(self, ctx: InstanceContext) -> AsyncIterator[C]:
        """Lend the connection; users take turns. Whoever leaves with an error gives it up.

        Raises:
            Unavailable: the server does not answer.
        """
        held = self._held()
        key = _key(ctx)
        async with held.locks.setdefault(key, asyncio.Lock()):
            connection = held.open.get(key)
            if connection is None or not self.usable(connection):
                connection = held.open[key] = await self.connect(ctx)
            try:
                with self.translated(ctx):
                    yield connection
            except BaseException:
                held.open.pop(key, None)
                self.drop(connection)
                raise

    async def close(self, ctx: InstanceContext) -> None:
        """Close the connection to this server, if there is one. May be called again."""
        connection = self._held().open.pop(_key(ctx), None)
        if connection is not None:
            await self.leave(connection)

    def _held(self) -> _Held[C]:
        return self._of_loop.setdefault(asyncio.get_running_loop(), _Held())


class _Held(Generic[C]):
    """What one event loop has, by server."""

    def __init__(self) -> None:
        self.open: dict[str, C] = {}
        self.locks: dict[str, asyncio.Lock] = {}


def _key(ctx: InstanceContext) -> str:
    return f"{ctx.run}:{ctx.port}"
