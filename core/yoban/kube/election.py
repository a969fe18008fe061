"""Leader election over a `LeaseLock`.

Guarantees: while `hold` runs, the Lease was renewed within the renew deadline, counted from the sending; when it was not, or
somebody else holds it, `hold` raises `LeaseLost`, and a watchdog thread ends the process before the Lease may be taken even
if the loop is blocked. The Lease is released only on request, after the work ended. Does not stop the work: who runs it
cancels it when `hold` raises, with no time for grace.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import uuid
from dataclasses import dataclass

from yoban.errors import InvalidInput
from yoban.kube.backoff import Random, default_random
from yoban.kube.clock import Clock, SystemClock
from yoban.kube.errors import ApiError
from yoban.kube.lease import LeaseLock, LeaseLost
from yoban.kube.metrics import Gauges
from yoban.kube.watchdog import Watchdog

log = logging.getLogger(__name__)

JITTER = 1.2


@dataclass(frozen=True, slots=True)
class LeaseTimings:
    """Seconds: how long a Lease is good, how long a holder tries to renew it, how long it waits between tries.

    Raises `InvalidInput` unless duration > renew_deadline > retry x 1.2 and margin fits between the first two.
    """

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0
    margin: float = 2.0

    def __post_init__(self) -> None:
        if not self.duration > self.renew_deadline > self.retry * JITTER > 0:
            raise InvalidInput(
                "the times of leader election do not fit",
                cause=f"duration {self.duration:g}, renew deadline {self.renew_deadline:g}, retry {self.retry:g} s",
                fix="choose duration > renew deadline > 1.2 x retry > 0",
            )
        if not 0 <= self.margin < self.duration - self.renew_deadline:
            raise InvalidInput(
                "the watchdog's margin does not fit",
                cause=f"margin {self.margin:g} s",
                fix="choose it below duration - renew deadline",
            )

    @property
    def request(self) -> float:
        """Seconds for one request."""
        return max(1.0, self.renew_deadline / 2)


def process_identity() -> str:
    """Host name and a random part: unique for each start of the process."""
    return f"{os.environ.get('HOSTNAME') or socket.gethostname()}_{uuid.uuid4().hex[:12]}"


class Elector:
    """One candidate.

    Args:
        lock: the Lease; its duration must be that of `timings`.
        timings, clock, random: see their types.
        watchdog: armed while we lead; None for tests on virtual time.
    """

    def __init__(
        self,
        lock: LeaseLock,
        timings: LeaseTimings | None = None,
        *,
        clock: Clock | None = None,
        random: Random = default_random,
        watchdog: Watchdog | None = None,
    ) -> None:
        self.lock = lock
        self.timings = timings or LeaseTimings()
        self._clock = clock or SystemClock()
        self._random = random
        self._watchdog = watchdog
        self.leading = False
        _gauges.track(self)

    async def acquire(self) -> None:
        """Return when the Lease is ours. Goes on through any failure until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self.timings.renew_deadline):
                    taken = await self.lock.try_take()
            except (ApiError, TimeoutError) as error:
                log.warning("trying for %s/%s failed: %s", self.lock.namespace, self.lock.name, error)
                taken = False
            if taken and self._left() <= 0:
                # The process stood still until the answer was old: somebody else may have the Lease by now.
                log.warning("the answer of %s/%s came too late, trying again", self.lock.namespace, self.lock.name)
                taken = False
            if taken:
                self.leading = True
                self._feed()
                log.info("leading by %s/%s as %s", self.lock.namespace, self.lock.name, self.lock.identity)
                return
            await self._clock.sleep(self.timings.retry * (1.0 + JITTER * self._random()))

    async def hold(self) -> None:
        """Renew until cancelled; `LeaseLost` when that failed for too long, or somebody else has the Lease."""
        timings = self.timings
        while True:
            if self._left() <= 0:  # a success whose answer was read too late is none
                self._lose("the answer to its renewal came too late")
            await self._clock.sleep(timings.retry)
            left = self._left()
            try:
                if left <= 0:
                    raise TimeoutError
                async with asyncio.timeout(left):
                    while not await self._renewed():
                        await self._clock.sleep(timings.retry)
            except TimeoutError:
                self._lose("it could not be renewed in time")
            self._feed()

    def _left(self) -> float:
        """Seconds of the renew deadline that are left.

        From the sending of the last success, not from its answer: the others' clocks may have started there.
        """
        return (self.lock.sent_at or 0.0) + self.timings.renew_deadline - self._clock.boottime()

    async def _renewed(self) -> bool:
        reign = self.lock.record.transitions if self.lock.record is not None else None
        try:
            renewed = await self.lock.try_take()
        except ApiError as error:
            log.warning("renewing %s/%s failed: %s", self.lock.namespace, self.lock.name, error)
            return False
        if not renewed and self.lock.record is not None and self.lock.record.holder not in ("", self.lock.identity):
            self._lose(f"{self.lock.record.holder} holds it")
        if renewed and self.lock.record is not None and self.lock.record.transitions != reign:
            self._lose("it was taken from us and became free again meanwhile")
        return renewed

    def _lose(self, cause: str) -> None:
        self.leading = False
        raise LeaseLost(
            "the Lease is lost",
            object=f"Lease {self.lock.namespace}/{self.lock.name}",
            cause=cause,
            fix="nothing: the process ends and starts again as a candidate",
        )

    def _feed(self) -> None:
        if self._watchdog is not None and self.lock.sent_at is not None:
            self._watchdog.arm(self.lock.sent_at + self.timings.duration - self.timings.margin)

    async def release(self) -> bool:
        """Give the Lease up after all leader work ended. False when it was not ours or could not be released."""
        self.leading = False
        try:
            async with asyncio.timeout(self.timings.renew_deadline):
                return await self.lock.release()
        except (ApiError, TimeoutError) as error:
            log.warning("releasing %s/%s failed, it will expire: %s", self.lock.namespace, self.lock.name, error)
            return False
        finally:
            if self._watchdog is not None:
                self._watchdog.close()

    def check(self, tolerance: float = 20.0) -> str | None:
        """What is wrong, for a health check: we lead by a Lease older than its duration + `tolerance` seconds."""
        if not self.leading or self.lock.deadline is None:
            return None
        late = self._clock.boottime() - self.lock.deadline
        if late > tolerance:
            return f"leading by a Lease that ended {late:.0f} s ago"
        return None


_gauges: Gauges[Elector] = Gauges(
    lambda elector: {"lease": elector.lock.name},
    [("yoban.lease.leading", "1 while this process leads", "1", lambda elector: float(elector.leading))],
)
