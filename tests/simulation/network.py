"""The way between each process and the API server, with everything that goes wrong on it.

Guarantees: what a process sends while it is cut off never arrives; a stream keeps its order, two streams need not keep
theirs; what was sent before its process died may still arrive. Each link draws from a random stream of its own. A fault
answers or delays, and never makes up a success.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from random import Random
from typing import Any

from yoban.kube.errors import Timeout, Unreachable
from yoban.kube.transport import Answer
from yoban.testing.apirequest import Request, parse_request
from yoban.testing.apiserver import FakeApiServer
from yoban.testing.apistatus import status_answer
from yoban.testing.apiwatch import Watcher, Whole

from tests.simulation.processes import KERNEL, Process, ProcessLoop
from tests.simulation.weather import CALM, Weather

SLOW = 12.0  # seconds; longer than the deadline of a request
PAGE = Answer(502, {"Content-Type": "text/html"}, b"<html>\n<body>Bad Gateway</body>\n</html>\n")
Trace = Callable[[str, str], None]


class Network:
    """What all links share."""

    def __init__(self, loop: ProcessLoop, server: FakeApiServer, weather: Weather, trace: Trace) -> None:
        self.loop = loop
        self.server = server
        self.weather = weather
        self.trace = trace
        self.up = True
        self.hangs = False
        """A server that is down: whether connecting to it hangs, or is refused."""
        self.on_send: Callable[[Process, Request], None] = lambda process, request: None
        self.digest = 0
        """Of everything that the server was asked, in order: equal for two runs of a seed."""

    def link(self, process: Process, slot: int, random: Random) -> Link:
        """The way of a new process; which of the replicas it is does not matter here."""
        return Link(self, process, random)

    def calm(self) -> None:
        """No faults any more."""
        self.weather = CALM
        self.up = True


class _Call:
    __slots__ = ("body", "content_type", "future", "left", "method", "opened", "request", "target")

    def __init__(
        self,
        method: str,
        target: str,
        body: bytes | None,
        content_type: str | None,
        future: asyncio.Future[Any],
        opened: list[Feed] | None,
    ) -> None:
        self.opened = opened
        self.left = False
        self.method = method
        self.target = target
        self.body = body
        self.content_type = content_type
        self.future = future
        self.request = parse_request(method, target, body)


class Link:
    """One process's transport.

    Attributes:
        cut_out, cut_in: whether what it sends, or what is sent to it, is lost.
    """

    def __init__(self, network: Network, process: Process, random: Random) -> None:
        self.network = network
        self.process = process
        self.cut_out = False
        self.cut_in = False
        self.feeds: list[Feed] = []
        self._random = random

    # -- the transport -----------------------------------------------------------------------------------------------

    async def request(
        self, method: str, target: str, *, body: bytes | None = None, content_type: str | None = None, deadline: float
    ) -> Answer:
        """See `Transport.request`."""
        answer = await self._call(method, target, body, content_type, deadline)
        assert isinstance(answer, Answer)
        return answer

    @contextlib.asynccontextmanager
    async def stream(self, target: str, *, deadline: float) -> AsyncIterator[Any]:
        """See `Transport.stream`."""
        opened: list[Feed] = []
        try:
            found = await self._call("GET", target, None, None, deadline, opened)
            yield Whole(found) if isinstance(found, Answer) else found
        finally:
            for feed in opened:
                feed.close()

    async def close(self) -> None:
        """End all streams."""
        self.abandon()

    def abandon(self) -> None:
        """Its process is gone: end all streams."""
        for feed in list(self.feeds):
            feed.close()

    async def _call(
        self,
        method: str,
        target: str,
        body: bytes | None,
        content_type: str | None,
        deadline: float,
        opened: list[Feed] | None = None,
    ) -> Any:
        network = self.network
        if self.process.dead:
            raise Unreachable("the process is gone", sent=False)
        call = _Call(method, target, body, content_type, network.loop.create_future(), opened)
        network.on_send(self.process, call.request)
        if not network.up and not network.hangs:
            await asyncio.sleep(0.001)
            raise Unreachable("connection refused", object=target, sent=False)
        if not self._chance("lost"):
            network.loop.later(self._delay(), self._arrive, call)
            if call.request.verb != "watch" and self._chance("repeated"):
                network.loop.later(self._delay(), self._arrive, call)
        try:
            async with asyncio.timeout(deadline):
                return await call.future
        except TimeoutError as error:
            raise Timeout("no answer", object=target) from error
        finally:
            call.left = True

    # -- on the way --------------------------------------------------------------------------------------------------

    def _chance(self, fault: str) -> bool:
        rate: float = getattr(self.network.weather, fault)
        return rate > 0 and self._random.random() < rate

    def _delay(self) -> float:
        if self._chance("slow"):
            return self._random.uniform(0.2, SLOW)
        return self._random.uniform(0.001, 0.01)

    def _arrive(self, call: _Call) -> None:
        network, random = self.network, self._random
        if self.cut_out or (not network.up and network.hangs):
            return
        if not network.up:
            network.loop.later(0.001, self._deliver, call, Unreachable("connection reset", object=call.target))
            return
        if call.request.verb == "watch":
            self._arrive_watch(call)
            return
        answer: Answer | Exception | None = self._refusal(call.request)
        if answer is None:
            served = (
                Answer(200, {}, b"ok")
                if call.target == "/readyz"
                else network.server.serve(call.method, call.target, call.body, call.content_type)
            )
            network.digest = zlib.crc32(
                f"{network.loop.time()} {call.method} {call.target} {served.status}".encode(), network.digest
            )
            network.trace(self.process.name, f"{call.method} {call.target} -> {served.status}")
            answer = self._spoilt(served, random)
        if answer is not None:
            network.loop.later(self._delay(), self._deliver, call, answer)

    def _refusal(self, request: Request) -> Answer | None:
        """An answer in the server's place: nothing is done."""
        if self.network.weather is CALM:
            return None
        random = self._random
        if self._chance("busy"):
            return status_answer(429, "TooManyRequests", retry_after=random.choice((None, 1, 3)))
        if self._chance("failed"):
            return status_answer(random.choice((500, 503)), random.choice(("InternalError", "")))
        if self._chance("page"):
            return PAGE
        if request.is_write and self._chance("conflict"):
            return status_answer(409, "Conflict", "the object has been modified")
        if request.verb == "list" and request.query.get("resourceVersion"):
            if self._chance("behind"):
                return status_answer(504, "Timeout", "Too large resource version: 9, current: 8")
            if self._chance("expired"):
                return status_answer(410, random.choice(("Expired", "Gone")))
        return None

    def _spoilt(self, answer: Answer, random: Random) -> Answer | Exception | None:
        """What becomes of the server's answer on the way back."""
        if self.network.weather is CALM:
            return answer
        if self._chance("failed_after"):
            return status_answer(500, "InternalError")
        if self._chance("unanswered"):
            return None
        if self._chance("reset"):
            return Unreachable("connection reset")
        if self._chance("truncated"):
            if random.random() < 0.5:
                return Unreachable("the answer was cut off")
            return Answer(answer.status, answer.headers, answer.body[: random.randrange(len(answer.body))])
        return answer

    def _deliver(self, call: _Call, answer: Any) -> None:
        if call.future.done() or self.cut_in:
            return
        if isinstance(answer, Exception):
            call.future.set_exception(answer)
        else:
            call.future.set_result(answer)

    def _arrive_watch(self, call: _Call) -> None:
        network = self.network
        answer: Any = self._refusal(call.request)
        if answer is None and self._chance("expired"):
            answer = status_answer(410, "Expired")
        if answer is None:
            opened = network.server.open(call.target)
            network.trace(self.process.name, f"WATCH {call.target}")
            answer = opened
            if isinstance(opened, Watcher):
                answer = Feed(self, opened)
                assert call.opened is not None
                call.opened.append(answer)  # whatever becomes of the answer, who leaves the block closes it
                if call.left:
                    answer.close()
        network.loop.later(self._delay(), self._deliver, call, answer)

    # -- partitions --------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Nothing is cut any more. Streams that were only held up go on."""
        self.cut_out = self.cut_in = False
        for feed in list(self.feeds):
            feed.flush()


