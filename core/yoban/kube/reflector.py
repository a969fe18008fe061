"""List and watch: keeps a sink equal to a collection of the API server, whatever happens on the way.

Guarantees (numbers are the rules of section 3.2 of the project's reference): the sink gets every object of a list at once,
then every change in the order of the stream; what vanished while nobody looked is told by the next list (8). Only
cancellation ends `run` (6). A watch always starts from a version that the server gave (1), which is never compared (3); a
dead connection is noticed (9); a server that ends watches at once is not hammered (5, 7), and one that was away is asked
again as soon as it is back (`yoban.kube.reach`). Does not promise to show every state in between: those that came and went
between two lists were never sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from yoban.kube.backoff import Backoff, BackoffPolicy, Random, default_random
from yoban.kube.client import Client, Retry
from yoban.kube.clock import Clock, SystemClock
from yoban.kube.errors import (
    ApiError,
    BadAnswer,
    Gone,
    ServerError,
    Timeout,
    TooLargeResourceVersion,
    TooManyRequests,
    Unreachable,
)
from yoban.kube.metrics import Tally
from yoban.kube.objects import Obj, resource_version_of
from yoban.kube.resource import Resource
from yoban.kube.watch import IdleTimeout, WatchEvent, WatchStream, error_of

log = logging.getLogger(__name__)

lists_total = Tally("yoban.kube.lists", "Lists made to fill or mend a cache", ("resource",))
watches_total = Tally("yoban.kube.watches", "Watches opened", ("resource",))
failures_total = Tally("yoban.kube.watch.failures", "Lists and watches that failed", ("resource", "reason"))
bad_lines_total = Tally("yoban.kube.watch.bad_lines", "Lines of a watch that were no event", ("resource",))

SHORT = 1.0  # seconds; a watch that ends before is suspicious
HEALTHY = 10.0  # seconds; a watch whose connection breaks after that worked
SHORT_STREAK = 5  # short watches in a row that are forgiven when they brought something
INTERNAL_ERRORS_FOR = 60.0  # seconds for which a 500 is retried with the same version
CONSISTENT = None  # the resource version that asks for the state as stored now


class Sink(Protocol):
    """What a reflector fills. All methods are sync and quick: the next event waits for them."""

    def replace(self, items: list[Obj], scope: str | None) -> None:
        """These are all the objects of namespace `scope` (None: of all namespaces) now."""
        ...

    def change(self, obj: Obj) -> None:
        """`obj` was added or modified."""
        ...

    def delete(self, obj: Obj) -> None:
        """`obj` is gone; this was its last state."""
        ...


@dataclass(frozen=True, slots=True)
class Scope:
    """What is listed and watched: a kind, in one namespace or in all, maybe narrowed by selectors in the API's syntax."""

    resource: Resource
    namespace: str | None = None
    labels: str | None = None
    fields: str | None = None


@dataclass(frozen=True, slots=True)
class ReflectorSettings:
    """How a reflector behaves.

    Attributes:
        consistent: the first list reads what is stored, not what the server's cache has: for decisions such as failover.
        idle: seconds without a line after which a stream is taken for dead and resumed.
        watch_for: smallest and largest life of a watch in seconds; each draws its own.
        backoff: delays after failures.
    """

    consistent: bool = False
    idle: float = 70.0
    watch_for: tuple[int, int] = (300, 600)
    backoff: BackoffPolicy = field(default_factory=BackoffPolicy)


