"""A cache of one kind that is kept up to date, and tells handlers what changed.

Guarantees: a change is in the store before any handler hears of it, and no await lies between; a handler that is added late
hears of everything that is there; `has_synced` is true only after the first list reached the handlers; a deletion that nobody
saw is told after the next list, with the last known object. One reflector serves each namespace, all fill the same store.
Does not call handlers for a write of our own before the server tells it: `wait_seen` bridges that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from yoban.errors import NotReady
from yoban.kube.backoff import Random, default_random
from yoban.kube.client import Client
from yoban.kube.clock import Clock, SystemClock
from yoban.kube.metrics import Gauges, Tally
from yoban.kube.mutation import MutationDetector
from yoban.kube.objects import Obj, ObjectKey, key_of, resource_version_of, uid_of
from yoban.kube.reflector import Reflector, ReflectorSettings, Scope
from yoban.kube.resource import Resource
from yoban.kube.store import IndexFunction, Store

log = logging.getLogger(__name__)

handler_failures_total = Tally("yoban.kube.handler.failures", "Event handlers that raised", ("resource",))
_RECENT = 1024  # resource versions remembered for `wait_seen`

Transform = Callable[[Obj], Obj]
"""Called with each object before it is stored; may change it, must not fail."""


def drop_bookkeeping(obj: Obj) -> Obj:
    """The default transform: drops `managedFields` and kubectl's last-applied annotation, which nobody here reads."""
    metadata = obj.get("metadata")
    if metadata:
        metadata.pop("managedFields", None)
        annotations = metadata.get("annotations")
        if annotations:
            annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    return obj


@dataclass(frozen=True, slots=True)
class Handler:
    """What is called on changes: sync, cheap, enqueues keys and nothing else. Objects are shared: not to be changed.

    Attributes:
        on_add: (object, initial): `initial` for what a first list or a late registration brings.
        on_update: (old, new): with equal resource versions after a list of something unchanged.
        on_delete: (last known object, stale): `stale` when the deletion itself was missed.
    """

    on_add: Callable[[Obj, bool], None]
    on_update: Callable[[Obj, Obj], None]
    on_delete: Callable[[Obj, bool], None]


