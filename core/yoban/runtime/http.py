"""A small HTTP/1.1 server: probes, pages for Prometheus, the control API. What is on the wire h11 reads and writes.

Guarantees: a request is handed over whole, its body bounded, or refused; what is no HTTP, comes too slowly or is too large
ends its connection; a handler that raises is a 500 and a line in the log. Does not know compression, ranges or pipelining in
parallel; a handler goes on when its caller goes away.

Written for what it costs: a general server's imports are 15 MB that each operator and each agent would spend.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

import h11

log = logging.getLogger(__name__)

TEXT = "text/plain; charset=utf-8"
LARGEST_HEAD = 16 << 10
IDLE_SECONDS = 75.0
"""For which a connection may say nothing between two requests."""
REQUEST_SECONDS = 30.0
"""For the rest of a request once its head is there, and for an answer to be taken."""
HANDSHAKE_SECONDS = 10.0
STOP_SECONDS = 1.0
"""For requests under way at the stop."""
_VERSIONS = (b"1.0", b"1.1")


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request.

    Attributes:
        method, path: `GET`, `/v1/status`.
        query: its parameters, the last one of a name.
        headers: names in lower case.
        body: b"" when there is none.
        certificate: the caller's, as `ssl.SSLSocket.getpeercert` tells it; empty without one.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    certificate: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body and its type."""

    status: int = 200
    body: bytes = b""
    content_type: str = TEXT


Handler = Callable[[Request], Awaitable[Answer]]


class Refused(Exception):
    """The bytes are no request that is served here; the connection ends after `status`."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why[:200])
        self.status = status


class HttpServer:
    """Serves one port.

    Args:
        handler: answers requests.
        largest_body: bytes of a request's body, at most.
    """

    def __init__(self, handler: Handler, *, largest_body: int = 0) -> None:
        self._handler = handler
        self._largest_body = largest_body
        self._server: asyncio.Server | None = None
        self._idle: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str | None, port: int, context: ssl.SSLContext | None = None) -> int:
        """Listen, and return the port. Raises OSError when it is taken.

        Args:
            host: address, "" or None for all.
            port: 0 for a free one.
            context: TLS; may be given other certificates later, for handshakes from then on.
        """
        self._server = await asyncio.start_server(
            self._accept,
            host or None,
            port,
            limit=LARGEST_HEAD,
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if context is not None else None,
        )
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening; requests under way have a second. May be called twice."""
        if self._server is None:
            return
        self._server.close()
        for task in self._idle:
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or not self._server.is_serving():  # it was in its handshake at the stop
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST_HEAD)
        try:
            # A caller that goes away, stands still or makes no sense: its connection ends, nobody else is concerned.
            with contextlib.suppress(OSError, TimeoutError, h11.ProtocolError):
                while await self._exchange(wire, reader, writer):
                    wire.start_next_cycle()
        finally:
            self._idle.discard(_this_task())
            writer.close()

    async def _exchange(self, wire: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; False when the connection is to end."""
        try:
            head = await self._head(wire, reader)
            if head is None:
                return False
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
            if head.http_version not in _VERSIONS:
                raise Refused(505, "HTTP/1.1 is spoken here")
            if int(headers.get("content-length", "0")) > self._largest_body:
                raise self._too_large()
            async with asyncio.timeout(REQUEST_SECONDS):
                body = await self._body(wire, reader, writer)
        except h11.RemoteProtocolError as error:
            await _send(wire, writer, Answer(error.error_status_hint, b"this is no request\n"), keep=False)
            return False
        except Refused as error:
            await _send(wire, writer, Answer(error.status, f"{error}\n".encode()), keep=False)
            return False
        path, _, query = head.target.decode("latin-1").partition("?")
        request = Request(
            head.method.decode("latin-1"),
            path,
            dict(parse_qsl(query, keep_blank_values=True)),
            headers,
            body,
            writer.get_extra_info("peercert"),
        )
        try:
            answer = await self._handler(request)
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            answer = Answer(500, b"internal error\n")
        await _send(wire, writer, answer, bare=head.method == b"HEAD")
        serving = self._server is not None and self._server.is_serving()
        return serving and wire.our_state is h11.DONE and wire.their_state is h11.DONE

    async def _head(self, wire: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
        """The next request's head; None when the caller has ended the connection."""
        task = _this_task()
        self._idle.add(task)
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                found = await _event(wire, reader)
        finally:
            self._idle.discard(task)
        return found if isinstance(found, h11.Request) else None

    async def _body(self, wire: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        if wire.they_are_waiting_for_100_continue:
            writer.write(wire.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")) or b"")
        body = bytearray()
        while isinstance(found := await _event(wire, reader), h11.Data):
            body += found.data
            if len(body) > self._largest_body:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> Refused:
        return Refused(413, f"a body may have {self._largest_body} bytes")


async def _event(wire: h11.Connection, reader: asyncio.StreamReader) -> h11.Event:
    """The next thing that the caller said. Raises h11.RemoteProtocolError when it is no HTTP, or ends too early."""
    while (found := wire.next_event()) is h11.NEED_DATA:
        wire.receive_data(await reader.read(LARGEST_HEAD))
    assert not isinstance(found, type), "a request is read when the one before is answered"
    return found


async def _send(
    wire: h11.Connection, writer: asyncio.StreamWriter, answer: Answer, *, keep: bool = True, bare: bool = False
) -> None:
    # RFC 9110, section 8.6: a 204 must have no length.
    headers = [] if answer.status == 204 else [("Content-Length", str(len(answer.body)))]
    if answer.body:
        headers.append(("Content-Type", answer.content_type))
    if not keep:
        headers.append(("Connection", "close"))
    reason = HTTPStatus(answer.status).phrase.encode()
    said = [wire.send(h11.Response(status_code=answer.status, headers=headers, reason=reason))]
    if answer.body and not bare:
        said.append(wire.send(h11.Data(data=answer.body)))
    said.append(wire.send(h11.EndOfMessage()))
    async with asyncio.timeout(REQUEST_SECONDS):
        writer.write(b"".join(part for part in said if part))
        await writer.drain()


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
