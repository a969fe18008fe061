"""A proxy before an API server that breaks things on purpose, inside the test's own event loop.

Guarantees that what no rule matches passes unchanged (streams and upgrades too), that rules act on exactly the
requests they say, and that every request is recorded. It speaks HTTP/1.1 with TLS by the upstream's CA. Clients must
use bearer tokens: a client certificate ends here.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

from deploy.lab import kubeconfig, wire
from deploy.lab.certificates import Authority
from deploy.lab.fault_rules import Action, Fault, answer, choose, expired_event
from deploy.lab.layout import SERVICE_API
from deploy.lab.wire import Broken, Head

_CONNECT_DEADLINE = 10.0
_CLOSE_DEADLINE = 2.0


class Upstream(Protocol):
    """What the proxy stands before: `LocalApiServer`, or the lab cluster."""

    @property
    def url(self) -> str:
        """Such as `https://127.0.0.1:6443`."""

    @property
    def ca_file(self) -> Path:
        """The CA that signed the upstream's certificate."""

    @property
    def authority(self) -> Authority:
        """The CA that signs the proxy's own certificate: clients trust one CA for both."""

    @property
    def token(self) -> str:
        """An administrator's bearer token, for the proxy's kubeconfig."""


@dataclass
class Record:
    """One request that came. Times are `time.monotonic()` seconds; `status` 0 means that it was not answered."""

    method: str
    path: str
    """Path and query."""
    body: bytes
    content_type: str
    user_agent: str
    begin: float
    end: float | None = None
    status: int = 0
    events: int = 0
    """Lines of a watch passed on."""


