"""Bytes a second over the last ten seconds."""

from __future__ import annotations

from collections import deque

from yoban.kube.clock import Clock

SPAN = 10.0


class Rate:
    """A moving rate of a growing figure."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque(maxlen=256)

    def at(self, done: int) -> float:
        """Note that the figure is `done` now and return its rate."""
        now = self._clock.monotonic()
        if not self._seen or now - self._seen[-1][0] >= SPAN / 200:
            self._seen.append((now, done))
        while len(self._seen) > 1 and now - self._seen[0][0] > SPAN:
            self._seen.popleft()
        since, first = self._seen[0]
        return max(0.0, (done - first) / (now - since)) if now > since else 0.0
