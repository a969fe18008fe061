"""What the supervisor is told of the fencing deadline: until when (CLOCK_BOOTTIME) the server below it may run.

Guarantees: a deadline is never lifted from a server that may take writes: it may have been set by the agent before us. A
server that replays a restore has none, from before its start to after its end: nobody writes to it and nothing of it is
announced, so nobody can reign beside it; ended at a deadline it would only begin again from the base backup. Whoever starts
another server has told the deadline before.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from yoban.agent.supervision import Supervision
from yoban.plugins import Role


class Fencing:
    """Each `tell` is a heartbeat, too."""

    def __init__(self, supervision: Supervision) -> None:
        self._supervision = supervision
        self._replaying = False

    async def tell(self, fence_at: float | None) -> None:
        """Say until when the server may run; None when nothing is known of a deadline."""
        supervision = self._supervision
        server = supervision.server
        recovers = server is not None and server.note.get("role") == Role.RECOVERY.value
        if self._replaying or recovers:
            await supervision.heartbeat(None)
        elif fence_at is None and server is not None:
            await supervision.alive()
        else:
            await supervision.heartbeat(fence_at)

    @contextlib.asynccontextmanager
    async def lifted(self) -> AsyncIterator[None]:
        """Within the block no server but one in recovery is started, and no deadline holds for it.

        The server's note alone would not do: the supervisor starts none after a deadline that has passed, and one may be
        told between its start and our hearing of it. A server that is left at the end of the block keeps having none.
        """
        self._replaying = True
        try:
            await self._supervision.heartbeat(None)
            yield
        finally:
            self._replaying = False
