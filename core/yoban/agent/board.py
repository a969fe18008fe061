"""What this agent tells: one immutable status, replaced piece by piece, with a serial that grows when it is worth telling.

Guarantees: a waiter that knows serial V is woken by the first change after V. Moving figures (positions, lags, rates, times)
are kept current but do not raise the serial: nobody is woken by a clock.
"""

from __future__ import annotations

from typing import Any

import msgspec

from yoban.agent.notice import Notice
from yoban.kube.clock import Clock, SystemClock
from yoban.model.control import AgentStatus, ArchiveState, LeaseState, Problem


class Board:
    """The status in force. `set` and `problem` may be called as often as one likes."""

    def __init__(self, instance: str, version: str, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._status = AgentStatus(instance=instance, agent_version=version)
        self._problems: dict[str, Problem] = {}
        self._steady = _steady(self._status)
        self.changed = Notice()

    @property
    def status(self) -> AgentStatus:
        """The status now, with its serial."""
        return msgspec.structs.replace(self._status, serial=self.changed.serial)

    def set(self, **fields: Any) -> None:
        """Replace fields of the status."""
        self._status = msgspec.structs.replace(self._status, **fields)
        steady = _steady(self._status)
        if steady != self._steady:
            self._steady = steady
            self.changed.ring()

    def problem(self, key: str, problem: Problem | None) -> None:
        """State or withdraw the problem known under `key`; `since` is kept while its reason stays the same."""
        old = self._problems.get(key)
        if problem is None:
            if old is None:
                return
            del self._problems[key]
        else:
            since = old.since if old is not None and old.reason == problem.reason else self._clock.now()
            self._problems[key] = msgspec.structs.replace(problem, since=since)
            if self._problems[key] == old:
                return
        self.set(problems=[self._problems[name] for name in sorted(self._problems)])

    async def wait(self, after: int, timeout: float) -> AgentStatus:
        """Return the status as soon as its serial is greater than `after`, or after `timeout` seconds."""
        await self.changed.wait(after, timeout)
        return self.status


def _steady(status: AgentStatus) -> AgentStatus:
    """The status without what moves by itself."""
    server = status.server
    if server is not None:
        server = msgspec.structs.replace(
            server,
            position="",
            received="",
            last_commit=None,
            lag_seconds=None,
            replicas=[msgspec.structs.replace(replica, replayed="", lag_seconds=None) for replica in server.replicas],
        )
    archive = status.archive
    return msgspec.structs.replace(
        status,
        progress=None,
        server=server,
        lease=LeaseState(holder=status.lease.holder, held=status.lease.held, term=status.lease.term),
        archive=ArchiveState(
            active=archive.active,
            line=archive.line,
            failing_since=archive.failing_since,
            error=archive.error,
            has_log=archive.has_log,
        ),
        problems=[msgspec.structs.replace(problem, message="") for problem in status.problems],
    )
