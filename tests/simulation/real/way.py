"""The way of each replica to the real API server: real connections through the fault proxy of its slot."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from yoban.kube.config import ClusterConfig
from yoban.kube.errors import Unreachable
from yoban.kube.transport import Answer, HttpTransport
from yoban.testing.apirequest import Request, parse_request

from deploy.lab.proxy import FaultProxy
from tests.simulation.network import Trace
from tests.simulation.processes import KERNEL, Process
from tests.simulation.real.mirror import Mirror


@dataclass(frozen=True)
class Way:
    """One slot's proxy, and how to get there."""

    proxy: FaultProxy
    config: ClusterConfig

    @property
    def watches(self) -> int:
        """Watches that are open at the proxy."""
        return sum(1 for record in self.proxy.requests if record.end is None and "watch=true" in record.path)


class RealNetwork:
    """In the place of the simulation's `Network`."""

    def __init__(self, ways: Sequence[Way], mirror: Mirror, trace: Trace) -> None:
        self.ways = ways
        self.mirror = mirror
        self.trace = trace
        self.on_send: Callable[[Process, Request], None] = lambda process, request: None
        self.requests = 0
        self.expired = 0
        """How often the server itself, not a proxy, said 410."""
        self.closing: set[asyncio.Task[None]] = set()

    def link(self, process: Process, slot: int, random: Random) -> RealLink:
        """The way of a new process in `slot`."""
        return RealLink(self, process, self.ways[slot])


class _Heard:
    """A stream that counts what the server itself says."""

    def __init__(self, network: RealNetwork, stream: Any) -> None:
        self._network = network
        self._stream = stream
        self.status: int = stream.status
        self.headers: Mapping[str, str] = stream.headers

    async def read(self) -> bytes:
        """See `Stream.read`."""
        piece: bytes = await self._stream.read()
        if b'"code":410' in piece and b"fault proxy" not in piece:
            self._network.expired += 1
        return piece


class RealLink:
    """One process's transport."""

    def __init__(self, network: RealNetwork, process: Process, way: Way) -> None:
        self._network = network
        self._process = process
        self._http = HttpTransport(way.config)

    def _note(self, method: str, target: str, body: bytes | None) -> None:
        if self._process.dead:
            raise Unreachable("the process is gone", sent=False)
        self._network.requests += 1
        self._network.on_send(self._process, parse_request(method, target, body))

    async def request(
        self, method: str, target: str, *, body: bytes | None = None, content_type: str | None = None, deadline: float
    ) -> Answer:
        """See `Transport.request`."""
        self._note(method, target, body)
        answer = await self._http.request(method, target, body=body, content_type=content_type, deadline=deadline)
        if method in ("POST", "PUT", "PATCH"):
            self._network.trace(self._process.name, f"{method} {target} -> {answer.status}")
            if answer.status < 300:
                self._network.mirror.answered(answer.body)
        return answer

    @contextlib.asynccontextmanager
    async def stream(self, target: str, *, deadline: float) -> AsyncIterator[Any]:
        """See `Transport.stream`."""
        self._note("GET", target, None)
        async with self._http.stream(target, deadline=deadline) as stream:
            yield _Heard(self._network, stream)

    async def close(self) -> None:
        """See `Transport.close`."""
        await self._http.close()

    def abandon(self) -> None:
        """Its process is gone: its sockets are closed, as by the kernel."""
        closing = asyncio.get_running_loop().create_task(self._http.close(), context=KERNEL.copy())
        self._network.closing.add(closing)
        closing.add_done_callback(self._network.closing.discard)

    def heal(self) -> None:
        """Nothing: what is broken is the proxy's, and outlives the process."""
