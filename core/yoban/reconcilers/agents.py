"""Client of the agents' control API (`yoban.model.control`).

Guarantees: every call has a deadline; the agent proves by its certificate that it is the instance named, the operator by
its own that it may ask; answers are bounded in size; every failure is one of ours, `Retryable` when the same call may
succeed later. Does not retry: observers and jobs decide about that.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from yoban.errors import (
    AccessDenied,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    OwnedByAnother,
    Retryable,
    Terminal,
    Unavailable,
)
from yoban.kube.http import Broken, Connection, NotConnected, Pool
from yoban.model.control import AgentStatus, JobRequest, JobStatus, Problem, Push, ShipAnswer, ShipRequest
from yoban.model.instance import Member, Struct
from yoban.reconcilers.database.ports import Credentials
from yoban.telemetry import traceparent

T = TypeVar("T", bound=Struct)

CALL_SECONDS = 15.0
CLEAN_SECONDS = 60.0
"""How long an agent may clean up after a cancelled job before it answers."""
LARGEST = 4 << 20
"""Bytes of an answer, at most."""
CONTEXTS = 256
CONNECT_SECONDS = 5.0
KEPT_SECONDS = 120.0
"""For which connections to an agent that nothing is asked of are kept."""


def tls_context(credentials: Credentials) -> ssl.SSLContext:
    """Return a context that trusts the Database's CA only and presents the operator's certificate. Blocks for a moment.

    Raises:
        InvalidInput: they are not certificates, or do not belong together.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=credentials.ca)
        # Only a file will do; this one exists in memory alone.
        pair = os.memfd_create("yoban-client", os.MFD_CLOEXEC)
        try:
            os.write(pair, f"{credentials.certificate}\n{credentials.key}\n".encode())
            context.load_cert_chain(f"/proc/self/fd/{pair}")
        finally:
            os.close(pair)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(
            "the certificates for the agents cannot be used",
            object="CA of a Database",
            cause=type(error).__name__,
            fix="delete its Secret; the operator makes it anew",
            reason="CertificatesInvalid",
        ) from error
    return context


@dataclass(slots=True)
class _Way:
    """Connections to one agent: how many calls use them, and since when none does."""

    pool: Pool
    calls: int = 0
    since: float = 0.0


