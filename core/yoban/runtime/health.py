"""The HTTP server of a process: `/livez` (`/healthz`), `/readyz`, `/metrics`, `/traces/{id}`.

Guarantees: answers from the start to the very end, standbys included; a check that raises is a failed check; says which check
failed. Plain HTTP without authentication: nothing secret is shown.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping

from yoban.runtime.http import Answer, HttpServer, Request

Check = Callable[[], str | None]
"""What is wrong, or None; sync and quick."""

MetricsText = Callable[[], tuple[bytes, str]]
"""All metrics, and their content type; runs in a thread."""

TraceLines = Callable[[str], bytes]
"""The spans of the trace with that id, as JSON lines; quick."""

_TRACE = re.compile(r"/traces/([0-9a-f]{32})")


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
        server = HttpServer(self._respond)
        try:
            self.port = await server.start(self._host, self.port)
            self._listening.set()
            await self._stop.wait()
        finally:
            await server.stop()

    async def _respond(self, request: Request) -> Answer:
        if request.method not in ("GET", "HEAD"):
            return Answer(405)
        if request.path in ("/livez", "/healthz"):
            return _judge(self.live)
        if request.path == "/readyz":
            return _judge(self.ready)
        if request.path == "/metrics" and self._metrics is not None:
            body, content_type = await asyncio.to_thread(self._metrics)
            return Answer(200, body, content_type)
        trace = _TRACE.fullmatch(request.path)
        if trace is not None and self._traces is not None:
            return Answer(200, self._traces(trace[1]), "application/x-ndjson")
        return Answer(404)


def _judge(checks: Mapping[str, Check]) -> Answer:
    failed = failures(checks)
    if failed:
        return Answer(503, "".join(f"{name}: {what}\n" for name, what in failed.items()).encode())
    return Answer(200, b"ok\n")
