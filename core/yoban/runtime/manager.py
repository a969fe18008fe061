"""Starts and stops everything of a process in order, within bounds.

Start: HTTP, webhooks, caches (and waits until they are filled), work that needs no leader, warm-up, election, controllers.
Stop: work that needs no leader, controllers, caches, webhooks, HTTP, then the Lease is released, then the event recorder.

Guarantees: whatever ends unexpectedly ends the process, with its error; the Lease goes on being renewed while controllers
finish, and is released only if they did in time; when it is lost there is no time for grace. Everything started is awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum
from typing import Any, Protocol, TypeVar, runtime_checkable

from yoban.kube.client import Client
from yoban.kube.election import Elector
from yoban.kube.events import Recorder
from yoban.kube.informer import Informer
from yoban.kube.lease import LeaseLost
from yoban.kube.resource import Resource
from yoban.runtime.controller import Controller
from yoban.runtime.health import Check, HealthServer
from yoban.runtime.looplag import LoopLag

log = logging.getLogger(__name__)

SYNC_TIMEOUT = 120.0
STOP_TIMEOUT = 30.0
RECORDER_TIMEOUT = 5.0
T = TypeVar("T")


class Group(IntEnum):
    """What starts together, in the order of the start."""

    HTTP = 0
    WEBHOOKS = 1
    CACHES = 2
    OTHERS = 3
    WARMUP = 4
    LEADER = 5


_STOP_ORDER = (Group.WARMUP, Group.OTHERS, Group.LEADER, Group.CACHES, Group.WEBHOOKS, Group.HTTP)


class Runnable(Protocol):
    """Something that a manager runs. It may also have `async started()`, awaited before the next group starts, and
    `async stop()`, which asks `run` to end by itself; without it `run` is cancelled.
    """

    @property
    def name(self) -> str:
        """How logs call it."""
        ...

    async def run(self) -> None:
        """Work until cancelled or stopped. Returning early is fine for work that ends; raising ends the process."""
        ...


@runtime_checkable
class _Stoppable(Protocol):
    async def stop(self) -> None: ...


@runtime_checkable
class _Startable(Protocol):
    async def started(self) -> None: ...


class Function:
    """A runnable made of a coroutine function.

    Args:
        name: for logs.
        function: called once, without arguments.
    """

    def __init__(self, name: str, function: Callable[[], Awaitable[None]]) -> None:
        self.name = name
        self._function = function

    async def run(self) -> None:
        """Await the function."""
        await self._function()


class Manager:
    """The owner of all tasks of an operator. Made inside the running loop.

    Args:
        client: the way to the API server; not closed here.
        namespaces: those that informers watch, None for all.
        elector: None for a process without leader election.
        recorder: stopped last; None for none.
        health: gets the checks of caches and Lease, and is run in the HTTP group; None for none.
        sync_timeout: seconds for the caches to fill.
        stop_timeout: seconds for the whole stop.
        max_silence: seconds without word from the API server after which readiness fails.
        detect_mutation: for tests, see `Informer`.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespaces: Sequence[str] | None = None,
        elector: Elector | None = None,
        recorder: Recorder | None = None,
        health: HealthServer | None = None,
        sync_timeout: float = SYNC_TIMEOUT,
        stop_timeout: float = STOP_TIMEOUT,
        max_silence: float = 300.0,
        detect_mutation: bool = False,
    ) -> None:
        self.client = client
        self.elector = elector
        self.recorder = recorder
        self._namespaces = namespaces
        self._health = health
        self._sync_timeout = sync_timeout
        self._stop_timeout = stop_timeout
        self._max_silence = max_silence
        self._detect_mutation = detect_mutation
        self._members: dict[Group, list[Runnable]] = {group: [] for group in Group}
        self._tasks: dict[Group, list[tuple[Runnable, asyncio.Task[None]]]] = {group: [] for group in Group}
        self._informers: dict[tuple[Resource, str | None, str | None], Informer] = {}
        self._stop_asked = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._started: set[Group] = set()
        self._hold: asyncio.Task[None] | None = None
        self.leading = asyncio.Event()
        """Set once the controllers may work."""
        if health is not None:
            self.add(health, Group.HTTP)
            health.ready.setdefault("caches", self.check_caches)
            if elector is not None:
                health.live.setdefault("lease", elector.check)
        self.add(LoopLag(), Group.HTTP)

    # -- what to run -----------------------------------------------------------------------------------------------

    def informer(
        self, resource: Resource, *, labels: str | None = None, fields: str | None = None, **options: Any
    ) -> Informer:
        """The process's cache of that kind and selection, made when first asked for. `options` are those of `Informer`.

        Raises RuntimeError once the caches have started.
        """
        key = (resource, labels, fields)
        informer = self._informers.get(key)
        if informer is None:
            options.setdefault("namespaces", self._namespaces)
            options.setdefault("detect_mutation", self._detect_mutation)
            informer = Informer(self.client, resource, labels=labels, fields=fields, **options)
            self.add(informer, Group.CACHES)
            self._informers[key] = informer
        else:
            for name, function in (options.get("indexers") or {}).items():
                informer.store.add_indexer(name, function)
        return informer

    def add(self, runnable: Runnable | Controller, group: Group = Group.LEADER) -> None:
        """Run `runnable` in `group`. A group that has started already takes no more (RuntimeError)."""
        if group in self._started:
            raise RuntimeError(f"{group.name} have started already; add {runnable.name} before the manager runs")
        self._members[group].append(runnable)

    def check_caches(self) -> str | None:
        """For readiness: the first cache that is not synced or has not been heard from, or None."""
        for informer in self._informers.values():
            problem = informer.check(self._max_silence)
            if problem is not None:
                return problem
        return None

    def check(self, name: str, check: Check) -> None:
        """Add a readiness check; nothing without a health server."""
        if self._health is not None:
            self._health.ready[name] = check

    # -- running ---------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask `run` to stop everything in order. May be called twice, and before `run`."""
        self._stop_asked.set()

    async def run_until_signal(self) -> None:
        """As `run`, and stop on SIGTERM and SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            await self.run()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def run(self) -> None:
        """Start everything, work until `stop`, stop everything. To be called once.

        Raises what ended the process: `LeaseLost`, `NotReady` for a cache that does not fill, or a runnable's error.
        """
        recorder = asyncio.create_task(self.recorder.run(), name="event recorder") if self.recorder else None
        start = asyncio.create_task(self._start(), name="manager start")
        stop = asyncio.create_task(self._stop_asked.wait(), name="manager stop")
        graceful = True
        try:
            await self._supervise(start, stop)
        except LeaseLost:
            graceful = False
            raise
        finally:
            await _end([start, stop])
            try:
                await self._stop_all(graceful=graceful)
            finally:
                if recorder is not None and self.recorder is not None:
                    self.recorder.close()
                    await _finish(recorder, RECORDER_TIMEOUT if graceful else 0.0)
        if self._failed.done():
            self._failed.result()

    async def _supervise(self, start: asyncio.Task[None], stop: asyncio.Task[Any]) -> None:
        """Return when a stop was asked for; raise what failed."""
        waiting: set[asyncio.Future[Any]] = {start, stop, self._failed}
        while not stop.done():
            if self._hold is not None:
                waiting.add(self._hold)
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                future.result()

    async def _start(self) -> None:
        for group in (Group.HTTP, Group.WEBHOOKS, Group.CACHES):
            await self._start_group(group)
        await self._wait_synced()
        await self._start_group(Group.OTHERS)
        await self._start_group(Group.WARMUP)
        for _, task in self._tasks[Group.WARMUP]:
            await asyncio.shield(task)
        if self.elector is not None:
            await self.elector.acquire()
            self._hold = asyncio.create_task(self.elector.hold(), name="hold the lease")
            self._hold.add_done_callback(self._lease_ended)
        self.leading.set()
        await self._start_group(Group.LEADER)

    async def _wait_synced(self) -> None:
        informers = {id(informer): informer for informer in self._informers.values()}
        for member in self._members[Group.LEADER]:
            if isinstance(member, Controller):
                informers |= {id(informer): informer for informer in member.informers}
        waits = [asyncio.create_task(informer.wait_synced(self._sync_timeout)) for informer in informers.values()]
        try:
            for wait in waits:
                await wait
        finally:
            await _end(waits)

    def _lease_ended(self, hold: asyncio.Task[None]) -> None:
        if not hold.cancelled():  # lost: another may act any moment, so there is no time for grace
            for _, task in self._tasks[Group.LEADER]:
                task.cancel()

    async def _start_group(self, group: Group) -> None:
        self._started.add(group)
        for runnable in self._members[group]:
            task = asyncio.create_task(runnable.run(), name=runnable.name)
            task.add_done_callback(self._ended)
            self._tasks[group].append((runnable, task))
        for runnable, task in self._tasks[group]:
            if isinstance(runnable, _Startable):
                ready = asyncio.create_task(runnable.started())
                await asyncio.wait({ready, task}, return_when=asyncio.FIRST_COMPLETED)
                await _end([ready])
        log.debug("%s have started", group.name)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._failed.done():
            return
        error = task.exception()
        if error is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
            self._failed.set_exception(error)
            self._failed.exception()  # seen: `run` may be past the point where it looks

    # -- stopping --------------------------------------------------------------------------------------------------

    async def _stop_all(self, *, graceful: bool) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + (self._stop_timeout if graceful else 0.0)
        in_time = True
        for group in _STOP_ORDER:
            ended = await self._stop_group(group, end)
            if group is Group.LEADER:
                in_time = ended
        hold, elector = self._hold, self.elector
        lost = hold is not None and hold.done() and not hold.cancelled()
        if hold is not None:
            await _end([hold])
        if elector is None or not elector.leading:
            if lost and graceful and hold is not None:
                hold.result()
            return
        if not graceful or not in_time:
            log.error("the Lease is not released: work under it did not end in time; it will expire")
            return
        await elector.release()

    async def _stop_group(self, group: Group, end: float) -> bool:
        """Stop the group until loop time `end`; False when something had to be cancelled that could have ended itself."""
        loop = asyncio.get_running_loop()
        tasks = [task for _, task in self._tasks[group] if not task.done()]
        if not tasks:
            return True
        for runnable, task in self._tasks[group]:
            if not isinstance(runnable, _Stoppable):
                task.cancel()
            elif not task.done():
                with contextlib.suppress(Exception):  # what does not stop is cancelled below
                    async with asyncio.timeout_at(end):
                        await runnable.stop()
        _, pending = await asyncio.wait(tasks, timeout=max(0.0, end - loop.time()))
        late = [task for task in tasks if task in pending]
        for task in late:
            log.error("%s did not stop in time and is cancelled", task.get_name())
        await _end(late, timeout=1.0)
        return not pending


async def _end(tasks: Sequence[asyncio.Task[Any]], timeout: float | None = None) -> None:
    """Cancel and await; what ignores its cancellation is left behind after `timeout` seconds."""
    waiting = [task for task in tasks if not task.done()]  # in order: a seeded simulation is replayed exactly
    for task in waiting:
        task.cancel()
    if waiting:
        _, stubborn = await asyncio.wait(waiting, timeout=timeout)
        for task in stubborn:
            log.error("%s ignores its cancellation", task.get_name())
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # seen


async def _finish(task: asyncio.Task[Any], timeout: float) -> None:
    if not task.done():
        await asyncio.wait({task}, timeout=timeout)
    await _end([task], timeout=1.0)
    if task.done() and not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s failed", task.get_name(), exc_info=error)


def exit_code(error: BaseException | None) -> int:
    """The process's exit code for what `Manager.run` raised: 0 for a clean stop, 1 for a failure, 2 for a lost Lease."""
    if error is None:
        return 0
    return 2 if isinstance(error, LeaseLost) else 1
