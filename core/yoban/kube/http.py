"""HTTP/1.1 to one server over connections that are kept open: the little of RFC 9112 that the Kubernetes API needs.

Guarantees: an answer that is cut short is never taken for a whole one; a connection is used again only after its answer was
read to the end; one whose request was given up is closed at once, and what of it was still on its way is dropped; what
nobody reads is not read from the socket either (at most 1 MiB waits). Does not follow redirects, decode, pipeline, or know
deadlines: those are the caller's.

Written for what it costs: a third of a general client's time for each call, and none of its imports at start. Agents are
asked by it, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import socket
import ssl
import struct
import weakref
from collections import deque
from enum import Enum, auto
from typing import Any
from urllib.parse import urlsplit

KEEP_SECONDS = 60.0  # an idle connection older than that is not used again
CONNECT_SECONDS = 3.0  # for one address of a name that has several
CLOSE_SECONDS = 2.0
MAX_HEAD = 64 * 1024
HIGH_WATER = 1 << 20  # bytes of an answer that wait to be read
_NO_LINGER = struct.pack("ii", 1, 0)
"""A closed socket drops what it has not got through, also when it is its process's end that closes it. Otherwise the system
goes on trying for minutes, and a write of who led comes in when the network does, in somebody else's term."""
_REPEATED = frozenset(("GET", "HEAD", "PUT", "OPTIONS"))
"""Not DELETE: the second one might hit the object's successor. Whether it may be repeated its sender knows."""
_STATUS_LINE = re.compile(r"HTTP/1\.[01] ([0-9]{3})(?: |$)")
_title = functools.lru_cache(256)(str.title)  # a server says the same dozen names in every answer
_SIZE = re.compile(rb"[0-9a-fA-F]{1,15}[ \t]*(?:;|$)")


