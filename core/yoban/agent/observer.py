"""Watches the running server: its status each second, a real commit every few seconds on a primary.

Guarantees: what it tells is never older than it says (`at`), each look is bounded by 5 s, and a server that does not answer
shows as such. What the engine says is wrong with it is told as a problem when it lasts. Liveness and readiness are judged
from it by `yoban.agent.probes`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from datetime import datetime

from yoban.agent.instance import Instance
from yoban.agent.notice import Notice
from yoban.errors import YobanError
from yoban.model.control import Problem, ReplicaState, ServerState
from yoban.plugins import Role, ServerStatus

log = logging.getLogger("yoban.agent.observer")
LOOK_EVERY = 1.0
PROBE_EVERY = 10.0
PROBE_AGAIN = 2.0
DEADLINE = 5.0
LASTS = 10.0
"""Seconds after which a server's problem is told: while a primary moves, replicas have some that pass."""


@dataclass(frozen=True, slots=True)
class Observation:
    """The last look at the server.

    Attributes:
        status: None when it does not answer, or does not run.
        at: monotonic time of the look.
        written_at: monotonic time of the last commit of ours that succeeded, None when none did.
        upstream_at: monotonic time at which a replica was last seen connected to its upstream.
        error: why there is no status.
    """

    status: ServerStatus | None = None
    at: float = 0.0
    written_at: float | None = None
    upstream_at: float | None = None
    error: str = ""

    @property
    def accepting(self) -> bool:
        """Whether the server answered and accepts sessions."""
        return self.status is not None and self.status.accepting


class Observer:
    """`run` looks for ever; `last` is what was seen. A server that was told to stop is left alone."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self.last = Observation()
        self.changed = Notice()
        self._probed = float("-inf")
        self._troubled_at: float | None = None

    async def run(self) -> None:
        """Look while a server runs, for ever."""
        supervision = self._instance.supervision
        while True:
            seen = supervision.changed.serial
            if not supervision.serving:
                self._probed = float("-inf")
                self._note(Observation(at=self._instance.clock.monotonic()))
                await supervision.changed.wait(seen, 60.0)
                continue
            await self.look()
            await supervision.changed.wait(seen, LOOK_EVERY)

    async def look(self) -> Observation:
        """Look once and return what was seen."""
        clock = self._instance.clock
        try:
            context = self._instance.context
            async with asyncio.timeout(DEADLINE):
                status = await self._instance.engine.server.status(context)
        except TimeoutError:
            self._note(replace(self.last, status=None, at=clock.monotonic(), error="no answer within 5 s"))
            return self.last
        except YobanError as error:
            self._note(replace(self.last, status=None, at=clock.monotonic(), error=str(error)))
            return self.last
        except Exception as error:
            # An engine's plugin that breaks its contract must not end the agent: the Lease and the log hang on it.
            told = f"unexpected {type(error).__name__}: {error}"
            if told != self.last.error:
                log.exception("the server's status cannot be told")
            self._note(replace(self.last, status=None, at=clock.monotonic(), error=told))
            return self.last
        now = clock.monotonic()
        upstream_at = now if status.upstream else self.last.upstream_at
        self._note(replace(self.last, status=status, at=now, upstream_at=upstream_at, error=""))
        if status.role is Role.PRIMARY and status.accepting and now - self._probed >= PROBE_EVERY:
            self._probed = now
            await self._probe()
        return self.last

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(DEADLINE):
                await self._instance.engine.server.probe_write(self._instance.context)
        except Exception as error:
            if self._instance.supervision.serving:
                log.warning("the write probe failed: %s", error or "no answer within 5 s")
            self._probed += PROBE_AGAIN - PROBE_EVERY
            return
        self._note(replace(self.last, written_at=self._instance.clock.monotonic()))

    def _note(self, observation: Observation) -> None:
        before = self.last
        self.last = observation
        self._instance.board.set(server=on_the_wire(observation.status))
        self._tell(observation)
        if _summary(before) != _summary(observation):
            self.changed.ring()

    def _tell(self, observation: Observation) -> None:
        text = observation.status.problem if observation.status is not None else ""
        if not text:
            self._troubled_at = None
        elif self._troubled_at is None:
            self._troubled_at = observation.at
        lasts = self._troubled_at is not None and observation.at - self._troubled_at >= LASTS
        self._instance.board.problem("server", Problem(reason="ServerProblem", message=text) if lasts else None)


def _summary(observation: Observation) -> tuple[object, ...]:
    status = observation.status
    if status is None:
        return (None, observation.written_at is None)
    known = status.received_known
    return (status.role, status.accepting, status.upstream, known, status.line, observation.written_at is None)


def on_the_wire(status: ServerStatus | None) -> ServerState | None:
    """Return a status as the control API tells it."""
    if status is None:
        return None
    last_commit: datetime | None = status.last_commit
    return ServerState(
        role=status.role.value if status.role is not None else "",
        accepting=status.accepting,
        version=status.version,
        system_id=status.system_id,
        line=status.line,
        position=status.position or "",
        received=status.received or "",
        received_known=status.received_known,
        last_commit=last_commit,
        lag_seconds=status.lag_seconds,
        upstream=status.upstream,
        replicas=[
            ReplicaState(
                name=replica.name,
                streaming=replica.streaming,
                synchronous=replica.synchronous,
                replayed=replica.replayed or "",
                lag_seconds=replica.lag_seconds,
            )
            for replica in status.replicas
        ],
        pending_restart=list(status.pending_restart),
    )
