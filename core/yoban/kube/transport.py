"""Bytes to the API server and back over one aiohttp session.

Guarantees: every request has a deadline; a 401 makes the credentials be read anew once, then stands; a stream that is left
closes its connection (else bytes go on piling up in memory); after `close` no socket is open. Does not retry anything
else and does not read the answers: that is the client's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import aiohttp
from yarl import URL

from yoban.kube.config import ClusterConfig
from yoban.kube.errors import Timeout, Unreachable

_CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Stream(Protocol):
    """An answer whose body comes in pieces."""

    @property
    def status(self) -> int:
        """HTTP status code."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The answer's headers."""
        ...

    async def read(self) -> bytes:
        """The bytes that have come since, at least one; b"" at the end. Raises `Unreachable` when the connection broke."""
        ...


class Transport(Protocol):
    """How the client reaches a server; the fake API server is one too."""

    async def request(
        self, method: str, target: str, *, body: bytes | None = None, content_type: str | None = None, deadline: float
    ) -> Answer:
        """The answer to one request, within `deadline` seconds.

        `target` is path and query, already quoted. Raises `Timeout` or `Unreachable`; any status is an answer.
        """
        ...

    def stream(self, target: str, *, deadline: float) -> AbstractAsyncContextManager[Stream]:
        """A GET whose body is read in pieces; `deadline` seconds bound the wait for the headers only."""
        ...

    async def close(self) -> None:
        """Close all connections. May be called twice."""
        ...


class _HttpStream:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def read(self) -> bytes:
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable("the connection broke", cause=_cause(error)) from error


class HttpTransport:
    """The way to a real API server. Made inside a running loop, closed by `close`.

    Args:
        config: server, TLS and credentials.
    """

    def __init__(self, config: ClusterConfig) -> None:
        self._base = config.server
        self._credentials = config.credentials
        context = config.ssl_context()
        # No limit of connections: each watch holds one, and the workers bound the rest.
        connector = aiohttp.TCPConnector(
            limit=0,
            keepalive_timeout=60,
            ssl=context if context is not None else False,
            socket_factory=self._socket,
        )
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._server_hostname = config.server_name
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "yoban"},
        )

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        made = socket.socket(address[0], address[1], address[2])
        made.setblocking(False)
        self._sockets.add(made)
        return made

    async def request(
        self, method: str, target: str, *, body: bytes | None = None, content_type: str | None = None, deadline: float
    ) -> Answer:
        """See `Transport.request`."""
        try:
            async with asyncio.timeout(deadline):
                answer = await self._once(method, target, body, content_type, fresh=False)
                if answer.status == 401:
                    answer = await self._once(method, target, body, content_type, fresh=True)
                return answer
        except TimeoutError as error:
            raise Timeout(f"no answer within {deadline:.1f} s", object=f"{method} {_path(target)}") from error

    async def _once(
        self, method: str, target: str, body: bytes | None, content_type: str | None, *, fresh: bool
    ) -> Answer:
        headers = await self._headers(content_type, fresh=fresh)
        try:
            async with self._session.request(
                method,
                URL(self._base + target, encoded=True),
                data=body,
                headers=headers,
                server_hostname=self._server_hostname,
                allow_redirects=False,
            ) as response:
                return Answer(response.status, response.headers, await response.read())
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(error, f"{method} {_path(target)}") from error

    @contextlib.asynccontextmanager
    async def stream(self, target: str, *, deadline: float) -> AsyncIterator[Stream]:
        """See `Transport.stream`."""
        try:
            async with asyncio.timeout(deadline):
                response = await self._open(target, fresh=False)
                if response.status == 401:
                    response.close()
                    response = await self._open(target, fresh=True)
        except TimeoutError as error:
            raise Timeout(f"no answer within {deadline:.1f} s", object=f"GET {_path(target)}") from error
        try:
            yield _HttpStream(response)
        finally:
            # Aborted, not closed: over TLS a close waits for the peer's farewell, and the peer of a watch goes on sending.
            if response.connection is not None and response.connection.transport is not None:
                response.connection.transport.abort()
            response.close()

    async def _open(self, target: str, *, fresh: bool) -> aiohttp.ClientResponse:
        headers = await self._headers(None, fresh=fresh)
        try:
            return await self._session.get(
                URL(self._base + target, encoded=True),
                headers=headers,
                server_hostname=self._server_hostname,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(error, f"GET {_path(target)}") from error

    async def _headers(self, content_type: str | None, *, fresh: bool) -> dict[str, str]:
        headers = {}
        token = await self._credentials.token(fresh=fresh)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if content_type:
            headers["Content-Type"] = content_type
        return headers

    async def close(self) -> None:
        """Close the session and its connections; ends when no socket is open, within two seconds.

        The session forgets a connection whose request was cancelled while TLS still says farewell on it, so that its
        socket would outlive the loop: such a one is shut here.
        """
        await self._session.close()
        for left in self._open_sockets():
            with contextlib.suppress(OSError):
                left.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                # The loop closes a socket in the turn after it read the end; nothing else tells that it did.
                while self._open_sockets():  # noqa: ASYNC110
                    await asyncio.sleep(0)

    def _open_sockets(self) -> list[socket.socket]:
        return [s for s in self._sockets if s.fileno() != -1]


def _path(target: str) -> str:
    return target.partition("?")[0]


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _unreachable(error: Exception, name: str) -> Unreachable:
    sent = not isinstance(error, aiohttp.ClientConnectorError | ConnectionRefusedError)
    return Unreachable(
        "the API server cannot be reached",
        object=name,
        sent=sent,
        cause=_cause(error),
        fix="check the server and the way to it",
    )
