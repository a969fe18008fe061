"""A small HTTP/1.1 server: probes, pages for Prometheus, the control API. The little of RFC 9112 that these need.

Guarantees: a request is handed over whole (its body is bounded and has a length) or refused; what is no HTTP, comes too
slowly or is too large ends its connection; a handler that raises is a 500 and a line in the log. Does not know chunked
requests (411), compression, ranges or pipelining in parallel; a handler goes on when its caller goes away.

Written for what it costs: a general server's imports are 15 MB that each operator and each agent would spend.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

log = logging.getLogger(__name__)

TEXT = "text/plain; charset=utf-8"
LARGEST_HEAD = 16 << 10
IDLE_SECONDS = 75.0
"""For which a connection may say nothing between two requests."""
REQUEST_SECONDS = 30.0
"""For the rest of a request once it has begun, and for an answer to be taken."""
HANDSHAKE_SECONDS = 10.0
STOP_SECONDS = 1.0
"""For requests under way at the stop."""
_REQUEST_LINE = re.compile(r"([A-Z]+) (/[!-~]*) HTTP/1\.([01])")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")


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
    """The bytes are no request that is understood here; the connection ends after `status`."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class _Head:
    method: str
    target: str
    keep: bool
    headers: Mapping[str, str]
    length: int


def parse_head(data: bytes, largest_body: int) -> _Head:
    """Understand a request's head, up to and without the empty line. Raises Refused. Pure."""
    first, *lines = data.decode("latin-1").split("\r\n")
    found = _REQUEST_LINE.fullmatch(first)
    if found is None:
        raise Refused(400, f"request line {first[:40]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        named = _FIELD.fullmatch(line)
        if named is None:
            raise Refused(400, f"header {line[:40]!r}")
        name = named[1].lower()
        if name in headers and name in ("content-length", "host"):
            raise Refused(400, f"two headers {name}")
        headers[name] = named[2]
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers:
        raise Refused(411, "a body without a length")
    if not re.fullmatch("[0-9]{1,18}", length):
        raise Refused(400, f"content length {length[:40]!r}")
    if int(length) > largest_body:
        raise Refused(413, f"{length} bytes of a body")
    wish = headers.get("connection", "").lower()
    keep = "keep-alive" in wish if found[3] == "0" else "close" not in wish
    return _Head(found[1], found[2], keep, headers, int(length))


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
        try:
            # A caller that goes away, stands still or makes no sense: its connection ends, nobody else is concerned.
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            self._idle.discard(_this_task())
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; False when the connection is to end."""
        try:
            head = await self._head(reader)
            async with asyncio.timeout(REQUEST_SECONDS):
                if head.length and head.headers.get("expect", "").lower() == "100-continue":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await reader.readexactly(head.length) if head.length else b""
        except Refused as error:
            await _send(writer, Answer(error.status, f"{error}\n".encode()), keep=False)
            return False
        path, _, query = head.target.partition("?")
        request = Request(
            head.method,
            path,
            dict(parse_qsl(query, keep_blank_values=True)),
            head.headers,
            body,
            writer.get_extra_info("peercert"),
        )
        try:
            answer = await self._handler(request)
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            answer = Answer(500, b"internal error\n")
        await _send(writer, answer, keep=head.keep, bare=head.method == "HEAD")
        return head.keep and self._server is not None and self._server.is_serving()

    async def _head(self, reader: asyncio.StreamReader) -> _Head:
        task = _this_task()
        self._idle.add(task)
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                data = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise Refused(431, "the head is too large") from None
        finally:
            self._idle.discard(task)
        return parse_head(data[:-4], self._largest_body)


async def _send(writer: asyncio.StreamWriter, answer: Answer, *, keep: bool, bare: bool = False) -> None:
    lines = [
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
        f"Content-Length: {len(answer.body)}",
        *([f"Content-Type: {answer.content_type}"] if answer.body else []),
        *([] if keep else ["Connection: close"]),
    ]
    if answer.status == 204:
        del lines[1]  # RFC 9110, section 8.6: it must have none
    head = "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n"
    async with asyncio.timeout(REQUEST_SECONDS):
        writer.write(head if bare else head + answer.body)
        await writer.drain()


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