class Broken(Exception):
    """The connection ended before the answer did, or the bytes were no HTTP; `begun` when some of it had come."""

    def __init__(self, message: str, *, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


class NotConnected(Exception):
    """No connection could be made: nothing was sent. `untrusted` when a certificate was the reason."""

    def __init__(self, message: str, *, untrusted: bool = False) -> None:
        super().__init__(message)
        self.untrusted = untrusted


class _State(Enum):
    IDLE = auto()  # no request is under way
    HEAD = auto()
    SIZED = auto()
    CHUNK_SIZE = auto()
    CHUNK = auto()
    CHUNK_END = auto()
    TRAILER = auto()
    UNTIL_END = auto()  # the body ends with the connection
    DONE = auto()  # the answer is complete


class Connection(asyncio.Protocol):
    """One connection, with one request at a time. Made by `Pool`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._state = _State.IDLE
        self._method = ""
        self._keep = False
        self._rest = b""  # of what came, what could not be understood yet
        self._left = 0  # bytes of the body, or of the chunk, that are still to come
        self._pieces: deque[bytes] = deque()
        self._held = 0  # bytes in `_pieces`
        self._paused = False
        self._error: Broken | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.used = False
        """Whether an answer was read from it before."""
        self.idle_since = 0.0
        self.begun = False
        """Whether any byte of the answer under way has come."""
        self.status = 0
        """Of the answer under way; 0 before its head has come."""
        self.headers: dict[str, str] = {}
        """Of the answer under way, names in title case (`Retry-After`)."""

    # -- what the caller does

    @property
    def open(self) -> bool:
        """Whether it can carry another request now."""
        return self._transport is not None and self._state is _State.IDLE and not self._transport.is_closing()

    def send(self, method: str, data: bytes) -> None:
        """Send head and body of a request; the answer before must have been read."""
        assert self._transport is not None and self._state is _State.IDLE
        self._method, self._state, self.begun = method, _State.HEAD, False
        self._transport.write(data)

    async def head(self) -> int:
        """The status of the answer, once its head has come. Raises `Broken`."""
        while self._state is _State.HEAD:
            await self._news()
        return self.status

    async def read(self) -> bytes:
        """What has come of the body since, at least a byte; b"" at its end. Raises `Broken`."""
        while not self._pieces:
            if self._state is _State.DONE:
                return b""
            await self._news()
        found = self._pieces.popleft() if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return found

    async def body(self) -> bytes:
        """The whole body. Raises `Broken`."""
        found = await self.read()
        if self._state is _State.DONE and not self._pieces:
            return found
        parts = [found]
        while found:
            found = await self.read()
            parts.append(found)
        return b"".join(parts)

    def finish(self) -> bool:
        """End the exchange: whether the connection can be used again. If not it is closed at once."""
        if self._state is _State.DONE and not self._pieces and self._keep and self._transport is not None:
            self._state = _State.IDLE
            self.used, self.status, self.idle_since = True, 0, self._loop.time()
            if not self._transport.is_closing():
                return True
        self.abort()
        return False

    def abort(self) -> None:
        """Close without a farewell: over TLS that would wait for the peer, and the peer of a watch goes on sending."""
        if self._transport is not None:
            self._transport.abort()

    async def _news(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._state is _State.UNTIL_END and error is None:
            self._state = _State.DONE
        elif self._state not in (_State.IDLE, _State.DONE):
            self._fail(f"{type(error).__name__}: {error}" if error is not None else "it was closed")
        self._keep = False
        self._transport = None
        self._wake()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self.begun = True
        if self._rest:
            data, self._rest = self._rest + data, b""
        try:
            self._understand(data)
        except ValueError as error:
            self._fail(f"its bytes are no HTTP: {error}")
            self.abort()
        if self._held > HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, why: str) -> None:
        if self._error is None:  # what comes after is our own closing
            self._error = Broken(f"the connection broke ({why})", begun=self.begun)

    # -- the bytes of an answer

    def _understand(self, data: bytes) -> None:
        """Take what is complete; keep the rest. Raises ValueError for what is no HTTP."""
        at, end = 0, len(data)
        while at < end:
            state = self._state
            if state in (_State.SIZED, _State.CHUNK):
                piece = data[at : at + self._left]
                self._take(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _State.DONE if state is _State.SIZED else _State.CHUNK_END
            elif state is _State.UNTIL_END:
                self._take(data[at:])
                return
            elif state in (_State.IDLE, _State.DONE):
                raise ValueError("it says more than was asked for")
            else:
                mark = b"\r\n\r\n" if state is _State.HEAD else b"\r\n"
                stop = data.find(mark, at)
                if stop < 0:
                    if end - at > MAX_HEAD:
                        raise ValueError("a line has no end")
                    self._rest = data[at:]
                    return
                self._line(state, data[at:stop])
                at = stop + len(mark)

    def _take(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._held += len(piece)

    def _line(self, state: _State, line: bytes) -> None:
        if state is _State.HEAD:
            self._take_head(line)
        elif state is _State.CHUNK_SIZE:
            if not _SIZE.match(line):
                raise ValueError(f"chunk size {line[:20]!r}")
            self._left = int(line.partition(b";")[0], 16)
            self._state = _State.CHUNK if self._left else _State.TRAILER
        elif state is _State.CHUNK_END:
            if line:
                raise ValueError("a chunk is longer than it says")
            self._state = _State.CHUNK_SIZE
        elif not line:  # of the trailers, whose fields nobody asks for
            self._state = _State.DONE

    def _take_head(self, head: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        found = _STATUS_LINE.match(first)
        if found is None:
            raise ValueError(f"status line {first[:40]!r}")
        status = int(found[1])
        if 100 <= status < 200:
            return  # an interim answer: the real one follows
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError(f"header {line[:40]!r}")
            headers[_title(name)] = value.strip()
        self.status, self.headers = status, headers
        self._keep = "close" not in headers.get("Connection", "").lower() and first.startswith("HTTP/1.1")
        coding, length = headers.get("Transfer-Encoding", "").lower(), headers.get("Content-Length")
        if self._method == "HEAD" or status in (204, 304):
            self._state = _State.DONE
        elif coding == "chunked":
            self._state = _State.CHUNK_SIZE
        elif coding:
            raise ValueError(f"transfer coding {coding[:40]}")
        elif length is not None:
            if not length.isdecimal():
                raise ValueError(f"content length {length[:40]}")
            self._left = int(length)
            self._state = _State.SIZED if self._left else _State.DONE
        else:
            self._keep = False
            self._state = _State.UNTIL_END


class Pool:
    """The connections to one server, the one used last first. Made inside a running loop; `close` it in the end.

    Args:
        server: `https://host:port`, maybe with a path that goes before every target.
        context: TLS settings; None for plain HTTP.
        server_hostname: the name expected in the certificate; None for the host's.
        headers: sent with each request.
        connect_seconds: for a connection to be made; None leaves it to the caller's deadline.
    """

    def __init__(
        self,
        server: str,
        context: ssl.SSLContext | None,
        *,
        server_hostname: str | None = None,
        headers: dict[str, str],
        connect_seconds: float | None = None,
    ) -> None:
        parts = urlsplit(server)
        if not parts.hostname:
            raise ValueError(f"{server!r} is no address of a server")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._prefix = parts.path.rstrip("/")
        self._context = context
        self._server_hostname = server_hostname or self._host
        self._connect_seconds = connect_seconds
        self._fixed = _fields({"Host": parts.netloc.rpartition("@")[2], **headers})
        self._last_headers: dict[str, str] = {}
        self._last_fields = b""
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    async def exchange(self, method: str, target: str, headers: dict[str, str], body: bytes | None) -> Connection:
        """Send a request and return when the head of its answer has come. `release` the connection afterwards.

        What an idle connection's end swallowed is sent once more on a new one, if it may be repeated. Raises `Broken`
        and `NotConnected`; ValueError for a header that would not stay one line.
        """
        data = self._request(method, target, headers, body or b"", sized=body is not None)
        while True:
            connection = self._reused() or await self._new()
            self._busy.add(connection)
            sent_at = asyncio.get_running_loop().time()
            try:
                connection.send(method, data)
                await connection.head()
            except Broken as error:
                self.release(connection)
                if error.begun or not connection.used or method not in _REPEATED:
                    raise
            except BaseException:
                if connection.used and not connection.begun:  # given up: whoever was there may be gone without a word
                    self._distrust(sent_at)
                self.release(connection)
                raise
            else:
                return connection

    def _distrust(self, since: float) -> None:
        """Close the idle connections that have not been heard from since loop time `since`."""
        for connection in self._idle:
            if connection.idle_since <= since:
                connection.abort()
        self._idle = [connection for connection in self._idle if connection.idle_since > since]

    def _request(self, method: str, target: str, headers: dict[str, str], body: bytes, *, sized: bool) -> bytes:
        if headers != self._last_headers:  # token and content type: the same for most of the requests in a row
            self._last_fields = _fields(headers)
            self._last_headers = dict(headers)
        length = b"Content-Length: %d\r\n" % len(body) if sized or method in ("POST", "PUT", "PATCH") else b""
        head = f"{method} {self._prefix}{target} HTTP/1.1\r\n".encode("ascii")
        return b"".join((head, self._fixed, self._last_fields, length, b"\r\n", body))

    def release(self, connection: Connection) -> None:
        """Keep the connection for the next request, or close it when its answer was not read to the end."""
        self._busy.discard(connection)
        if connection.finish():
            self._idle.append(connection)

    def _reused(self) -> Connection | None:
        oldest = asyncio.get_running_loop().time() - KEEP_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.open and connection.idle_since >= oldest:
                return connection
            connection.abort()
        return None

    async def _new(self) -> Connection:
        limit = asyncio.timeout(self._connect_seconds)
        try:
            async with limit:
                return await self._connect()
        except TimeoutError:
            if not limit.expired():
                raise
            raise NotConnected(f"no connection within {self._connect_seconds:g} s") from None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        addresses = await self._addresses()
        failures: list[str] = []
        untrusted = False
        for number, (family, kind, protocol, _, address) in enumerate(addresses, 1):
            made: socket.socket | None = None
            try:
                made = socket.socket(family, kind, protocol)
                made.setblocking(False)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                self._sockets.add(made)
                async with asyncio.timeout(CONNECT_SECONDS if number < len(addresses) else None):
                    await loop.sock_connect(made, address)
                    _, connection = await loop.create_connection(
                        Connection,
                        sock=made,
                        ssl=self._context,
                        server_hostname=self._server_hostname if self._context is not None else None,
                    )
                return connection
            except OSError as error:  # TimeoutError and ssl.SSLError among them
                if made is not None:
                    made.close()
                failures.append(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
                untrusted = isinstance(error, ssl.SSLCertVerificationError)
            except BaseException:
                if made is not None:
                    made.close()
                raise
        raise NotConnected("; ".join(failures), untrusted=untrusted)

    async def _addresses(self) -> list[tuple[Any, ...]]:
        kind = socket.SOCK_STREAM
        with contextlib.suppress(socket.gaierror):  # it is a name, which asks the network: in a thread
            return list(socket.getaddrinfo(self._host, self._port, type=kind, flags=socket.AI_NUMERICHOST))
        try:
            return list(await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=kind))
        except OSError as error:
            raise NotConnected(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Close all connections; ends when no socket is open, within two seconds. May be called twice."""
        for connection in (*self._idle, *self._busy):
            connection.abort()
        self._idle.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                # The loop closes a socket in the turn after; nothing else tells that it did.
                while any(one.fileno() != -1 for one in self._sockets):  # noqa: ASYNC110
                    await asyncio.sleep(0)


def _fields(headers: dict[str, str]) -> bytes:
    found = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if found.count("\n") != len(headers) or found.count("\r") != len(headers):
        raise ValueError("a header has more than one line")
    return found.encode("latin-1")
