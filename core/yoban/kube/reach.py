"""Whether anybody is at the API server's address: one prober for all who were told that nobody is.

A back-off that grows is right for a server that is overloaded, and wrong for one that is away: nobody is spared by it, and
whoever waits is late. So while connections are refused, or closed without a byte of an answer, `GET /readyz` is sent, about
once a second for the whole process, and when it is answered all who wait are woken, each a little later than the other. Any
answer will do: a server that has just started serves most requests before it calls itself ready.

Guarantees: probes only on behalf of somebody, never two at once, and never in quick succession, whatever fails how often;
nobody is woken unless a probe had failed before, so that a server which accepts connections and serves nobody, is busy,
answers with errors or does not answer in time is met with the back-off of each request as before. A wait is never longer
than without it. Does not send, hold back or repeat any request: that is the client's and its callers'.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable

from yoban.kube.backoff import Backoff, BackoffPolicy, Random, default_random
from yoban.kube.errors import ApiError, Unreachable
from yoban.kube.metrics import Gauges, Tally
from yoban.kube.transport import Transport

log = logging.getLogger(__name__)

PATH = "/readyz"  # open to every account by Kubernetes' own `system:public-info-viewer`, and never queued
PROBE_TIMEOUT = 2.0  # seconds
SPREAD = 0.2  # seconds over which those who wait are woken
REFUSED = BackoffPolicy(initial=0.1, cap=0.8, jitter=0.25, reset_after=10.0)
"""Between two probes of a server that is away. A refused connection costs either side next to nothing."""
LATE = BackoffPolicy(initial=0.4)
"""Between two probes of a server that was away and now does not answer in time: it may be starting, or overloaded."""

probes_total = Tally("yoban.kube.probes", "Probes of an API server that did not answer", ("outcome",))
OUTCOMES = ("answered", "refused", "late")


class Reach:
    """What one client knows of its server. Tasks are made when somebody asks; `close` it in the end.

    Args:
        transport: the way to the server.
        random: jitter.
    """

    def __init__(self, transport: Transport, random: Random = default_random) -> None:
        self._transport = transport
        self._random = random
        # The prober is nobody's reconcile, whoever asked for it first: what is logged must not bear that one's name.
        self._context = contextvars.copy_context()
        self._prober: asyncio.Task[None] | None = None
        # A dict for its order: who waited first is woken first, and a seeded simulation is replayed exactly.
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._listeners: list[Callable[[], None]] = []
        self._pace = Backoff(REFUSED, random)
        self._not_before = float("-inf")  # loop time of the next probe at the earliest
        self.away = False
        """Whether a probe failed since the server last answered."""
        for outcome in OUTCOMES:
            probes_total.init(outcome)
        _gauges.track(self)

    def suspect(self) -> None:
        """A request found nobody: find out, and tell who waits when somebody is there again. May be called at any time."""
        if self._prober is None or self._prober.done():
            loop = asyncio.get_running_loop()
            context = self._context.copy()
            self._prober = loop.create_task(self._probe_until_answered(), name="api probe", context=context)

    def answered(self) -> None:
        """A request was answered, whatever with. Wakes everybody if the server was away."""
        if self.away:
            self.away = False
            log.info("the API server answers again")
            for future in self._waiting:
                if not future.done():
                    future.set_result(None)
            for listener in tuple(self._listeners):
                listener()

    async def pause(self, seconds: float) -> bool:
        """Wait for `seconds` after a request found nobody, or until the server is back; whether it is."""
        self.suspect()
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        future: asyncio.Future[None] = loop.create_future()
        self._waiting[future] = None
        try:
            await asyncio.wait({future}, timeout=seconds)
        finally:
            self._waiting.pop(future, None)
        back = future.done()
        if back:
            await asyncio.sleep(min(max(0.0, end - loop.time()), SPREAD * self._random()))
        return back

    def on_back(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` (sync, quick, must not raise) each time when the server is back; returns what ends that."""
        self._listeners.append(listener)

        def remove() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return remove

    async def close(self) -> None:
        """End the prober. May be called twice."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.wait({self._prober})

    # -- the prober --------------------------------------------------------------------------------------------------

    async def _probe_until_answered(self) -> None:
        loop = asyncio.get_running_loop()
        late = Backoff(LATE, self._random)
        while True:
            await asyncio.sleep(max(0.0, self._not_before - loop.time()))
            outcome = await self._probe()
            probes_total.add(outcome)
            now = loop.time()
            if outcome == "late" and self.away:
                self._not_before = now + late.next(now)
                continue
            self._not_before = now + self._pace.next(now)
            if outcome == "refused":
                if not self.away:
                    self.away = True
                    log.warning("nobody is at the API server's address; looking about once a second")
                continue
            if outcome == "answered":
                self.answered()
            return  # who is busy, failing or slow is left to the back-off of each request

    async def _probe(self) -> str:
        try:
            await self._transport.request("GET", PATH, deadline=PROBE_TIMEOUT)
        except Unreachable:
            return "refused"
        except ApiError:
            return "late"
        except Exception:  # each request's own failure tells of it, too
            log.exception("the API server cannot be probed")
            return "late"
        return "answered"


_gauges: Gauges[Reach] = Gauges(
    lambda reach: {},
    [("yoban.kube.away", "1 while nobody is at the API server's address", "1", lambda reach: float(reach.away))],
)
