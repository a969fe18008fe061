"""How soon a step that failed is tried again. Does nothing itself."""

from __future__ import annotations

from dataclasses import dataclass

from yoban.kube.clock import Clock

COSTLY = 120.0
"""Pause after a restore that cannot work as asked: each try copies the base backup again."""
BACKOFF = (0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(slots=True)
class Pace:
    """Back-off of a step that fails; it ends when something else is asked for (`asked`, the configuration)."""

    clock: Clock
    failures: int = 0
    due: float = 0.0
    asked: object = None

    def failed(self, *, costly: bool = False) -> float:
        """Count a failure; return the seconds until the next try."""
        pause = COSTLY if costly else BACKOFF[min(self.failures, len(BACKOFF) - 1)]
        self.failures += 1
        self.due = self.clock.monotonic() + pause
        return pause
