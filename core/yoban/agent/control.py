"""The control API of `yoban.model.control`: mutual TLS, JSON, long polls.

Guarantees: every caller has a certificate of this Database's CA; the operator's may ask everything, a peer's only to ship
the log and for the status. Certificates that rotate are taken up without a restart. Requests are bounded in size and time.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from yoban.agent.board import Board
from yoban.agent.document import Configurations
from yoban.agent.jobs import Jobs
from yoban.errors import Retryable, YobanError
from yoban.kube.clock import Clock, SystemClock
from yoban.model.control import JobRequest, Problem, Push, ShipAnswer, ShipRequest
from yoban.plugins import TlsFiles
from yoban.runtime.http import Answer, HttpServer, Request
from yoban.telemetry import continued

log = logging.getLogger("yoban.agent.control")
OPERATOR = "yoban-operator"
LONGEST_WAIT = 60.0
BODY_LIMIT = 4 << 20
CERTIFICATES_EVERY = 5.0


class Control:
    """Serves the control API."""

    def __init__(
        self,
        board: Board,
        configurations: Configurations,
        jobs: Jobs,
        *,
        ship: Callable[[ShipRequest], Awaitable[ShipAnswer]],
        restart: Callable[[], Awaitable[None]],
        peer: str,
        bind: str | None,
        port: int,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._board = board
        self._configurations = configurations
        self._jobs = jobs
        self._ship = ship
        self._restart = restart
        self._peer = peer
        self._bind = bind
        self._port = port

    async def run(self, tls: TlsFiles) -> None:
        """Serve for ever, from the moment the certificates are there."""
        context, seen = await self._certificates(tls)

        server = HttpServer(self._guard, largest_body=BODY_LIMIT)
        try:
            await server.start(self._bind, self._port, context)
            while True:
                await asyncio.sleep(CERTIFICATES_EVERY)
                fresh = _times(tls)
                if fresh != seen:
                    try:
                        # New handshakes use the new ones; a CA that is replaced stays trusted until then (overlap).
                        _load(context, tls)
                        seen = fresh
                        log.info("certificates taken up anew")
                    except (OSError, ssl.SSLError) as error:
                        log.warning("new certificates cannot be read, the old ones stay: %s", error)
        finally:
            await server.stop()

    async def _certificates(self, tls: TlsFiles) -> tuple[ssl.SSLContext, tuple[float, ...]]:
        told = False
        while True:
            try:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.minimum_version = ssl.TLSVersion.TLSv1_2
                context.verify_mode = ssl.CERT_REQUIRED
                seen = _times(tls)
                _load(context, tls)
                return context, seen
            except (OSError, ssl.SSLError) as error:
                if not told:
                    log.warning("no certificates yet: %s", error)
                told = True
                await self._clock.sleep(1.0)  # a mounted volume tells nobody when its files come

    # -- who and how -------------------------------------------------------------------------------------------------

    async def _guard(self, request: Request) -> Answer:
        names = _common_names(request.certificate)
        allowed = OPERATOR in names or (self._peer in names and request.path in ("/v1/ship", "/v1/status"))
        if not allowed:
            return _answer(Problem(reason="AccessDenied", message="this certificate may not ask for that"), 403)
        try:
            with continued(request.headers.get("traceparent", "")):
                return await self._call(request)
        except msgspec.MsgspecError as error:
            return _answer(Problem(reason="InvalidRequest", message=str(error)), 400)
        except YobanError as error:
            problem = Problem(reason=error.reason, message=str(error), fix=error.fix)
            return _answer(problem, 503 if isinstance(error, Retryable) else 422)
        except TimeoutError:
            return _answer(Problem(reason="DeadlineExceeded", message="not done in time"), 504)

    # -- calls -------------------------------------------------------------------------------------------------------

    async def _call(self, request: Request) -> Answer:
        folder, _, job = request.path.rpartition("/")
        match request.method, f"{folder}/" if folder == "/v1/jobs" and job else request.path:
            case "GET", "/v1/status":
                after, wait = _number(request, "after", -1), _number(request, "wait", 0)
                return _answer(await self._board.wait(int(after), min(wait, LONGEST_WAIT)))
            case "PUT", "/v1/document":
                return self._document(msgspec.json.decode(request.body, type=Push))
            case "PUT", "/v1/jobs/":
                return self._put_job(job, msgspec.json.decode(request.body, type=JobRequest))
            case "GET", "/v1/jobs/":
                return await self._get_job(job, min(_number(request, "wait", 0), LONGEST_WAIT))
            case "DELETE", "/v1/jobs/":
                await self._jobs.cancel(job)
                return Answer(204)
            case "POST", "/v1/ship":
                asked = msgspec.json.decode(request.body, type=ShipRequest)
                async with asyncio.timeout(asked.deadline_seconds):
                    return _answer(await self._ship(asked))
            case "POST", "/v1/agent/restart":
                await self._restart()
                return Answer(202)
        return Answer(404, b"there is no such call\n")

    def _document(self, push: Push) -> Answer:
        if not self._configurations.push(push):
            return _answer(Problem(reason="Stale", message="the document in force is newer"), 409)
        return Answer(204)

    def _put_job(self, uid: str, job: JobRequest) -> Answer:
        status = self._jobs.put(uid, job)
        if status is None:
            return _answer(Problem(reason="Unsupported", message=f"this agent knows no job {job.kind!r}"), 422)
        return _answer(status)

    async def _get_job(self, uid: str, wait: float) -> Answer:
        status = await self._jobs.get(uid, wait)
        if status is None:
            return _answer(Problem(reason="UnknownJob", message="this agent does not know the job"), 404)
        return _answer(status)


def _answer(body: msgspec.Struct, status: int = 200) -> Answer:
    return Answer(status, msgspec.json.encode(body), "application/json")


def _number(request: Request, name: str, default: float) -> float:
    try:
        return float(request.query.get(name, default))
    except ValueError:
        return default


def _common_names(certificate: Mapping[str, Any] | None) -> set[str]:
    subject = (certificate or {}).get("subject", ())
    return {value for part in subject for key, value in part if key == "commonName"}


def _load(context: ssl.SSLContext, tls: TlsFiles) -> None:
    context.load_verify_locations(cafile=str(tls.ca))
    context.load_cert_chain(str(tls.certificate), str(tls.key))


def _times(tls: TlsFiles) -> tuple[float, ...]:
    files = (tls.ca, tls.certificate, tls.key)
    return tuple(file.stat().st_mtime if file.exists() else 0.0 for file in files)
