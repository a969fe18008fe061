"""Bytes to the API server and back over one pool of connections.

Guarantees: every request has a deadline; a 401 makes the credentials be read anew once, then stands; a stream that is left
closes its connection (else bytes go on piling up in memory); after `close` no socket is open. A CA file that was replaced
is read anew when the server is not trusted; what was trusted before still is. Does not retry anything else and does not
read the answers: that is the client's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from yoban.kube.config import ClusterConfig
from yoban.kube.errors import Timeout, Unreachable
from yoban.kube.http import Broken, Connection, NotConnected, Pool

log = logging.getLogger(__name__)


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
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def status(self) -> int:
        return self._connection.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._connection.headers

    async def read(self) -> bytes:
        try:
            return await self._connection.read()
        except Broken as error:
            raise Unreachable("the connection broke", cause=str(error)) from error


class HttpTransport:
    """The way to a real API server. Made inside a running loop, closed by `close`.

    Args:
        config: server, TLS and credentials.
    """

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._credentials = config.credentials
        self._ca = config.read_ca()  # before the context reads it: a change in between is found later, not lost
        self._context = config.ssl_context()
        # No limit of connections: each watch holds one, and the workers bound the rest.
        self._pool = Pool(
            config.server,
            self._context,
            server_hostname=config.server_name,
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "yoban"},
        )

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
        connection = await self._exchange(method, target, body, content_type, fresh=fresh)
        try:
            return Answer(connection.status, connection.headers, await connection.body())
        except Broken as error:
            raise _unreachable(error, f"{method} {_path(target)}", sent=True) from error
        finally:
            self._pool.release(connection)

    @contextlib.asynccontextmanager
    async def stream(self, target: str, *, deadline: float) -> AsyncIterator[Stream]:
        """See `Transport.stream`."""
        try:
            async with asyncio.timeout(deadline):
                connection = await self._exchange("GET", target, None, None, fresh=False)
                if connection.status == 401:
                    self._pool.release(connection)
                    connection = await self._exchange("GET", target, None, None, fresh=True)
        except TimeoutError as error:
            raise Timeout(f"no answer within {deadline:.1f} s", object=f"GET {_path(target)}") from error
        try:
            yield _HttpStream(connection)
        finally:
            self._pool.release(connection)

    async def _exchange(
        self, method: str, target: str, body: bytes | None, content_type: str | None, *, fresh: bool
    ) -> Connection:
        headers = {}
        try:
            token = await self._credentials.token(fresh=fresh)
        except Exception as error:  # of a file or a plugin: the next try may have one
            raise Unreachable(
                "there is no token for the API server",
                object=f"{method} {_path(target)}",
                sent=False,
                cause=str(error),
                fix="check where the token comes from",
            ) from error
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if content_type:
            headers["Content-Type"] = content_type
        known = self._ca
        try:
            try:
                return await self._pool.exchange(method, target, headers, body)
            except NotConnected as error:
                if not error.untrusted or not self._trusts_more(known):
                    raise
            return await self._pool.exchange(method, target, headers, body)
        except (Broken, NotConnected) as error:
            raise _unreachable(error, f"{method} {_path(target)}", sent=isinstance(error, Broken)) from error

    def _trusts_more(self, known: bytes) -> bool:
        """Whether another CA file than `known` is trusted by now: the kubelet replaces it when the cluster's CA changes."""
        found = self._config.read_ca()
        if found != self._ca and self._context is not None:
            try:
                self._context.load_verify_locations(self._config.ca_file)
            except OSError as error:  # ssl.SSLError among them: written by halves, maybe
                log.warning("the CA file %s cannot be used: %s", self._config.ca_file, error)
            else:
                self._ca = found
                log.info("the CA file %s was replaced and is trusted from now on", self._config.ca_file)
        return self._ca != known

    async def close(self) -> None:
        """Close the connections; ends when no socket is open, within two seconds. May be called twice."""
        await self._pool.close()


def _path(target: str) -> str:
    return target.partition("?")[0]


def _unreachable(error: Exception, name: str, *, sent: bool) -> Unreachable:
    return Unreachable(
        "the API server cannot be reached",
        object=name,
        sent=sent,
        cause=str(error),
        fix="check the server and the way to it",
    )
