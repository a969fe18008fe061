"""The queue between events and workers: keys with priorities, delays and rate limits.

Guarantees: a key is never in two workers' hands at once; what is added while it is worked on is worked on again; a burst of
adds is one item. Higher priorities come first, equals in order of arrival. A wake-up is never lost, also when the one who was
woken is cancelled (so no `asyncio.Condition`). `add` never blocks. Keeps no item across a restart: the first list brings all.

Invariant: a key is ready <=> it is dirty and not being processed.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Hashable
from typing import Any, Generic, NamedTuple, TypeVar

from yoban.kube.metrics import Gauges, Tally, meter
from yoban.kube.ratelimit import RateLimiter, TokenBucket

K = TypeVar("K", bound=Hashable)

INITIAL = -100
"""Priority of what a first list or an unchanged relist brings: behind every real change."""
NORMAL = 0
"""Priority of a change."""
URGENT = 100
"""Priority of what must not wait, such as the loss of a primary."""

SLACK = 16  # stale entries of a heap that are put up with, besides one for each valid one

adds_total = Tally("yoban.workqueue.adds", "Items added", ("queue",))
retries_total = Tally("yoban.workqueue.retries", "Items added again after a failure", ("queue",))
_queue_time = meter.create_histogram("yoban.workqueue.queue.duration", "s", "From ready to taken by a worker")
_work_time = meter.create_histogram("yoban.workqueue.work.duration", "s", "From taken by a worker to done")


class QueueShutDown(Exception):
    """The queue is shut down and empty."""


class Item(NamedTuple, Generic[K]):
    """A key in a worker's hands, with the priority it had."""

    key: K
    priority: int


class _Dirty:
    """A key that needs work. `number` says which heap entry is the valid one; -1 while it is being processed."""

    __slots__ = ("number", "priority", "since")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.number = -1
        self.since = 0.0


