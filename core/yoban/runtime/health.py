"""The HTTP server of a process: `/livez` (`/healthz`), `/readyz`, `/metrics`, `/traces/{id}`.

Guarantees: answers from the start to the very end, standbys included; a check that raises is a failed check; says which check
failed. Plain HTTP without authentication: nothing secret is shown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger(__name__)

Check = Callable[[], str | None]
"""What is wrong, or None; sync and quick."""

MetricsText = Callable[[], tuple[bytes, str]]
"""All metrics, and their content type; runs in a thread."""

TraceLines = Callable[[str], bytes]
"""The spans of the trace with that id, as JSON lines; quick."""


def failures(checks: Mapping[str, Check]) -> dict[str, str]:
    """The checks that fail, by name, with what they say."""
    failed = {}
    for name, check in checks.items():
        try:
            answer = check()
        except Exception as error:
            answer = f"the check itself failed: {error!r}"
        if answer is not None:
            failed[name] = answer
    return failed


class HealthServer:
    """Serves probes and metrics; a manager starts it first and stops it last.

    Args:
        host: address to listen on, "" for all.
        port: TCP port, 0 for a free one (see `port` after the start).
        live, ready: checks by name; both may be filled later.
        metrics: None for a port without `/metrics`.
        traces: answers `/traces/{id}` with the spans of that trace as JSON lines; None for a port without it.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        live: dict[str, Check] | None = None,
        ready: dict[str, Check] | None = None,
        metrics: MetricsText | None = None,
        traces: TraceLines | None = None,
    ) -> None:
        self.live: dict[str, Check] = live if live is not None else {}
        self.ready: dict[str, Check] = ready if ready is not None else {}
        self._host = host
        self.port = port
        self._metrics = metrics
        self._traces = traces
        self._listening = asyncio.Event()
        self._stop = asyncio.Event()

    @property
    def name(self) -> str:
        """How logs call it."""
        return f"http :{self.port}"

    async def started(self) -> None:
        """Return when it listens."""
        await self._listening.wait()

    async def stop(self) -> None:
        """Let `run` end. May be called twice."""
        self._stop.set()

    async def run(self) -> None:
        """Serve until cancelled or stopped. Raises OSError when the port is taken."""
        from aiohttp import web  # imported late: not every role serves HTTP

        app = web.Application()
        for path, handler in (("/livez", self._live), ("/healthz", self._live), ("/readyz", self._ready)):
            app.router.add_get(path, handler)
        if self._metrics is not None:
            app.router.add_get("/metrics", self._show_metrics)
        if self._traces is not None:
            app.router.add_get("/traces/{id:[0-9a-f]{32}}", self._show_trace)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host or None, self.port)
            await site.start()
            self.port = runner.addresses[0][1]
            self._listening.set()
            await self._stop.wait()
        finally:
            await runner.cleanup()

    async def _live(self, _: web.Request) -> web.Response:
        return _answer(self.live)

    async def _ready(self, _: web.Request) -> web.Response:
        return _answer(self.ready)

    async def _show_metrics(self, _: web.Request) -> web.Response:
        from aiohttp import web

        if self._metrics is None:
            return web.Response(status=404)
        body, content_type = await asyncio.to_thread(self._metrics)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _show_trace(self, request: web.Request) -> web.Response:
        from aiohttp import web

        if self._traces is None:
            return web.Response(status=404)
        return web.Response(body=self._traces(request.match_info["id"]), content_type="application/x-ndjson")


def _answer(checks: Mapping[str, Check]) -> web.Response:
    from aiohttp import web

    failed = failures(checks)
    if failed:
        return web.Response(status=503, text="".join(f"{name}: {what}\n" for name, what in failed.items()))
    return web.Response(text="ok\n")
