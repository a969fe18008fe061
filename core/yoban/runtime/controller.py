"""The loop that brings each object of one kind to its desired state.

Guarantees: a key is worked on by one worker at a time; whatever a reconcile raises is caught, counted and retried with
back-off, except a `Terminal` error, which waits for the next change; a real cancellation always goes through. A
reconcile gets a key, not an event: it reads what is so now, and an object that is not there is a success. Does not
remember why it was called.

A pass that found nobody at the API server's address is repeated when somebody is there again, not after its own back-off,
which has grown by then. It counts apart from other failures: when somebody is there again, the first of those is waited
for as if there had been no outage.

A pass that wrote is followed by one more, when any watch has been heard from or resumed since. What a pass made may be
deleted, or overwritten by a request of a dead process that was still on its way, before the cache ever showed it: then no
event will ever tell. With the caches as they should be that pass does nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

from opentelemetry import trace

from yoban.errors import DeadlineExceeded, Retryable, Terminal
from yoban.kube.client import Client, Writes, writes
from yoban.kube.errors import Unreachable
from yoban.kube.informer import Handler, Informer
from yoban.kube.metrics import Gauges, Tally, meter
from yoban.kube.objects import ObjectKey
from yoban.kube.ratelimit import RateLimiter
from yoban.kube.resource import Resource
from yoban.kube.workqueue import INITIAL, NORMAL, Item, QueueShutDown, WorkQueue
from yoban.runtime.result import Result
from yoban.runtime.sources import Mapping, Predicate, Priority, enqueue, itself, owner_of
from yoban.telemetry.context import controller_name, object_name, reconcile_id

log = logging.getLogger(__name__)

Reconcile: TypeAlias = Callable[[ObjectKey], Awaitable[Result | None]]

CONFIRM = 90.0
"""Seconds: a watch that went silent is resumed after 70 (`ReflectorSettings.idle`)."""
AWAY = 5.0
"""Seconds between two passes of one object, at least, while nobody is at the API server's address."""
LONGEST = 30.0
"""Seconds between two passes of one object, at most but for jitter, that find nobody."""
BACK = 0.5
"""Seconds over which what waited for the API server is taken up again."""
OUTCOMES = ("success", "requeue_after", "error", "terminal")

reconciles_total = Tally("yoban.controller.reconciles", "Reconciles by outcome", ("controller", "outcome"))
_duration = meter.create_histogram("yoban.controller.reconcile.duration", "s", "Time of one reconcile")
_tracer = trace.get_tracer("yoban.runtime")
_UNTRACED = nullcontext(trace.INVALID_SPAN)