class WorkQueue(Generic[K]):
    """See the module. All methods but `get` and `shut_down` are sync; use it from one event loop.

    Args:
        name: label of its metrics.
        limiter: delays after failures; default: 5 ms doubling up to 1000 s, and 10 a second with a burst of 100 overall.
    """

    def __init__(self, name: str = "", limiter: RateLimiter[K] | None = None) -> None:
        self.name = name
        self.limiter: RateLimiter[K] = limiter if limiter is not None else RateLimiter(bucket=TokenBucket())
        self._loop = asyncio.get_running_loop()
        self._dirty: dict[K, _Dirty] = {}
        self._ready: list[tuple[int, int, K]] = []  # heap of (-priority, arrival, key); stale entries are skipped
        self._ready_count = 0
        self._processing: dict[K, float] = {}
        self._due: dict[K, tuple[float, int, int]] = {}  # key -> (due, number, priority)
        self._waiting: list[tuple[float, int, K]] = []  # heap of (due, number, key); stale entries are skipped
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._arrivals = 0
        self._getters: deque[asyncio.Future[None]] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._shutting_down = False
        self._labels = {"queue": name}
        adds_total.init(name)
        retries_total.init(name)
        _gauges.track(self)

    # -- adding ----------------------------------------------------------------------------------------------------

    def add(self, key: K, *, priority: int = NORMAL, after: float = 0.0) -> None:
        """Have `key` worked on, `after` seconds from now at the latest; ignored once shutting down.

        A key that is there already keeps the higher priority and the earlier time.
        """
        if self._shutting_down:
            return
        if after > 0:
            self._add_later(key, priority, self._loop.time() + after)
            return
        waiting = self._due.pop(key, None)
        if waiting is not None:
            priority = max(priority, waiting[2])
        self._add_now(key, priority)

    def add_rate_limited(
        self, key: K, *, priority: int = NORMAL, at_least: float = 0.0, limiter: RateLimiter[K] | None = None
    ) -> float:
        """Add `key` after a failure, as late as the limiter says but not before `at_least` seconds; returns the delay.

        `limiter` counts in the place of the queue's own; what it counted is its owner's to forget.
        """
        limiter = self.limiter if limiter is None else limiter
        delay = max(limiter.when(key, self._loop.time()), at_least)
        retries_total.add(self.name)
        self.add(key, priority=priority, after=delay)
        return delay

    def forget(self, key: K) -> None:
        """`key` succeeded: its failures no longer count."""
        self.limiter.forget(key)

    def _add_now(self, key: K, priority: int) -> None:
        entry = self._dirty.get(key)
        if entry is None:
            adds_total.add(self.name)
            entry = self._dirty[key] = _Dirty(priority)
            if key not in self._processing:
                self._make_ready(key, entry)
                self._wake_one()
        elif priority > entry.priority:
            entry.priority = priority
            if entry.number >= 0:  # last among its new peers; the old heap entry is stale now
                self._ready_count -= 1
                self._make_ready(key, entry, since=entry.since)

    def _make_ready(self, key: K, entry: _Dirty, since: float | None = None) -> None:
        self._arrivals += 1
        entry.number = self._arrivals
        entry.since = self._loop.time() if since is None else since
        heapq.heappush(self._ready, (-entry.priority, entry.number, key))
        self._ready_count += 1
        if len(self._ready) > 2 * self._ready_count + SLACK:
            self._ready = [(-e.priority, e.number, k) for k, e in self._dirty.items() if e.number >= 0]
            heapq.heapify(self._ready)

    def _add_later(self, key: K, priority: int, due: float) -> None:
        entry = self._dirty.get(key)
        if entry is not None:  # it is due now already
            self._add_now(key, priority)
            return
        waiting = self._due.get(key)
        if waiting is not None:
            priority = max(priority, waiting[2])
            if waiting[0] <= due:
                self._due[key] = (waiting[0], waiting[1], priority)
                return
        self._arrivals += 1
        self._due[key] = (due, self._arrivals, priority)
        heapq.heappush(self._waiting, (due, self._arrivals, key))
        if len(self._waiting) > 2 * len(self._due) + SLACK:
            # A key that is looked at again in an hour, and changes each second until then, left an entry each time.
            self._waiting = [(due, number, key) for key, (due, number, _) in self._due.items()]
            heapq.heapify(self._waiting)
        self._set_timer()

    def _set_timer(self) -> None:
        while self._waiting and not self._is_waiting(self._waiting[0]):
            heapq.heappop(self._waiting)
        due = self._waiting[0][0] if self._waiting else None
        if self._timer is not None:
            if due is not None and self._timer_at == due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer_at = due
            self._timer = self._loop.call_at(due, self._on_due)

    def _is_waiting(self, entry: tuple[float, int, K]) -> bool:
        due = self._due.get(entry[2])
        return due is not None and due[1] == entry[1]

    def _on_due(self) -> None:
        self._timer = None
        # The loop may call a timer early by its clock's resolution.
        now = max(self._loop.time(), self._timer_at)
        while self._waiting and (self._waiting[0][0] <= now or not self._is_waiting(self._waiting[0])):
            entry = heapq.heappop(self._waiting)
            if self._is_waiting(entry):
                _, _, priority = self._due.pop(entry[2])
                self._add_now(entry[2], priority)
        self._set_timer()

    # -- working ---------------------------------------------------------------------------------------------------

    async def get(self) -> Item[K]:
        """The next item, to be given back with `done`; waits for one. `QueueShutDown` once shut down and empty."""
        while True:
            item = self._pop()
            if item is not None:
                return item
            if self._shutting_down:
                raise QueueShutDown(self.name)
            getter: asyncio.Future[None] = self._loop.create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                if getter.done() and not getter.cancelled():
                    self._wake_one()  # the wake-up was ours, and we go: somebody else must get it
                elif getter in self._getters:
                    self._getters.remove(getter)
                raise

    def _pop(self) -> Item[K] | None:
        while self._ready:
            _, number, key = heapq.heappop(self._ready)
            entry = self._dirty.get(key)
            if entry is None or entry.number != number:
                continue
            del self._dirty[key]
            self._ready_count -= 1
            now = self._loop.time()
            self._processing[key] = now
            _queue_time.record(now - entry.since, self._labels)
            return Item(key, entry.priority)
        return None

    def done(self, key: K) -> None:
        """`key` is worked on no longer; call it in `finally` for each `get`. KeyError for a key that nobody has."""
        started = self._processing.pop(key)
        _work_time.record(self._loop.time() - started, self._labels)
        entry = self._dirty.get(key)
        if entry is not None:
            self._make_ready(key, entry)
            self._wake_one()
        elif not self._processing:
            self._now_idle()

    def _wake_one(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    # -- ending ----------------------------------------------------------------------------------------------------

    async def shut_down(self, *, drain: bool = False) -> None:
        """Take nothing more: what is ready is still worked on, what waits for its time is dropped. May be called twice.

        With `drain` return only when no key is in anybody's hands.
        """
        self._shutting_down = True
        self._due.clear()
        self._waiting.clear()
        self._set_timer()
        getters, self._getters = self._getters, deque()
        for getter in getters:
            if not getter.done():
                getter.set_result(None)
        while drain and (self._processing or self._ready_count):
            future: asyncio.Future[None] = self._loop.create_future()
            self._idle.append(future)
            await future

    def _now_idle(self) -> None:
        idle, self._idle = self._idle, []
        for future in idle:
            if not future.done():
                future.set_result(None)

    # -- looking ---------------------------------------------------------------------------------------------------

    @property
    def shutting_down(self) -> bool:
        """Whether `shut_down` was called."""
        return self._shutting_down

    def __len__(self) -> int:
        """Items that are ready; those that wait for their time, or are being worked on, do not count."""
        return self._ready_count

    @property
    def waiting(self) -> int:
        """Items that wait for their time."""
        return len(self._due)

    @property
    def processing(self) -> int:
        """Items in the hands of workers."""
        return len(self._processing)

    def unfinished_seconds(self) -> float:
        """Sum of the time that the items in hand have taken so far."""
        now = self._loop.time()
        return sum(now - started for started in list(self._processing.values()))

    def longest_running(self) -> float:
        """The time that the oldest item in hand has taken so far, 0 when there is none."""
        now = self._loop.time()
        return max((now - started for started in list(self._processing.values())), default=0.0)


_gauges: Gauges[WorkQueue[Any]] = Gauges(
    lambda queue: {"queue": queue.name},
    [
        ("yoban.workqueue.depth", "Items that are ready", "1", lambda queue: float(len(queue))),
        ("yoban.workqueue.waiting", "Items that wait for their time", "1", lambda queue: float(queue.waiting)),
        ("yoban.workqueue.unfinished", "Time spent on items in hand", "s", lambda queue: queue.unfinished_seconds()),
        (
            "yoban.workqueue.longest_running",
            "Age of the oldest item in hand",
            "s",
            lambda queue: queue.longest_running(),
        ),
    ],
)
