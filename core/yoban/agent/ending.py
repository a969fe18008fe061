"""How long a server that was told to stop may take, whoever told it: also an agent that is gone. Does nothing itself."""

from __future__ import annotations

from yoban.agent.supervision import RunningServer
from yoban.plugins import Role

RESTART_DEADLINE = 120.0
RECOVERY_DEADLINE = 1800.0
"""To stop, a server that replayed a restore writes to disk what replay changed: cut short, the restore begins again."""


class Ending:
    """Counts from the moment in which this agent first saw it: when an agent before it asked is not known."""

    def __init__(self) -> None:
        self._since: tuple[int, float] | None = None

    def overdue(self, server: RunningServer | None, now: float) -> bool:
        """Whether the server was told to stop and has had its time; `now` is monotonic. Called at each look."""
        if server is None or not server.mode:
            self._since = None
            return False
        if self._since is None or self._since[0] != server.pid:
            self._since = (server.pid, now)
        recovers = server.note.get("role") == Role.RECOVERY.value
        return now - self._since[1] >= (RECOVERY_DEADLINE if recovers else RESTART_DEADLINE)
