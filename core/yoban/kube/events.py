"""Telling people what happened to an object: events.k8s.io/v1.

Guarantees: `event` never blocks and never fails; the queue is bounded, what does not fit is dropped and counted;
repeated events become one with a count. What the server answers is final, only an unreachable server is tried again.
Events are a courtesy: nothing may depend on them. Notes must hold no secret.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

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
_MAX_NOTE = 1024

events_total = Tally("yoban.kube.events", "Events by outcome", ("outcome",))
for _outcome in ("recorded", "dropped", "failed"):
    events_total.init(_outcome)


@dataclass(slots=True)
class _Series:
    name: str
    namespace: str
    count: int
    first_at: float
    last_at: float
    last_time: str
    written_at: float
    written_count: int


@dataclass(frozen=True, slots=True)
class _Entry:
    key: tuple[str, ...]
    body: Obj
    at: float


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
            note: a sentence for people, without secrets, cut after 1024 characters.
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
        self._queue.append(_Entry(key, body, self._clock.monotonic()))
        self._wake.set()

    async def run(self) -> None:
        """Write events until cancelled, or until `close` and the queue is empty. To be called once."""
        while True:
            while self._queue:
                await self._record(self._queue.popleft())
            if self._closing:
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(self._next_look()):
                    await self._wake.wait()
            except TimeoutError:
                await self._tend_series()

    def close(self) -> None:
        """Let `run` end when everything queued is written; retries end with their present try."""
        self._closing = True
        self._wake.set()

    @property
    def open_series(self) -> int:
        """Series that are remembered: bounded by the events of the last minutes."""
        return len(self._series)

    async def _record(self, entry: _Entry) -> None:
        series = self._series.get(entry.key)
        if series is not None and entry.at - series.last_at < SERIES_ENDS_AFTER:
            series.count += 1
            series.last_at = entry.at
            series.last_time = entry.body["eventTime"]
            if series.count == 2 or entry.at - series.written_at >= REFRESH_EVERY:
                await self._write_series(series)
            return
        if await self._write(entry.body, None):
            metadata = entry.body["metadata"]
            self._series[entry.key] = _Series(
                metadata["name"], metadata["namespace"], 1, entry.at, entry.at, entry.body["eventTime"], entry.at, 1
            )

    async def _tend_series(self) -> None:
        now = self._clock.monotonic()
        for key, series in list(self._series.items()):
            if now - series.last_at >= SERIES_ENDS_AFTER:
                del self._series[key]
                if series.count > series.written_count:
                    await self._write_series(series)

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

    def _next_look(self) -> float | None:
        if not self._series:
            return None
        oldest = min(series.last_at for series in self._series.values())
        return max(1.0, oldest + SERIES_ENDS_AFTER - self._clock.monotonic())


def _reference(obj: Obj) -> dict[str, Any]:
    return {
        "apiVersion": obj.get("apiVersion", ""),
        "kind": obj.get("kind", ""),
        "namespace": namespace_of(obj),
        "name": name_of(obj),
        "uid": uid_of(obj),
        "resourceVersion": resource_version_of(obj),
    }
