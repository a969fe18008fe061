"""Hands the log over to a recovery whose server does not ask for it, as much at a time as it takes.

Guarantees: segments come in the plan's order, each once; a segment is fetched only shortly before it is handed over.
"""

from __future__ import annotations

import asyncio

from opentelemetry import trace

from yoban.agent.board import Board
from yoban.agent.prefetch import Prefetch
from yoban.errors import Terminal
from yoban.model.control import Progress
from yoban.plugins import InstanceContext, Recovery, RecoveryPlan

tracer = trace.get_tracer("yoban.agent")
FEED_DEADLINE = 600.0
"""For one segment."""


class Feeding:
    """One recovery's meal: `on` hands over what is taken now, `close` ends it."""

    def __init__(self, recovery: Recovery, plan: RecoveryPlan, prefetch: Prefetch, board: Board) -> None:
        self._recovery = recovery
        self._plan = plan
        self._board = board
        self._fetched = prefetch.in_order(plan.segments)
        self._done = 0

    async def on(self, context: InstanceContext) -> None:
        """Hand over segments until the engine has enough for now, or there are no more.

        Raises what makes the restore impossible; Terminal when it waits for more than there is.
        """
        total = len(self._plan.segments)
        if self._done == total > 0:
            raise Terminal(
                "the engine waits for more log than leads to the target",
                object=f"segment {self._plan.segments[-1]}",
                reason="RestoreFailed",
            )
        with tracer.start_as_current_span("restore feed"):
            async for name, path in self._fetched:
                async with asyncio.timeout(FEED_DEADLINE):
                    more = await self._recovery.feed(context, self._plan, name, path)
                self._done += 1
                self._board.set(progress=Progress(what="fetching the log", done=self._done, total=total))
                if not more:
                    break
        self._board.set(progress=Progress(what="replaying the log"))

    async def close(self) -> None:
        """Fetch no more. May be called again."""
        await self._fetched.aclose()
