"""The kubelet's questions, on plain HTTP, answered by status code only: `/livez`, `/readyz`, `/startupz`.

Guarantees: liveness depends on nothing but this process (its supervisor replaces it when it hangs, so that the kubelet need
not end a healthy server); neither the API server, the object store nor replication lag can fail it. Readiness means really
usable: a primary in its reign whose last real commit is recent, a replica that follows.
"""

from __future__ import annotations

from collections.abc import Callable

from yoban.agent.decisions import Running
from yoban.agent.lease import LeaseView
from yoban.agent.observer import Observation
from yoban.plugins import Role
from yoban.runtime.http import Answer, HttpServer, Request

WRITTEN_WITHIN = 30.0
"""Seconds within which a real commit must have succeeded: probes come each 10 s, two may fail."""
FOLLOWED_WITHIN = 60.0
"""Seconds for which a replica without upstream stays ready: a switchover takes less."""


def usable(running: Running, lease: LeaseView, seen: Observation, now: float) -> bool:
    """Tell whether the server serves in its role. Pure; `now` is monotonic."""
    if not seen.accepting or seen.status is None:
        return False
    if running is Running.PRIMARY:
        fresh = seen.written_at is not None and now - seen.written_at <= WRITTEN_WITHIN
        return lease.held and seen.status.role is Role.PRIMARY and fresh
    if running is Running.REPLICA:
        followed = seen.upstream_at is not None and now - seen.upstream_at <= FOLLOWED_WITHIN
        return seen.status.role is Role.REPLICA and followed
    return False


class Probes:
    """Serves the probes; `ready` is asked at each question and must cost nothing."""

    def __init__(self, bind: str | None, port: int, ready: Callable[[], bool]) -> None:
        self._bind = bind
        self._port = port
        self._judge = ready
        self._server = HttpServer(self._respond)

    async def start(self) -> None:
        """Listen."""
        await self._server.start(self._bind, self._port)

    async def stop(self) -> None:
        """Stop listening."""
        await self._server.stop()

    async def _respond(self, request: Request) -> Answer:
        if request.path in ("/livez", "/startupz"):
            return Answer(200)
        if request.path == "/readyz":
            return Answer(200 if self._judge() else 503)
        return Answer(404)