class Agents:
    """Calls to agents. One for the process.

    Args:
        scheme: `http` only in tests.
    """

    def __init__(self, *, scheme: str = "https") -> None:
        self._scheme = scheme
        self._contexts: dict[Credentials, ssl.SSLContext] = {}
        self._ways: OrderedDict[tuple[str, int, Credentials], _Way] = OrderedDict()

    async def close(self) -> None:
        """Close connections. May be called twice."""
        while self._ways:
            _, way = self._ways.popitem()
            await way.pool.close()

    async def status(
        self, member: Member, credentials: Credentials, *, after: int = 0, wait: float = 0.0
    ) -> AgentStatus:
        """Return what the agent knows; with `wait` seconds, once its serial is greater than `after`."""
        query = f"/v1/status?after={after}&wait={wait:g}"
        return await self._json(member, credentials, "GET", query, AgentStatus, wait=wait)

    async def push(self, member: Member, credentials: Credentials, push: Push) -> bool:
        """Bring a document; False when the agent has a newer one already."""
        try:
            await self._call(member, credentials, "PUT", "/v1/document", push)
        except OwnedByAnother:
            return False
        return True

    async def start_job(self, member: Member, credentials: Credentials, uid: str, request: JobRequest) -> JobStatus:
        """Start a job, or look at it when it was started before."""
        return await self._json(member, credentials, "PUT", f"/v1/jobs/{uid}", JobStatus, request)

    async def job(self, member: Member, credentials: Credentials, uid: str, *, wait: float = 0.0) -> JobStatus:
        """Return the state of a job; with `wait` seconds, once it changes. Raises NotFound: the agent does not know it."""
        query = f"/v1/jobs/{uid}?wait={wait:g}"
        return await self._json(member, credentials, "GET", query, JobStatus, wait=wait)

    async def cancel_job(self, member: Member, credentials: Credentials, uid: str) -> None:
        """Cancel a job and have it clean up; one that is not known counts as cancelled."""
        try:
            await self._call(member, credentials, "DELETE", f"/v1/jobs/{uid}", wait=CLEAN_SECONDS)
        except NotFound:
            return

    async def ship(self, member: Member, credentials: Credentials, request: ShipRequest) -> ShipAnswer:
        """Have the log stored through a segment, within the request's deadline."""
        return await self._json(
            member, credentials, "POST", "/v1/ship", ShipAnswer, request, wait=request.deadline_seconds
        )

    async def restart_agent(self, member: Member, credentials: Credentials) -> None:
        """Have the supervisor restart the agent; the server goes on."""
        await self._call(member, credentials, "POST", "/v1/agent/restart")

    async def _json(
        self,
        member: Member,
        credentials: Credentials,
        method: str,
        path: str,
        kind: type[T],
        body: Struct | None = None,
        *,
        wait: float = 0.0,
    ) -> T:
        answer = await self._call(member, credentials, method, path, body, wait=wait)
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.MsgspecError as error:
            raise Unavailable("the agent's answer cannot be read", object=_name(member), cause=str(error)) from error

    async def _call(
        self,
        member: Member,
        credentials: Credentials,
        method: str,
        path: str,
        body: Struct | None = None,
        *,
        wait: float = 0.0,
    ) -> bytes:
        headers = {"traceparent": parent} if (parent := traceparent()) else {}
        data = None if body is None else msgspec.json.encode(body)
        deadline = CALL_SECONDS + wait
        way = self._way(member, credentials)
        way.calls += 1
        try:
            async with asyncio.timeout(deadline):
                await self._forget()
                connection = await way.pool.exchange(method, path, headers, data)
                try:
                    answer = await _bounded(connection, member)
                    if connection.status >= 300:
                        raise _failure(member, connection.status, answer)
                    return answer
                finally:
                    way.pool.release(connection)
        except TimeoutError as error:
            raise DeadlineExceeded(f"the agent did not answer within {deadline:g} s", object=_name(member)) from error
        except NotConnected as error:
            if error.untrusted:
                raise AccessDenied(
                    "the agent's certificate is not its own",
                    object=_name(member),
                    cause=str(error),
                    reason="AgentUntrusted",
                ) from error
            raise Unavailable("the agent cannot be reached", object=_name(member), cause=str(error)) from error
        except Broken as error:
            raise Unavailable("the agent cannot be reached", object=_name(member), cause=str(error)) from error
        finally:
            way.calls -= 1
            way.since = asyncio.get_running_loop().time()

    def _way(self, member: Member, credentials: Credentials) -> _Way:
        """Return the way to an agent, the one used last at the end."""
        key = (member.host, member.control, credentials)
        way = self._ways.get(key)
        if way is None:
            pool = Pool(
                f"{self._scheme}://{member.host}:{member.control}",
                self._context(credentials) if self._scheme == "https" else None,
                headers={"Content-Type": "application/json"},
                connect_seconds=CONNECT_SECONDS,
            )
            way = self._ways[key] = _Way(pool)
        self._ways.move_to_end(key)
        return way

    async def _forget(self) -> None:
        """Close what has not been used for long: instances go, and certificates are replaced."""
        before = asyncio.get_running_loop().time() - KEPT_SECONDS
        for key, way in list(self._ways.items()):
            if not way.calls and way.since < before and self._ways.pop(key, None) is not None:
                await way.pool.close()

    def _context(self, credentials: Credentials) -> ssl.SSLContext:
        context = self._contexts.get(credentials)
        if context is None:
            if len(self._contexts) >= CONTEXTS:
                self._contexts.pop(next(iter(self._contexts)))
            context = self._contexts[credentials] = tls_context(credentials)
        return context


async def _bounded(connection: Connection, member: Member) -> bytes:
    parts, size = [], 0
    while chunk := await connection.read():
        size += len(chunk)
        if size > LARGEST:
            raise Unavailable("the agent's answer is too large", object=_name(member))
        parts.append(chunk)
    return b"".join(parts)


def _failure(member: Member, status: int, answer: bytes) -> Retryable | Terminal:
    try:
        problem = msgspec.json.decode(answer, type=Problem)
    except msgspec.MsgspecError:
        problem = Problem(
            reason="AgentError" if status >= 500 else "AgentRefused", message=f"the agent answers {status}"
        )
    kinds: dict[int, type[Terminal]] = {401: AccessDenied, 403: AccessDenied, 404: NotFound, 409: OwnedByAnother}
    if status in kinds or (400 <= status < 500 and status not in (408, 429)):
        kind = kinds.get(status, Terminal)
        return kind(problem.message, object=_name(member), fix=problem.fix, reason=problem.reason)
    return Unavailable(problem.message, object=_name(member), fix=problem.fix, reason=problem.reason)


def _name(member: Member) -> str:
    return f"agent of {member.name}"