class Informer:
    """The cache of one kind, with its reflectors. `run` it, or give it to a manager.

    Args:
        client: the way to the API server.
        resource: the kind.
        namespaces: None for all, else those to watch, each with a reflector of its own.
        labels, fields: selectors in the API's syntax; watch only what is needed.
        transform: shrinks objects before they are stored.
        indexers: index functions by name.
        settings, clock, random: see their types.
        detect_mutation: for tests: `store` reads are checked by `check_mutation`.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        *,
        namespaces: Sequence[str] | None = None,
        labels: str | None = None,
        fields: str | None = None,
        transform: Transform = drop_bookkeeping,
        indexers: Mapping[str, IndexFunction] | None = None,
        settings: ReflectorSettings | None = None,
        clock: Clock | None = None,
        random: Random = default_random,
        detect_mutation: bool = False,
    ) -> None:
        self.resource = resource
        self.client = client
        self.store = Store(indexers)
        self._clock = clock or SystemClock()
        self._handlers: list[Handler] = []
        self._detector = MutationDetector() if detect_mutation else None
        self._synced = asyncio.Event()
        self._filled: set[str | None] = set()
        self._recent: deque[str] = deque(maxlen=_RECENT)
        self._recent_set: set[str] = set()
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self.started_at = self._clock.monotonic()
        scopes: Sequence[str | None] = namespaces if namespaces and resource.namespaced else (None,)
        self._reflectors = [
            Reflector(
                client,
                Scope(resource, namespace, labels, fields),
                self,
                settings=settings,
                clock=self._clock,
                random=random,
                transform=transform,
            )
            for namespace in scopes
        ]
        _gauges.track(self)

    @property
    def name(self) -> str:
        """How logs and health checks call it."""
        return f"informer {self.resource}"

    @property
    def has_synced(self) -> bool:
        """Whether the first list of every namespace reached the handlers."""
        return self._synced.is_set()

    async def run(self) -> None:
        """Keep the cache up to date until cancelled. To be called once."""
        async with asyncio.TaskGroup() as group:
            for reflector in self._reflectors:
                group.create_task(reflector.run(), name=f"reflect {reflector.scope.resource}")

    async def wait_synced(self, timeout: float = 120.0) -> None:
        """Return when `has_synced`; `NotReady`, with the last failure as cause, after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._synced.wait()
        except TimeoutError as error:
            raise NotReady(
                f"the cache was not filled within {timeout:.0f} s",
                object=self.name,
                cause="; ".join(r.last_error for r in self._reflectors if r.last_error),
                fix="check the API server and the permissions to list and watch",
            ) from error

    def last_heard(self) -> float:
        """Monotonic time at which the quietest of the reflectors was last heard from; the start before that."""
        return max(self.started_at, min(r.last_heard for r in self._reflectors))

    def check(self, max_silence: float = 300.0) -> str | None:
        """What is wrong, for a readiness check, or None: not synced, or not heard from for `max_silence` seconds."""
        if not self.has_synced:
            return f"{self.name} has not synced: {'; '.join(r.last_error for r in self._reflectors) or 'no answer yet'}"
        silence = self._clock.monotonic() - self.last_heard()
        if silence > max_silence:
            return f"{self.name} was not heard from for {silence:.0f} s"
        return None

    # -- reading ---------------------------------------------------------------------------------------------------

    def get(self, key: ObjectKey) -> Obj | None:
        """The cached object, shared and not to be changed, or None."""
        return self.store.get(key)

    async def wait_seen(self, obj: Obj, timeout: float = 5.0) -> bool:
        """Wait until the cache has heard of the version that a write of ours returned; False after `timeout` seconds.

        Versions cannot be compared, so one that a list jumped over is waited for in vain: treat False as "maybe stale".
        """
        version = resource_version_of(obj)
        if version in self._recent_set:
            return True
        cached = self.store.get(key_of(obj))
        if cached is not None and resource_version_of(cached) == version:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(version, []).append(future)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            return False
        finally:
            waiters = self._waiting.get(version)
            if waiters is not None and future in waiters:
                waiters.remove(future)
                if not waiters:
                    del self._waiting[version]
        return True

    # -- handlers --------------------------------------------------------------------------------------------------

    def add_handler(self, handler: Handler) -> Callable[[], None]:
        """Tell `handler` of everything that is there, then of every change; returns what removes it again."""
        self._handlers.append(handler)
        for obj in self.store.objects():
            self._tell(lambda h, o=obj: h.on_add(o, True), only=handler)  # type: ignore[misc]

        def remove() -> None:
            if handler in self._handlers:
                self._handlers.remove(handler)

        return remove

    def check_mutation(self) -> None:
        """Raise `CacheMutated` if somebody changed a cached object; only with `detect_mutation`."""
        if self._detector is not None:
            self._detector.check(self.store.objects())

    # -- the reflectors' sink ----------------------------------------------------------------------------------------

    def replace(self, items: list[Obj], scope: str | None) -> None:
        """See `Sink.replace`."""
        initial = scope not in self._filled
        present: set[ObjectKey] = set()
        for obj in items:
            present.add(key_of(obj))
            self._put(obj, initial=initial)
        known = self.store.keys()
        for key in known:
            if key not in present and (scope is None or key.namespace == scope):
                gone = self.store.remove(key)
                if gone is not None:
                    self._tell(lambda h, o=gone: h.on_delete(o, True))  # type: ignore[misc]
        self._filled.add(scope)
        if len(self._filled) == len(self._reflectors):
            self._synced.set()

    def change(self, obj: Obj) -> None:
        """See `Sink.change`."""
        self._put(obj, initial=False)

    def delete(self, obj: Obj) -> None:
        """See `Sink.delete`."""
        known = self.store.remove(key_of(obj))
        self._saw(obj)
        if known is not None:
            self._tell(lambda h: h.on_delete(obj, False))

    def _put(self, obj: Obj, *, initial: bool) -> None:
        if self._detector is not None:
            self._detector.check([known] if (known := self.store.get(key_of(obj))) is not None else ())
            self._detector.note(obj)
        old = self.store.put(obj)
        self._saw(obj)
        if old is not None and uid_of(old) != uid_of(obj):
            # Deleted and made again while nobody looked: the old one's end must not be lost.
            gone = old
            old = None
            self._tell(lambda h: h.on_delete(gone, True))
        for handler in tuple(self._handlers):
            try:
                if old is None:
                    handler.on_add(obj, initial)
                else:
                    handler.on_update(old, obj)
            except Exception:
                self._handler_failed()

    def _tell(self, call: Callable[[Handler], None], only: Handler | None = None) -> None:
        for handler in (only,) if only is not None else tuple(self._handlers):
            try:
                call(handler)
            except Exception:
                self._handler_failed()

    def _handler_failed(self) -> None:
        # One bad handler must not keep the others, or the cache, from hearing.
        handler_failures_total.add(str(self.resource))
        log.exception("a handler of %s failed", self.resource)

    def _saw(self, obj: Obj) -> None:
        version = resource_version_of(obj)
        if len(self._recent) == _RECENT:
            self._recent_set.discard(self._recent[0])
        self._recent.append(version)
        self._recent_set.add(version)
        for future in self._waiting.pop(version, ()):
            if not future.done():
                future.set_result(None)


_gauges: Gauges[Informer] = Gauges(
    lambda informer: {"resource": str(informer.resource)},
    [
        ("yoban.kube.cache.objects", "Objects in the cache", "1", lambda informer: float(len(informer.store))),
        ("yoban.kube.cache.synced", "1 once the cache is filled", "1", lambda informer: float(informer.has_synced)),
        (
            "yoban.kube.cache.silence",
            "Seconds since the API server was last heard from",
            "s",
            lambda informer: max(0.0, informer._clock.monotonic() - informer.last_heard()),
        ),
    ],
)