class FaultProxy:
    """An asynchronous context manager; the rule methods may be called at any time while it is open.

    `host` and `port` are where it listens (0: any free port). `names` are further host names of its certificate.
    """

    def __init__(self, upstream: Upstream, *, host: str = "127.0.0.1", port: int = 0, names: tuple[str, ...] = ()):
        self._upstream = urlsplit(upstream.url)
        self._token = upstream.token
        self._host, self.port = host, port
        self.ca_file = upstream.ca_file
        self.requests: list[Record] = []
        self.faults: list[Fault] = []
        self._trust = ssl.create_default_context(cafile=upstream.ca_file)
        addresses = [host, "127.0.0.1", "localhost", "kubernetes.default.svc", SERVICE_API, *names]
        served = upstream.authority.issue(f"proxy-{host}", "kube-apiserver", addresses=addresses)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(served.certificate, served.key)
        self._tls.set_alpn_protocols(["http/1.1"])
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._arrived = asyncio.Condition()
        self._open = asyncio.Event()
        self._open.set()
        self._folder = tempfile.TemporaryDirectory(prefix="yoban-proxy-")

    async def __aenter__(self) -> Self:
        await self.listen()
        self.kubeconfig = kubeconfig.write(
            Path(self._folder.name) / "kubeconfig", self.url, self.ca_file, token=self._token, name="yoban-proxy"
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.refuse()
        self._folder.cleanup()

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"https://{self._host}:{self.port}"

    # -- rules

    def add(self, fault: Fault) -> Fault:
        """Put a rule last; returns it. `remove` or `clear` end it."""
        self.faults.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """End a rule; nothing happens when it is not there."""
        if fault in self.faults:
            self.faults.remove(fault)

    def clear(self) -> None:
        """End all rules (what a rule holds already, it goes on holding)."""
        self.faults.clear()

    def delay(self, seconds: float, path: str = ".*", *, method: str = ".*", times: int | None = 1) -> Fault:
        """Hold requests back for `seconds`."""
        return self.add(Fault(Action.DELAY, method, path, times, seconds=seconds))

    def drop(self, path: str = ".*", *, method: str = ".*", times: int | None = 1) -> Fault:
        """Break the connection before the API server sees the request."""
        return self.add(Fault(Action.DROP, method, path, times))

    def lose(self, path: str = ".*", *, method: str = ".*", times: int | None = 1) -> Fault:
        """Let the API server do the work, then break the connection: the client cannot know."""
        return self.add(Fault(Action.LOSE, method, path, times))

    def answer(
        self,
        status: int,
        path: str = ".*",
        *,
        method: str = ".*",
        times: int | None = 1,
        retry_after: int | None = None,
        html: bool = False,
        reason: str = "",
        watch: bool | None = None,
    ) -> Fault:
        """Answer in the API server's place with a Status (or an HTML page)."""
        return self.add(
            Fault(
                Action.ANSWER,
                method,
                path,
                times,
                status=status,
                retry_after=retry_after,
                html=html,
                reason=reason,
                watch=watch,
            )
        )

    def silence(self, path: str = ".*", *, method: str = ".*", after: int = 0, times: int | None = 1) -> Fault:
        """Say nothing more on a request: at once, or on a watch after `after` events. The connection stays open."""
        return self.add(Fault(Action.SILENCE, method, path, times, after=after))

    def end_watches(self, path: str = ".*", *, after: int = 0, times: int | None = 1, clean: bool = True) -> Fault:
        """End watches after `after` events: cleanly, or by breaking the connection. Running ones are not touched."""
        return self.add(Fault(Action.END if clean else Action.CUT, "GET", path, times, after=after))

    def corrupt(self, path: str = ".*", *, after: int = 0, times: int | None = 1) -> Fault:
        """Make the line after `after` events of a watch unreadable."""
        return self.add(Fault(Action.CORRUPT, "GET", path, times, after=after))

    def expire(self, path: str = ".*", *, after: int = 0, times: int | None = 1, status: int = 410) -> Fault:
        """Send an ERROR event with a Status of `status` after `after` events of a watch, and end it."""
        return self.add(Fault(Action.EXPIRE, "GET", path, times, after=after, status=status))

    # -- the whole proxy

    def cut(self, *, reset: bool = True) -> int:
        """Break all connections that are open now (reset, or orderly end); returns how many."""
        for writer in self._connections.values():
            if reset:
                writer.transport.abort()
            else:
                writer.close()
        return len(self._connections)

    def pause(self) -> None:
        """Nothing passes in any direction, connections stay open and are accepted: a silent network."""
        self._open.clear()

    def resume(self) -> None:
        """End of `pause`: what was held back goes on."""
        self._open.set()

    async def refuse(self) -> None:
        """Stop listening and break everything: connections are refused until `listen`. May be called twice."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def listen(self) -> None:
        """Listen (again, at the same address)."""
        if self._server is None:
            self._server = await asyncio.start_server(
                self._connected, self._host, self.port, ssl=self._tls, limit=wire.LIMIT
            )
            self.port = self._server.sockets[0].getsockname()[1]

    # -- what came

    def matching(self, path: str = ".*", method: str = ".*") -> list[Record]:
        """The recorded requests whose method and path match, in order of arrival."""
        return [r for r in self.requests if re.fullmatch(method, r.method) and re.search(path, r.path)]

    async def wait_request(
        self, path: str = ".*", *, method: str = ".*", count: int = 1, deadline: float = 30.0
    ) -> Record:
        """Until `count` matching requests have come; returns the last of them, raises `TimeoutError`."""
        async with asyncio.timeout(deadline), self._arrived:
            await self._arrived.wait_for(lambda: len(self.matching(path, method)) >= count)
            return self.matching(path, method)[count - 1]

    # -- one connection

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: one that asyncio makes of a coroutine is reported as a failure when it is cancelled (3.11).
        task = asyncio.get_running_loop().create_task(self._accepted(reader, writer))
        self._connections[task] = writer

        def ended(_: asyncio.Task[None]) -> None:
            self._connections.pop(task, None)
            writer.transport.abort()

        task.add_done_callback(ended)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # drain() then waits until everything is written: what was passed on arrives before a connection is broken.
        writer.transport.set_write_buffer_limits(high=1, low=0)
        link = _Link(self._upstream.hostname or "", self._upstream.port or 443, self._trust)
        try:
            while await self._exchange(reader, writer, link):
                continue
        except (OSError, Broken, TimeoutError):
            pass  # one side went away: the other is told the same way, below
        finally:
            link.close()
            if writer.is_closing():
                with suppress(OSError, TimeoutError):
                    async with asyncio.timeout(_CLOSE_DEADLINE):
                        await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link) -> bool:
        """Serve one request; whether the connection can carry another one."""
        request = await wire.read_head(reader)
        if request is None:
            return False
        if request.get("Expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await wire.read_body(reader, request)
        record = Record(
            request.method,
            request.target,
            body,
            request.get("Content-Type"),
            request.get("User-Agent"),
            time.monotonic(),
        )
        self.requests.append(record)
        async with self._arrived:
            self._arrived.notify_all()
        try:
            await self._open.wait()
            delay, fault = choose(self.faults, request)
            if delay is not None:
                await asyncio.sleep(delay.seconds)
            if fault is not None and fault.action is Action.ANSWER:
                record.status = fault.status
                writer.write(answer(fault))
                await writer.drain()
                return True
            if fault is not None and fault.action is Action.DROP:
                return False
            if fault is not None and fault.action is Action.SILENCE and not request.is_watch:
                await _gone(reader)
                return False
            return await self._forward(request, body, record, fault, (reader, writer), link)
        finally:
            record.end = time.monotonic()

    async def _forward(
        self,
        request: Head,
        body: bytes,
        record: Record,
        fault: Fault | None,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        link: _Link,
    ) -> bool:
        reader, writer = client
        upstream, back = await link.get()
        sent = request.without("Expect", "Transfer-Encoding", "Content-Length")
        if body or request.method in ("POST", "PUT", "PATCH"):
            sent.headers.append(("Content-Length", str(len(body))))
        back.write(sent.encoded() + body)
        await back.drain()
        head = await wire.read_head(upstream)
        if head is None:
            raise Broken("the API server closed without an answer")
        if fault is not None and fault.action is Action.LOSE:
            await _discard(upstream, head)
            return False
        await self._open.wait()
        record.status = head.status
        writer.write(head.encoded())
        if head.status == 101:
            await _splice((reader, writer), (upstream, back))
            return False
        if request.method == "HEAD" or head.status in (204, 304):
            await writer.drain()
        elif head.chunked:
            watched = request.is_watch and head.status == 200
            stream = self._stream(upstream, writer, fault if watched else None, record, by_line=watched)
            if not await (_while_there(reader, stream) if watched else stream):
                return False
        elif head.get("Content-Length"):
            async for data in wire.read_sized(upstream, int(head.get("Content-Length"))):
                writer.write(data)
                await writer.drain()
        else:
            while data := await upstream.read(65536):
                writer.write(data)
                await writer.drain()
            return False
        return "close" not in (head.get("Connection") + request.get("Connection")).lower()

    async def _stream(
        self,
        upstream: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        fault: Fault | None,
        record: Record,
        *,
        by_line: bool,
    ) -> bool:
        """Pass a chunked body on; whether the connection can carry another request afterwards."""
        pieces: AsyncIterator[bytes] = wire.read_chunks(upstream)
        if by_line:
            pieces = wire.lines(pieces)
            if fault is not None and record.events >= fault.after:
                stays = await self._strike(fault, b'{"type":"ADDED","object":{}}\n', writer)
                if stays is not None:
                    return stays
                fault = None
        async for piece in pieces:
            await self._open.wait()
            if fault is not None and by_line and record.events >= fault.after > 0:
                stays = await self._strike(fault, piece, writer)
                if stays is not None:
                    return stays
                fault = None
                continue
            writer.write(wire.chunk(piece))
            await writer.drain()
            record.events += by_line
            if fault is not None and by_line and record.events >= fault.after and fault.action is not Action.CORRUPT:
                stays = await self._strike(fault, piece, writer)
                if stays is not None:
                    return stays
        writer.write(wire.chunk(b""))
        await writer.drain()
        return True

    async def _strike(self, fault: Fault, line: bytes, writer: asyncio.StreamWriter) -> bool | None:
        """Do to a watch what the rule says; `None` means that it goes on."""
        if fault.action is Action.CORRUPT:
            writer.write(wire.chunk(line[: len(line) // 2] + b"\x00}{\n"))
            await writer.drain()
            return None
        if fault.action is Action.SILENCE:
            await writer.drain()
            await asyncio.Event().wait()  # until the client goes away, which `_while_there` sees
        if fault.action is Action.CUT:
            await writer.drain()
            return False
        if fault.action is Action.EXPIRE:
            writer.write(wire.chunk(expired_event(fault.status)))
        writer.write(wire.chunk(b""))
        await writer.drain()
        # The upstream's watch is still open: this connection pair is of no more use, the client may not know yet.
        writer.close()
        return False


class _Link:
    """The upstream side of one client connection, opened when first needed and again when it ended."""

    def __init__(self, host: str, port: int, trust: ssl.SSLContext):
        self._host, self._port, self._trust = host, port, trust
        self._pair: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._pair is None or self._pair[0].at_eof():
            self.close()
            async with asyncio.timeout(_CONNECT_DEADLINE):
                self._pair = await asyncio.open_connection(self._host, self._port, ssl=self._trust, limit=wire.LIMIT)
        return self._pair

    def close(self) -> None:
        if self._pair is not None:
            self._pair[1].transport.abort()
            self._pair = None


async def _gone(reader: asyncio.StreamReader) -> None:
    """Until the client has closed its side."""
    while await reader.read(65536):
        continue


async def _while_there(reader: asyncio.StreamReader, work: Coroutine[None, None, bool]) -> bool:
    """Do the work, but give it up when the client closes its side: an idle watch would not notice."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(reader))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else False
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _discard(upstream: asyncio.StreamReader, head: Head) -> None:
    """Read an answer to its end, so that the work behind it is done, and forget it."""
    size = int(head.get("Content-Length", "0"))
    source = wire.read_chunks(upstream) if head.chunked else wire.read_sized(upstream, size)
    async for _ in source:
        continue


async def _splice(
    one: tuple[asyncio.StreamReader, asyncio.StreamWriter], other: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    """Pass bytes both ways until both sides have ended (an upgraded connection: exec, port-forward)."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        # TLS has no half-close in asyncio: the end of one direction ends the connection.
        writer.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(pump(one[0], other[1]))
        group.create_task(pump(other[0], one[1]))
