"""Telling people what happened to an object: events.k8s.io/v1.

Guarantees: `event` never blocks and never fails; the queue is bounded, what does not fit is dropped and counted.
What the server answers is final, only an unreachable server is tried again. Events are a courtesy: nothing may depend on
them. Notes must hold no secret.

Repeated events become one with a count. Those of one kind (type, reason, action, regarding and related, by which client-go's
`tools/events` tells series apart) with another note are events of their own: the server lets no note be changed, so people
would read the words of the first. A note that never says the same twice, an amount in it perhaps, is kept from being a
stream as client-go's `tools/record` does it: by an allowance for each kind, and one for each object. Of what is beyond
them the latest words of each kind are kept, with a count of those that they stand for, and told in their turn.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from yoban.kube.allowance import Allowance
from yoban.kube.backoff import Random, default_random
from yoban.kube.client import Client
from yoban.kube.clock import Clock, SystemClock, rfc3339_micro
from yoban.kube.errors import ApiError, NotFound, Timeout, Unreachable
from yoban.kube.metrics import Tally
from yoban.kube.objects import Obj, name_of, namespace_of, resource_version_of, uid_of
from yoban.kube.resource import EVENT

log = logging.getLogger(__name__)

CAPACITY = 1000
TRIES = 12
RETRY_EVERY = 10.0  # seconds between tries, plus jitter
SERIES_ENDS_AFTER = 360.0  # seconds without another of its kind
REFRESH_EVERY = 1800.0  # seconds after which a lasting series is written again
KIND_BURST, KIND_EVERY = 10, 600.0
"""Notes of one kind that are told at once, and seconds for each further one."""
OBJECT_BURST, OBJECT_EVERY = 25, 300.0
"""Events about one object that are told at once, and seconds for each further one; repeated notes are no new event."""
_MAX_NOTE = 1024

events_total = Tally("yoban.kube.events", "Events by outcome", ("outcome",))
for _outcome in ("recorded", "combined", "dropped", "failed"):
    events_total.init(_outcome)


@dataclass(slots=True)
class _Series:
    name: str
    namespace: str
    count: int
    last_at: float
    last_time: str
    written_at: float
    written_count: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """An event to tell.

    Attributes:
        kind: what it has in common with those that differ in nothing but the note.
        body: as it is written.
        at: monotonic time.
        count: how many of its kind it stands for; the first of them was at `body["eventTime"]`.
        last_time: when the last of them was.
    """

    kind: tuple[str, ...]
    body: Obj
    at: float
    last_time: str
    count: int = 1

    @property
    def key(self) -> tuple[str, ...]:
        return (*self.kind, self.body["note"])

    @property
    def object(self) -> str:
        return self.kind[0]

    @property
    def rank(self) -> tuple[bool, float]:
        """Whose turn it is among those that are held back: a warning first, then who waits for longest."""
        return self.body["type"] != "Warning", self.at

    def with_earlier(self, earlier: _Entry) -> _Entry:
        """This one, standing for `earlier` too."""
        body = {**self.body, "eventTime": earlier.body["eventTime"]}
        return replace(self, body=body, at=earlier.at, count=self.count + earlier.count)


class Recorder:
    """Records events about objects. `run` it; stop it last.

    Args:
        client: the way to the API server.
        controller: who reports, domain-qualified: `yoban.dev/operator`.
        instance: which process of it, the Pod's name.
    """

    def __init__(
        self,
        client: Client,
        controller: str,
        instance: str,
        *,
        clock: Clock | None = None,
        random: Random = default_random,
    ) -> None:
        self._client = client
        self._controller = controller
        self._instance = instance[:128]
        self._clock = clock or SystemClock()
        self._random = random
        self._queue: deque[_Entry] = deque()
        self._series: dict[tuple[str, ...], _Series] = {}
        self._held: dict[tuple[str, ...], _Entry] = {}
        self._of_kind: Allowance[tuple[str, ...]] = Allowance(KIND_BURST, KIND_EVERY)
        self._of_object: Allowance[str] = Allowance(OBJECT_BURST, OBJECT_EVERY)
        self._look_at = math.inf
        self._wake = asyncio.Event()
        self._closing = False

    def event(
        self,
        regarding: Obj,
        reason: str,
        note: str,
        *,
        action: str,
        warning: bool = False,
        related: Obj | None = None,
    ) -> None:
        """Say that something happened to `regarding` (an object as stored, with kind and uid).

        Args:
            reason: CamelCase word of what happened.
            note: a sentence for people, without secrets, cut after 1024 characters. What moves (seconds, bytes) is better
                left out of it: it makes an event of its own each time, up to the allowances.
            action: CamelCase word of what we did.
            warning: whether a person should look.
            related: another object that plays a part.
        """
        if len(self._queue) >= CAPACITY:
            events_total.add("dropped")
            return
        kind = "Warning" if warning else "Normal"
        now = self._clock.now()
        namespace = namespace_of(regarding) or "default"
        body: Obj = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"namespace": namespace, "name": f"{name_of(regarding)[:230]}.{uuid4().hex[:16]}"},
            "eventTime": rfc3339_micro(now),
            "type": kind,
            "reason": reason[:128],
            "action": action[:128],
            "note": note[:_MAX_NOTE],
            "regarding": _reference(regarding),
            "reportingController": self._controller,
            "reportingInstance": self._instance,
        }
        if related is not None:
            body["related"] = _reference(related)
        key = (uid_of(regarding), kind, reason, action, uid_of(related) if related is not None else "")
        self._queue.append(_Entry(key, body, self._clock.monotonic(), body["eventTime"]))
        self._wake.set()

    async def run(self) -> None:
        """Write events until cancelled, or until `close` and nothing is left to tell. To be called once."""
        while True:
            while self._queue:
                await self._record(self._queue.popleft())
            if self._closing:
                await self._tell_held()
                return
            self._wake.clear()
            left = self._look_at - self._clock.monotonic()
            try:
                async with asyncio.timeout(None if math.isinf(left) else max(0.0, left)):
                    await self._wake.wait()
            except TimeoutError:
                await self._tend()

    def close(self) -> None:
        """Let `run` end when everything queued or held back is written; retries end with their present try."""
        self._closing = True
        self._wake.set()

    @property
    def open_series(self) -> int:
        """Series that are remembered: bounded by the events of the last minutes."""
        return len(self._series)

    @property
    def held_back(self) -> int:
        """Kinds of which more was said than is told now: at most `CAPACITY`."""
        return len(self._held)

    async def _record(self, entry: _Entry) -> None:
        series = self._series.get(entry.key)
        if series is not None and entry.at - series.last_at < SERIES_ENDS_AFTER:
            series.count += 1
            series.last_at = entry.at
            series.last_time = entry.last_time
            if series.count == 2 or entry.at - series.written_at >= REFRESH_EVERY:
                await self._write_series(series)
            return
        earlier = self._held.get(entry.kind)
        if earlier is not None:
            entry = entry.with_earlier(earlier)
            events_total.add("combined")
        if self._wait(entry) > 0.0:
            self._hold(entry)
        else:
            self._held.pop(entry.kind, None)
            await self._tell(entry)

    def _wait(self, entry: _Entry) -> float:
        """Seconds until this may be a new event."""
        now = self._clock.monotonic()
        return max(self._of_kind.wait(entry.kind, now), self._of_object.wait(entry.object, now))

    def _hold(self, entry: _Entry) -> None:
        if entry.kind not in self._held and len(self._held) >= CAPACITY:
            events_total.add("dropped")
            return
        self._held[entry.kind] = entry
        self._look_after(self._wait(entry))

    async def _tell(self, entry: _Entry) -> None:
        """Write a new event, which begins a series."""
        now = self._clock.monotonic()
        self._of_kind.take(entry.kind, now)
        self._of_object.take(entry.object, now)
        body = entry.body
        if entry.count > 1:
            body = {**body, "series": {"count": entry.count, "lastObservedTime": entry.last_time}}
        if await self._write(body, None):
            name, namespace = body["metadata"]["name"], body["metadata"]["namespace"]
            self._series[entry.key] = _Series(name, namespace, entry.count, now, entry.last_time, now, entry.count)
            self._look_after(SERIES_ENDS_AFTER)

    def _look_after(self, seconds: float) -> None:
        self._look_at = min(self._look_at, self._clock.monotonic() + seconds)

    async def _tend(self) -> None:
        """End the series that are over, and tell what was held back for long enough."""
        now = self._clock.monotonic()
        self._look_at = math.inf
        for key, series in list(self._series.items()):
            if now - series.last_at >= SERIES_ENDS_AFTER:
                del self._series[key]
                if series.count > series.written_count:
                    await self._write_series(series)
            else:
                self._look_after(series.last_at + SERIES_ENDS_AFTER - now)
        for entry in sorted(self._held.values(), key=lambda entry: entry.rank):
            if (left := self._wait(entry)) > 0.0:
                self._look_after(left)
            else:
                del self._held[entry.kind]
                await self._tell(entry)

    async def _tell_held(self) -> None:
        for entry in sorted(self._held.values(), key=lambda entry: entry.rank):
            await self._tell(entry)
        self._held.clear()

    async def _write_series(self, series: _Series) -> None:
        patch = {"series": {"count": series.count, "lastObservedTime": series.last_time}}
        series.written_at = self._clock.monotonic()
        series.written_count = series.count
        await self._write(patch, series)

    async def _write(self, body: Obj, series: _Series | None) -> bool:
        for attempt in range(TRIES):
            try:
                if series is None:
                    await self._client.create(EVENT, body)
                else:
                    await self._client.patch(EVENT, series.name, series.namespace, body)
            except (Unreachable, Timeout) as error:
                if attempt == TRIES - 1 or self._closing:
                    log.warning("an event is lost, the API server cannot be reached: %s", error)
                    break
                await self._pause(RETRY_EVERY * (1.0 + 0.5 * self._random()))
            except NotFound:
                break  # the server has let the event of this series expire
            except ApiError as error:
                log.warning("an event was refused: %s", error)
                break
            except Exception:  # else it would be the end of the recorder, and of all events after this one
                log.exception("an event is lost")
                break
            else:
                events_total.add("recorded")
                return True
        events_total.add("failed")
        return False

    async def _pause(self, seconds: float) -> None:
        """Wait, but not when closing."""
        end = self._clock.monotonic() + seconds
        while not self._closing and (left := end - self._clock.monotonic()) > 0:
            self._wake.clear()
            try:
                async with asyncio.timeout(left):
                    await self._wake.wait()
            except TimeoutError:
                return


def _reference(obj: Obj) -> dict[str, Any]:
    return {
        "apiVersion": obj.get("apiVersion", ""),
        "kind": obj.get("kind", ""),
        "namespace": namespace_of(obj),
        "name": name_of(obj),
        "uid": uid_of(obj),
        "resourceVersion": resource_version_of(obj),
    }