class Feed:
    """The client's end of a watch, and the server's: pieces travel between them in order."""

    status = 200
    headers: Mapping[str, str] = {}

    def __init__(self, link: Link, watcher: Watcher) -> None:
        self._link = link
        self._watcher = watcher
        self._random = link._random
        self._due = 0.0
        self._silent = False
        self._held: list[bytes | Exception] = []
        self._pieces: list[bytes | Exception] = []
        self._waiter: asyncio.Future[None] | None = None
        self._over = False
        link.feeds.append(self)
        self._pump_task = link.network.loop.create_task(self._pump(), name="pump", context=KERNEL.copy())

    def close(self) -> None:
        """Nobody reads any more: the server notices. May be called twice."""
        if self in self._link.feeds:
            self._link.feeds.remove(self)
            self._link.network.server.close_watch(self._watcher)
            self._pump_task.cancel()

    async def read(self) -> bytes:
        """See `Stream.read`."""
        while not self._pieces:
            self._waiter = self._link.network.loop.create_future()
            await self._waiter
        piece = self._pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def _pump(self) -> None:
        while not self._over:
            try:
                data = await self._watcher.read()
            except Unreachable as error:
                self._send(error)
                return
            self._forward(data)

    def _forward(self, data: bytes) -> None:
        link, random = self._link, self._random
        if not data:
            self._send(b"")
            return
        if link.network.weather is CALM:
            self._send(data)
            return
        if link._chance("stream_silent"):
            self._silent = True
        if link._chance("stream_page"):
            self._send(b"<html><body>502</body></html>\n")
        if link._chance("stream_repeated"):
            lines = data.splitlines(keepends=True)
            again = random.randrange(len(lines))
            data = b"".join([*lines[: again + 1], *lines[again:]])
        for fault, end in (("stream_broken", Unreachable("the connection broke")), ("stream_ended", b"")):
            if link._chance(fault):
                whole = random.random() < 0.5
                part = data if whole else data[: random.randrange(len(data))]
                if part:
                    self._send(part)
                self._send(end)
                return
        self._send(data)

    def _send(self, piece: bytes | Exception) -> None:
        link, loop = self._link, self._link.network.loop
        if isinstance(piece, Exception) or not piece:
            self._over = True
        delay = self._random.uniform(0.001, 0.01)
        if link._chance("stream_slow"):
            delay = self._random.uniform(0.2, SLOW)
        # Timers of one moment have no order among themselves; the pieces of a stream have.
        self._due = max(self._due + 1e-6, loop.time() + delay)
        loop.call_at(self._due, self._arrive, piece, context=KERNEL)

    def _arrive(self, piece: bytes | Exception) -> None:
        if self._silent:
            return
        if self._link.cut_in:
            # TCP sends again after a short cut; after a long one the connection is dead without a word.
            self._held.append(piece)
            return
        self._held.append(piece)
        self.flush()

    def flush(self) -> None:
        """Let through what was held up by a cut."""
        if self._silent:
            return
        self._pieces += self._held
        self._held.clear()
        if self._pieces and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def mute(self) -> None:
        """The connection is dead, and neither end knows."""
        self._silent = True
