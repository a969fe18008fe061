"""The control API of `yoban.model.control`: mutual TLS, JSON, long polls.

Guarantees: every caller has a certificate of this Database's CA; the operator's may ask everything, a peer's only to ship
the log and for the status. Certificates that rotate are taken up without a restart. Requests are bounded in size and time.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from yoban.agent.board import Board
from yoban.agent.document import Configurations
from yoban.agent.jobs import Jobs
from yoban.errors import Retryable, YobanError
from yoban.model.control import JobRequest, Problem, Push, ShipAnswer, ShipRequest
from yoban.plugins import TlsFiles
from yoban.telemetry import continued

log = logging.getLogger("yoban.agent.control")
OPERATOR = "yoban-operator"
LONGEST_WAIT = 60.0
BODY_LIMIT = 4 << 20
CERTIFICATES_EVERY = 5.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


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
    ) -> None:
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

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._guard(request, handler)

        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[guard])
        add = app.router.add_route
        add("GET", "/v1/status", self._status)
        add("PUT", "/v1/document", self._document)
        add("PUT", "/v1/jobs/{uid}", self._put_job)
        add("GET", "/v1/jobs/{uid}", self._get_job)
        add("DELETE", "/v1/jobs/{uid}", self._delete_job)
        add("POST", "/v1/ship", self._post_ship)
        add("POST", "/v1/agent/restart", self._restart_agent)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._bind, self._port, ssl_context=context).start()
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
            await runner.cleanup()

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
                await asyncio.sleep(1.0)

    # -- who and how -------------------------------------------------------------------------------------------------

    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        names = _common_names(request)
        allowed = OPERATOR in names or (self._peer in names and request.path in ("/v1/ship", "/v1/status"))
        if not allowed:
            return _answer(Problem(reason="AccessDenied", message="this certificate may not ask for that"), 403)
        try:
            with continued(request.headers.get("traceparent", "")):
                return await handler(request)
        except msgspec.MsgspecError as error:
            return _answer(Problem(reason="InvalidRequest", message=str(error)), 400)
        except YobanError as error:
            problem = Problem(reason=error.reason, message=str(error), fix=error.fix)
            return _answer(problem, 503 if isinstance(error, Retryable) else 422)
        except TimeoutError:
            return _answer(Problem(reason="DeadlineExceeded", message="not done in time"), 504)

    # -- calls -------------------------------------------------------------------------------------------------------

    async def _status(self, request: web.Request) -> web.Response:
        after, wait = _number(request, "after", -1), _number(request, "wait", 0)
        return _answer(await self._board.wait(int(after), min(wait, LONGEST_WAIT)))

    async def _document(self, request: web.Request) -> web.Response:
        push = msgspec.json.decode(await request.read(), type=Push)
        if not self._configurations.push(push):
            return _answer(Problem(reason="Stale", message="the document in force is newer"), 409)
        return web.Response(status=204)

    async def _put_job(self, request: web.Request) -> web.Response:
        job = msgspec.json.decode(await request.read(), type=JobRequest)
        status = self._jobs.put(request.match_info["uid"], job)
        if status is None:
            return _answer(Problem(reason="Unsupported", message=f"this agent knows no job {job.kind!r}"), 422)
        return _answer(status)

    async def _get_job(self, request: web.Request) -> web.Response:
        status = await self._jobs.get(request.match_info["uid"], min(_number(request, "wait", 0), LONGEST_WAIT))
        if status is None:
            return _answer(Problem(reason="UnknownJob", message="this agent does not know the job"), 404)
        return _answer(status)

    async def _delete_job(self, request: web.Request) -> web.Response:
        await self._jobs.cancel(request.match_info["uid"])
        return web.Response(status=204)

    async def _post_ship(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=ShipRequest)
        async with asyncio.timeout(asked.deadline_seconds):
            return _answer(await self._ship(asked))

    async def _restart_agent(self, _: web.Request) -> web.Response:
        await self._restart()
        return web.Response(status=202)


def _answer(body: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")


def _number(request: web.Request, name: str, default: float) -> float:
    try:
        return float(request.query.get(name, default))
    except ValueError:
        return default


def _common_names(request: web.Request) -> set[str]:
    certificate = request.transport.get_extra_info("peercert") if request.transport is not None else None
    subject = (certificate or {}).get("subject", ())
    return {value for part in subject for key, value in part if key == "commonName"}


def _load(context: ssl.SSLContext, tls: TlsFiles) -> None:
    context.load_verify_locations(cafile=str(tls.ca))
    context.load_cert_chain(str(tls.certificate), str(tls.key))


def _times(tls: TlsFiles) -> tuple[float, ...]:
    files = (tls.ca, tls.certificate, tls.key)
    return tuple(file.stat().st_mtime if file.exists() else 0.0 for file in files)