class Controller:
    """Reconciles one root kind with N workers. Made inside the running loop; give it to a manager, or `run` it.

    Args:
        name: label of logs and metrics, unique in the process.
        reconcile: brings one object to its desired state; may be called again at any time, also for what is gone.
        workers: keys worked on at the same time.
        deadline: seconds for one reconcile, None for no limit.
        limiter: delays after failures.
        confirm: seconds after a pass that wrote something until the object is looked at again, None for never; see the
            module.
    """

    def __init__(
        self,
        name: str,
        reconcile: Reconcile,
        *,
        workers: int = 4,
        deadline: float | None = 120.0,
        limiter: RateLimiter[ObjectKey] | None = None,
        confirm: float | None = CONFIRM,
    ) -> None:
        if workers < 1:
            raise ValueError("a controller needs a worker")
        self.name = name
        self.queue: WorkQueue[ObjectKey] = WorkQueue(name, limiter)
        self._reconcile = reconcile
        self._workers = workers
        self.deadline = deadline
        """Seconds for one reconcile, None for no limit."""
        self._confirm = confirm
        self._unconfirmed: dict[ObjectKey, float] = {}  # when the last write of each is to be looked at again
        self._stranded: dict[ObjectKey, int] = {}  # priority of each whose last pass found no API server
        self._lost = self.queue.limiter.apart(LONGEST)  # how often in a row it did not
        self._stopping = False
        self._informers: list[Informer] = []
        self._sources: list[tuple[Informer, Handler]] = []
        self._labels = {"controller": name}
        for outcome in OUTCOMES:
            reconciles_total.init(name, outcome)
        _gauges.track(self)

    # -- sources ---------------------------------------------------------------------------------------------------

    @property
    def informers(self) -> tuple[Informer, ...]:
        """Caches that must be filled before the workers start."""
        return tuple(self._informers)

    def watches(
        self,
        informer: Informer,
        mapping: Mapping = itself,
        *,
        predicate: Predicate | None = None,
        priority: Priority = NORMAL,
    ) -> Controller:
        """Reconcile the keys that `mapping` gives when an object of `informer` changes. Returns the controller itself."""
        self._sources.append((informer, enqueue(self.queue, mapping, predicate=predicate, priority=priority)))
        if informer not in self._informers:
            self._informers.append(informer)
        return self

    def owns(
        self, informer: Informer, owner: Resource, *, predicate: Predicate | None = None, priority: Priority = NORMAL
    ) -> Controller:
        """Reconcile the `owner` (the root kind) of an object of `informer` that changes. Returns the controller itself."""
        return self.watches(informer, owner_of(owner), predicate=predicate, priority=priority)

    def enqueue(self, key: ObjectKey, *, priority: int = NORMAL, after: float = 0.0) -> None:
        """Have `key` reconciled, because of something that is no object: an observer's news, a job's end."""
        self.queue.add(key, priority=priority, after=after)

    # -- running ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled or `stop`ped. To be called once, after the caches are filled.

        Sources are listened to from here on, and first bring all that is there: the queue of a standby would only grow, by
        the keys of everything that came and went meanwhile.
        """
        remove = self.listen()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._workers):
                    group.create_task(self._work(), name=f"{self.name} worker {number}")
        finally:
            remove()

    def listen(self) -> Callable[[], None]:
        """Have the sources fill the queue, first with all that is there; returns what ends it. `run` does it by itself."""
        removals = [informer.add_handler(handler) for informer, handler in self._sources]
        removals += [client.reach.on_back(self._resume) for client in self._clients()]

        def remove() -> None:
            for one in removals:
                one()

        return remove

    def _clients(self) -> list[Client]:
        return list({id(informer.client): informer.client for informer in self._informers}.values())

    def _resume(self) -> None:
        """The API server is back: what waited for it comes soon, not all at once."""
        stranded, self._stranded = self._stranded, {}
        for number, (key, priority) in enumerate(stranded.items()):
            self.queue.add(key, priority=priority, after=BACK * number / len(stranded))

    async def stop(self) -> None:
        """Take no further key; `run` ends when those in hand are done. May be called twice."""
        self._stopping = True
        await self.queue.shut_down()

    async def _work(self) -> None:
        while not self._stopping:
            try:
                item = await self.queue.get()
            except QueueShutDown:
                return
            try:
                if not self._stopping:
                    await self._process(item)
            finally:
                self.queue.done(item.key)

    async def _process(self, item: Item[ObjectKey]) -> None:
        key = item.key
        identity = os.urandom(6).hex()
        reconcile_id.set(identity)
        controller_name.set(self.name)
        object_name.set(str(key))
        loop = asyncio.get_running_loop()
        started = loop.time()
        with self._span(item, identity) as span:
            token = writes.set(count := Writes())
            try:
                result, error = await self._attempt(key)
            finally:
                writes.reset(token)
            if error is not None:
                span.record_exception(error)
                span.set_status(trace.StatusCode.ERROR, str(error))
            outcome = self._settle(item, result, error, wrote=count.total > 0)
            span.set_attribute("yoban.outcome", outcome)
        reconciles_total.add(self.name, outcome)
        _duration.record(loop.time() - started, self._labels)

    def _span(self, item: Item[ObjectKey], identity: str) -> AbstractContextManager[trace.Span]:
        nobody = isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        if nobody and isinstance(_tracer, trace.ProxyTracer):
            return _UNTRACED  # nobody set up traces: a span that goes nowhere would cost a tenth of a small pass
        return _tracer.start_as_current_span(
            f"reconcile {self.name}",
            attributes={"yoban.reconcile.id": identity, "yoban.object": str(item.key), "yoban.priority": item.priority},
            record_exception=False,
            set_status_on_exception=False,
        )

    async def _attempt(self, key: ObjectKey) -> tuple[Result, Exception | None]:
        task = asyncio.current_task()
        timeout = asyncio.timeout(self.deadline)
        try:
            async with timeout:
                result = await self._reconcile(key) or Result()
            return result, result.error
        except asyncio.CancelledError as error:
            if task is None or task.cancelling():
                raise
            # Something inside was cancelled, not we: without this the worker would vanish without a word.
            failure = Retryable("the reconcile was cancelled from within", object=str(key))
            failure.__cause__ = error
            return Result(), failure
        except TimeoutError as error:
            if not timeout.expired():
                return Result(), error
            return Result(), DeadlineExceeded(f"no result within {self.deadline:g} s", object=str(key))
        except Exception as error:
            return Result(), error

    def _settle(self, item: Item[ObjectKey], result: Result, error: Exception | None, *, wrote: bool) -> str:
        """Decide about the next pass; the name of the outcome."""
        key, priority = item
        self._confirm_later(key, wrote, ended=error is None or isinstance(error, Terminal))
        self._stranded.pop(key, None)
        lost = error is not None and not isinstance(error, Terminal) and _found_nobody(error)
        if not lost:
            self._lost.forget(key)
        if result.priority is not None:
            priority = result.priority
        if error is not None and result.requeue_after is not None:
            log.warning("%s %s: requeue_after is ignored because the pass failed", self.name, key)
        if isinstance(error, Terminal):
            log.error("%s %s: %s", self.name, key, error)
            self.queue.forget(key)
            return "terminal"
        if error is not None:
            wish = error.retry_after if isinstance(error, Retryable) else None
            if lost and self._strand(key, priority):
                wish = max(wish or 0.0, AWAY)
            limiter = self._lost if lost else None
            delay = self.queue.add_rate_limited(key, priority=priority, at_least=wish or 0.0, limiter=limiter)
            # A traceback only for what is no error of ours: those say what happened by themselves.
            unexpected = not isinstance(error, Retryable)
            log.warning(
                "%s %s: retry in %.3f s: %s", self.name, key, delay, error, exc_info=error if unexpected else None
            )
            return "error"
        self.queue.forget(key)
        if result.requeue_after is not None:
            self.queue.add(key, priority=priority, after=result.requeue_after)
            return "requeue_after"
        return "success"

    def _strand(self, key: ObjectKey, priority: int) -> bool:
        """Take `key` up again when the API server is back; whether it is known to be away."""
        self._stranded[key] = priority
        clients = self._clients()
        for client in clients:
            client.reach.suspect()
        return any(client.reach.away for client in clients)

    def _confirm_later(self, key: ObjectKey, wrote: bool, *, ended: bool) -> None:
        """Have a write of this pass, or of one not long ago, confirmed: a pass in between took its place in the queue.

        A pass that has not `ended` comes again by its back-off, and must not come before.
        """
        if self._confirm is None:
            return
        now = asyncio.get_running_loop().time()
        due = self._unconfirmed.pop(key, 0.0)
        if wrote:
            due = now + self._confirm
        if due > now:
            self._unconfirmed[key] = due
            if ended:
                self.queue.add(key, priority=INITIAL, after=due - now)


def _found_nobody(error: BaseException) -> bool:
    """Whether `error`, or what it was raised from, is that the API server could not be reached."""
    found: BaseException | None = error
    for _ in range(8):  # a chain may be a ring
        if found is None or isinstance(found, Unreachable):
            break
        found = found.__cause__ or found.__context__
    return isinstance(found, Unreachable)


_gauges: Gauges[Controller] = Gauges(
    lambda controller: {"controller": controller.name},
    [
        ("yoban.controller.workers.active", "Workers with a key in hand", "1", lambda c: float(c.queue.processing)),
        ("yoban.controller.workers", "Workers", "1", lambda c: float(c._workers)),
    ],
)
