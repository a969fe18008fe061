"""A Lease as a lock: reading, taking, renewing and giving it up, for leader election and for the primary of a database alike.

Guarantees: times of the record are never compared with ours; a record is expired when it has not changed for its own
duration on our clock (tolerates skew between machines, not a difference in the speed of their clocks). The deadline of
a holder counts from the **sending** of the last renewal that succeeded, on the boot-time clock, so it never ends later
than others may take the Lease. Annotations travel with each write.

Does not fence: who loses the Lease must stop by itself, and in time (`yoban.kube.watchdog`).
Source: coordination.k8s.io/v1 Lease; client-go `tools/leaderelection` for the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from yoban.errors import Terminal
from yoban.kube.client import Client, Retry
from yoban.kube.clock import Clock, SystemClock, rfc3339_micro
from yoban.kube.errors import AlreadyExists, Conflict, NotFound
from yoban.kube.objects import Obj
from yoban.kube.resource import LEASE

RELEASE_TRIES = 5


class LeaseLost(Terminal):
    """We held the Lease and may not act on it any more: end at once, without cleaning up."""

    reason = "LeaseLost"


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What a Lease says. `obj` is the object it was read from, so that a write keeps what we do not know.

    Attributes:
        holder: identity of who has it, "" for nobody.
        duration: seconds for which it is good after a renewal.
        acquire_time, renew_time: MicroTime of the holder's clock, for people only.
        transitions: changes of holder so far.
        annotations: of the object.
        resource_version: of the object, opaque.
    """

    holder: str = ""
    duration: int = 15
    acquire_time: str = ""
    renew_time: str = ""
    transitions: int = 0
    annotations: Mapping[str, str] = field(default_factory=dict)
    resource_version: str = ""
    obj: Obj = field(default_factory=dict, compare=False, repr=False)

    @property
    def pulse(self) -> tuple[str, str, str, int, int]:
        """What changes when the holder is alive; an annotation written by somebody else does not count as life."""
        return (self.holder, self.acquire_time, self.renew_time, self.transitions, self.duration)


@dataclass(frozen=True, slots=True)
class Observation:
    """A record, and when on our monotonic clock it was first seen to be so."""

    record: LeaseRecord
    since: float


def parse_lease(obj: Obj) -> LeaseRecord:
    """The record in a Lease object; fields that are missing read as a Lease that nobody holds."""
    spec = obj.get("spec") or {}
    metadata = obj.get("metadata") or {}
    return LeaseRecord(
        holder=spec.get("holderIdentity") or "",
        duration=int(spec.get("leaseDurationSeconds") or 0),
        acquire_time=spec.get("acquireTime") or "",
        renew_time=spec.get("renewTime") or "",
        transitions=int(spec.get("leaseTransitions") or 0),
        annotations=metadata.get("annotations") or {},
        resource_version=metadata.get("resourceVersion") or "",
        obj=obj,
    )


def observe(previous: Observation | None, record: LeaseRecord, now: float) -> Observation:
    """What is known after `record` was read at monotonic `now`: an unchanged pulse keeps its age."""
    if previous is not None and previous.record.pulse == record.pulse:
        return Observation(record, previous.since)
    return Observation(record, now)


def expires_at(observation: Observation) -> float:
    """Monotonic time from which the Lease may be taken from its holder, by the **record's** duration."""
    return observation.since + observation.record.duration


def may_take(observation: Observation, identity: str, now: float) -> bool:
    """Whether `identity` may write itself as holder at monotonic `now`: nobody holds it, it does already, or it expired."""
    holder = observation.record.holder
    return not holder or holder == identity or now >= expires_at(observation)


def held_spec(record: LeaseRecord | None, identity: str, duration: int, now: datetime) -> dict[str, Any]:
    """The spec that makes `identity` the holder: `acquireTime` is kept while it holds on, a change of holder counts."""
    moment = rfc3339_micro(now)
    spec: dict[str, Any] = {
        "holderIdentity": identity,
        "leaseDurationSeconds": duration,
        "acquireTime": moment,
        "renewTime": moment,
        "leaseTransitions": 0,
    }
    if record is not None:
        same = record.holder == identity
        spec["leaseTransitions"] = record.transitions + (0 if same else 1)
        if same and record.acquire_time:
            spec["acquireTime"] = record.acquire_time
    return spec


def released_spec(record: LeaseRecord, now: datetime) -> dict[str, Any]:
    """The spec of a Lease that nobody holds and anybody may take at once."""
    moment = rfc3339_micro(now)
    return {
        "holderIdentity": "",
        "leaseDurationSeconds": 1,
        "acquireTime": record.acquire_time or moment,
        "renewTime": moment,
        "leaseTransitions": record.transitions,
    }


