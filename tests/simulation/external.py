"""Something outside Kubernetes that the operator makes and has to clean up, with a guard of its own.

The election does not fence (see `yoban.kube.lease`), so the external system refuses what comes late by itself: an older
generation than the one it has, and anything for what was cleaned up. That is what a database does by its term, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from yoban.errors import Retryable

from tests.simulation.processes import Process, Processes

TIMEOUT = 5.0  # seconds for a call


class External:
    """The things by the uid of the object they are for.

    Attributes:
        things: (generation, value) by uid.
        gone: uids that were cleaned up.
        failing: chance that a call fails before, or after, it was carried out.
    """

    def __init__(self, loop: Processes) -> None:
        self.things: dict[str, tuple[int, int]] = {}
        self.gone: set[str] = set()
        self.failing = 0.0
        self.on_call: Callable[[Process, str], None] = lambda process, uid: None
        self._loop = loop

    def _put(self, uid: str, generation: int, value: int) -> None:
        if uid in self.gone or self.things.get(uid, (0, 0))[0] > generation:
            raise Retryable("too late", object=uid)
        self.things[uid] = (generation, value)

    def _clean(self, uid: str) -> None:
        self.things.pop(uid, None)
        self.gone.add(uid)


class Hand:
    """One process's way to the external system."""

    def __init__(self, external: External, process: Process, random: Random) -> None:
        self._external = external
        self._process = process
        self._random = random

    async def ensure(self, uid: str, generation: int, value: int) -> None:
        """Make it so; nothing when it is. Raises `Retryable`."""
        if self._external.things.get(uid) != (generation, value):
            await self._call(uid, lambda: self._external._put(uid, generation, value))

    async def clean(self, uid: str) -> None:
        """Take it away; may be called twice. Raises `Retryable`."""
        await self._call(uid, lambda: self._external._clean(uid))

    async def _call(self, uid: str, act: Callable[[], None]) -> None:
        external, random = self._external, self._random
        if self._process.dead:
            raise Retryable("the process is gone")
        external.on_call(self._process, uid)
        future = external._loop.create_future()

        def arrive() -> None:
            failure: Exception | None = None
            before = random.random() < external.failing
            after = random.random() < external.failing
            if before:
                failure = Retryable("the external system failed")
            else:
                try:
                    act()
                except Retryable as error:
                    failure = error
                if after and random.random() < 0.5:
                    return  # done, and nobody hears of it
                if after:
                    failure = Retryable("the external system failed, maybe")
            if not future.done():
                future.set_exception(failure) if failure is not None else future.set_result(None)

        external._loop.later(random.uniform(0.001, 0.05 if not external.failing else 2 * TIMEOUT), arrive)
        try:
            async with asyncio.timeout(TIMEOUT):
                await future
        except TimeoutError as error:
            raise Retryable("no answer of the external system") from error