class Reflector:
    """One list-and-watch loop.

    Args:
        client: the way to the API server.
        scope: what to reflect.
        sink: who is told.
        transform: what the sink gets of an object; may change its argument.
        settings, clock, random: see their types.
    """

    def __init__(
        self,
        client: Client,
        scope: Scope,
        sink: Sink,
        *,
        settings: ReflectorSettings | None = None,
        clock: Clock | None = None,
        random: Random = default_random,
        transform: Callable[[Obj], Obj] | None = None,
        on_activity: Callable[[], None] | None = None,
    ) -> None:
        self.scope = scope
        self.synced = False
        self.last_heard = float("-inf")
        """Monotonic time of the last list, line or proper end of a watch."""
        self.last_error: str = ""
        self._client = client
        self._sink = sink
        self._settings = settings or ReflectorSettings()
        self._clock = clock or SystemClock()
        self._random = random
        self._backoff = Backoff(self._settings.backoff, random)
        self._transform = transform
        self._on_activity = on_activity
        self._version = ""  # of the last list or event; opaque
        self._list_version: str | None = CONSISTENT if self._settings.consistent else "0"
        self._must_list = True
        self._relisted_at = float("-inf")
        self._short_streak = 0
        self._before_outage: int | None = None  # failures before the first of those in a row that found nobody
        self._internal_since: float | None = None
        self._label = str(scope.resource)
        lists_total.init(self._label)
        watches_total.init(self._label)
        bad_lines_total.init(self._label)

    async def run(self) -> None:
        """Reflect until cancelled. To be called once."""
        while True:
            try:
                if self._must_list:
                    await self._list()
                await self._watch()
            except Exception as error:
                # Whatever it is, a bug in a sink included: a watcher that ends leaves its controller blind for ever.
                away = isinstance(error, Unreachable)
                if not away or self._before_outage is None:
                    self._before_outage = self._backoff.failures if away else None
                delay = self._after_failure(error)
                if delay > 0:
                    await self._rest(delay)

    async def _rest(self, delay: float) -> None:
        """Wait for `delay` seconds; when nobody was at the server's address, only until somebody is."""
        if self._before_outage is None:
            await self._clock.sleep(delay)
        elif await self._client.reach.pause(delay):
            # A server that has just started refuses for a moment: that must not meet delays which grew while it was away.
            self._backoff.forgive(self._before_outage)
            self._before_outage = None

    # -- list ------------------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        scope = self.scope
        lists_total.add(self._label)
        try:
            listed = await self._client.list(
                scope.resource,
                scope.namespace,
                labels=scope.labels,
                fields=scope.fields,
                resource_version=self._list_version,
                retry=Retry.NEVER,
                transform=self._transform,
            )
        except (Gone, TooLargeResourceVersion) as error:
            if self._list_version is CONSISTENT:
                raise
            # The server cannot give a state that is new enough from its cache: ask for the stored one, at once.
            log.info("listing %s anew without a version: %s", scope.resource, error)
            self._list_version = CONSISTENT
            return await self._list()
        self._sink.replace(listed.items, scope.namespace)
        self._version = listed.resource_version
        self._list_version = listed.resource_version
        self._must_list = False
        self._relisted_at = self._clock.monotonic()
        self.synced = True
        self._heard()

    # -- watch -----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """One watch from the last version; returns when the next may start at once."""
        low, high = self._settings.watch_for
        seconds = low + int((high - low) * self._random())
        started = self._clock.monotonic()
        events = 0
        scope = self.scope
        watches_total.add(self._label)
        try:
            async with self._client.watch(
                scope.resource,
                scope.namespace,
                resource_version=self._version,
                labels=scope.labels,
                fields=scope.fields,
                timeout_seconds=seconds,
            ) as stream:
                self._heard()
                events = await self._follow(stream, started + seconds + self._settings.idle)
        except IdleTimeout:
            # Bookmarks are not promised, so silence is no error: the connection is given up and the version kept.
            log.debug("no line of %s for %.0f s, resuming", scope.resource, self._settings.idle)
            return
        except Unreachable as error:
            # A connection that worked for a while and broke is resumed like one that ended; a growing delay is for what
            # does not work at all.
            if self._clock.monotonic() - started < HEALTHY:
                raise
            failures_total.add(self._label, error.reason)
            log.info("the watch of %s broke, resuming: %s", scope.resource, error)
            return
        self._heard()
        lived = self._clock.monotonic() - started
        if lived >= SHORT:
            self._short_streak = 0
            return
        self._short_streak += 1
        if events == 0 or self._short_streak > SHORT_STREAK:
            raise ServerError(
                "very short watch",
                object=self._label,
                cause=f"the server ended it after {lived:.3f} s, {events} events",
            )

    async def _follow(self, stream: WatchStream, end: float) -> int:
        """Apply events until the stream ends; how many there were, bookmarks not counted."""
        count = 0
        while True:
            # A server that ignores timeoutSeconds but goes on sending bookmarks is left after a while all the same.
            batch = await stream.batch(self._settings.idle)
            if batch is None:
                return count
            self._heard()
            for event in batch:
                count += self._apply(event)
            self._internal_since = None
            if self._clock.monotonic() >= end:
                return count

    def _apply(self, event: WatchEvent) -> int:
        kind = event.type
        if kind == "ERROR":
            raise error_of(event)
        obj = event.decode()
        version = resource_version_of(obj)
        if not version:
            raise BadAnswer("a watch event has no resource version")
        if kind == "BOOKMARK":
            self._resume_from(version)
            return 0
        if not obj["metadata"].get("name"):
            raise BadAnswer("a watch event has no name")
        if self._transform is not None:
            obj = self._transform(obj)
        if kind == "DELETED":
            self._sink.delete(obj)
        else:
            self._sink.change(obj)
        self._resume_from(version)
        return 1

    def _resume_from(self, version: str) -> None:
        self._version = version
        self._list_version = version

    def _heard(self) -> None:
        self.last_heard = self._clock.monotonic()
        if self._on_activity is not None:
            self._on_activity()

    # -- failures --------------------------------------------------------------------------------------------------

    def _after_failure(self, error: Exception) -> float:
        """Decide how to go on, and after how many seconds."""
        now = self._clock.monotonic()
        reason = error.reason if isinstance(error, ApiError) else type(error).__name__
        failures_total.add(self._label, reason)
        self.last_error = str(error)
        listing = self._must_list
        at_once = False
        if isinstance(error, Gone):
            self._must_list = True
            self._list_version = CONSISTENT
            # At once, but a server that answers 410 to the version it just gave is backed off from.
            at_once = not listing and now - self._relisted_at >= SHORT
        elif isinstance(error, TooManyRequests | Unreachable | Timeout):
            pass  # the version is as good as before: go on where we were
        elif isinstance(error, BadAnswer):
            bad_lines_total.add(self._label)
            self._must_list = True
        elif isinstance(error, ServerError) and error.status == 500:
            if self._internal_since is None:
                self._internal_since = now
            elif now - self._internal_since >= INTERNAL_ERRORS_FOR:
                self._must_list = True
                self._internal_since = None
        elif isinstance(error, ServerError) and error.status == 0:
            pass  # a very short watch: nothing says that the version is bad
        else:
            self._must_list = True
        if not isinstance(error, ApiError):
            log.exception("unexpected failure while reflecting %s", self.scope.resource, exc_info=error)
        if at_once:
            log.info("watch of %s expired, listing again: %s", self.scope.resource, error)
            return 0.0
        retry_after = error.retry_after if isinstance(error, ApiError) else None
        delay = self._backoff.next(now, at_least=retry_after or 0.0)
        log.warning(
            "%s of %s failed, going on in %.1f s: %s", "list" if listing else "watch", self.scope.resource, delay, error
        )
        return delay