class LeaseLock:
    """One Lease, seen and written by one identity. Its methods must not run at the same time.

    Args:
        client: the way to the API server.
        namespace, name: of the Lease.
        identity: who we are; unique among all that may ever hold it.
        duration: seconds the Lease is good for after a renewal of ours.
        create: whether to make a Lease that is not there; an agent has no right to.
        timeout: seconds for one request; requests are not repeated by the client, the caller decides anew each time.
        clock: see `Clock`.
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration: int = 15,
        create: bool = True,
        timeout: float = 5.0,
        clock: Clock | None = None,
    ) -> None:
        self.namespace = namespace
        self.name = name
        self.identity = identity
        self.duration = duration
        self._client = client
        self._create = create
        self._timeout = timeout
        self._clock = clock or SystemClock()
        self._observation: Observation | None = None
        self._sent_at: float | None = None

    @property
    def record(self) -> LeaseRecord | None:
        """The record as last read or written, None before that."""
        return self._observation.record if self._observation is not None else None

    @property
    def holds(self) -> bool:
        """Whether the last record seen names us; says nothing about time, `deadline` does."""
        return self.record is not None and self.record.holder == self.identity and self._sent_at is not None

    @property
    def sent_at(self) -> float | None:
        """Boot time at which the last successful taking or renewal was sent, None when we do not hold the Lease."""
        return self._sent_at

    @property
    def deadline(self) -> float | None:
        """Boot time until which nobody else may hold the Lease, None when we do not hold it."""
        return self._sent_at + self.duration if self._sent_at is not None else None

    def see(self, obj: Obj) -> LeaseRecord:
        """Take note of the Lease as a watch of the caller's delivered it."""
        record = parse_lease(obj)
        self._observation = observe(self._observation, record, self._clock.monotonic())
        if record.holder != self.identity:
            self._sent_at = None
        return record

    async def fetch(self) -> LeaseRecord | None:
        """Read the Lease; None when there is none. Raises `ApiError`."""
        try:
            obj = await self._client.get(LEASE, self.name, self.namespace, timeout=self._timeout)
        except NotFound:
            self._observation = None
            self._sent_at = None
            return None
        return self.see(obj)

    def may_take(self) -> bool:
        """Whether the record last seen may be taken by us now; False before the first `fetch`."""
        return self._observation is not None and may_take(self._observation, self.identity, self._clock.monotonic())

    def seconds_to_expiry(self) -> float:
        """Seconds until the holder's time is over on our clock; 0 when it is, or nothing is known."""
        if self._observation is None or not self._observation.record.holder:
            return 0.0
        return max(0.0, expires_at(self._observation) - self._clock.monotonic())

    async def take(self, annotations: Mapping[str, str | None] | None = None) -> LeaseRecord:
        """Write ourselves as holder over the record last seen, or make the Lease; also the way to renew.

        `annotations` are set with it (None removes one). The caller has checked `may_take`. Raises `Conflict` when
        somebody wrote in between (a normal answer: fetch and decide anew), and any other `ApiError`, after which the
        write may have happened.
        """
        record = self.record
        spec = held_spec(record, self.identity, self.duration, self._clock.now())
        sent_at = self._clock.boottime()
        if record is None:
            if not self._create:
                raise NotFound("there is no Lease", object=f"Lease {self.namespace}/{self.name}", status=404)
            obj = self._object({}, spec, annotations)
            stored = await self._client.create(LEASE, obj, timeout=self._timeout)
        else:
            stored = await self._write(self._object(record.obj, spec, annotations))
        taken = self.see(stored)
        self._sent_at = sent_at
        return taken

    async def renew(self, annotations: Mapping[str, str | None] | None = None) -> LeaseRecord:
        """Renew a Lease that we hold by the record last seen. Raises `LeaseLost` when we do not, else as `take`."""
        if not self.holds:
            raise LeaseLost("the Lease is not ours", object=f"Lease {self.namespace}/{self.name}")
        return await self.take(annotations)

    async def try_take(self, annotations: Mapping[str, str | None] | None = None) -> bool:
        """Renew or acquire, whatever fits: an optimistic renewal first, on any failure read and decide.

        False when somebody else holds the Lease or was quicker. Raises `ApiError` when the server does not say.
        """
        if self.holds:
            try:
                await self.take(annotations)
                return True
            except Exception:  # noqa: S110 - the reading below tells what is so
                pass
        await self.fetch()
        if self.record is not None and not self.may_take():
            return False
        try:
            await self.take(annotations)
        except (Conflict, AlreadyExists):
            return False
        return True

    async def release(
        self,
        annotations: Mapping[str, str | None] | None = None,
        *,
        ours: Callable[[LeaseRecord], bool] = lambda record: True,
    ) -> bool:
        """Give the Lease up, so that another may take it at once; only after all work under it has ended.

        A conflict is retried a few times. False when it was not ours any more; `ours` tells more of that than the holder's
        name does. Raises `ApiError`; then it expires by itself.
        """
        for attempt in range(RELEASE_TRIES):
            if attempt or self.record is None:
                await self.fetch()
            record = self.record
            if record is None or record.holder != self.identity or not ours(record):
                return False
            try:
                stored = await self._write(
                    self._object(record.obj, released_spec(record, self._clock.now()), annotations)
                )
            except Conflict:
                continue
            self._sent_at = None
            self.see(stored)
            return True
        return False

    async def _write(self, obj: Obj) -> Obj:
        return await self._client.update(LEASE, obj, timeout=self._timeout, retry=Retry.NEVER)

    def _object(self, base: Obj, spec: dict[str, Any], annotations: Mapping[str, str | None] | None) -> Obj:
        metadata = {**base.get("metadata", {}), "namespace": self.namespace, "name": self.name}
        metadata.pop("managedFields", None)
        if annotations:
            merged = {**(metadata.get("annotations") or {}), **annotations}
            metadata["annotations"] = {name: value for name, value in merged.items() if value is not None}
        return {
            **base,
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": metadata,
            "spec": {**(base.get("spec") or {}), **spec},
        }
