"""How long to wait after a failure, as pure functions and a small state.

Guarantees: a delay is never below the one before it (without jitter) until a reset, and never above its cap plus jitter.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

Random = Callable[[], float]  # a number in [0, 1)


def default_random() -> float:
    """A number in [0, 1) for spreading load; no secret depends on it."""
    return random.random()  # noqa: S311 - spreads load only


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """Exponential delays.

    Attributes:
        initial: first delay in seconds.
        factor: growth from one delay to the next.
        cap: largest delay in seconds, jitter not counted.
        jitter: largest share of the delay that is added at random.
        reset_after: seconds without a failure after which delays start anew.
    """

    initial: float = 0.8
    factor: float = 2.0
    cap: float = 30.0
    jitter: float = 1.0
    reset_after: float = 120.0

    def delay(self, failures: int, random: Random = default_random) -> float:
        """Seconds to wait after failure number `failures` (from 0) in a row."""
        base = min(self.cap, self.initial * self.factor ** min(failures, 64))
        return base * (1.0 + self.jitter * random())


class Backoff:
    """The failures in a row of one activity."""

    def __init__(self, policy: BackoffPolicy | None = None, random: Random = default_random) -> None:
        self._policy = policy or BackoffPolicy()
        self._random = random
        self._failures = 0
        self._last = float("-inf")

    @property
    def failures(self) -> int:
        """Failures in a row that the next delay grows by."""
        return self._failures

    def next(self, now: float, *, at_least: float = 0.0) -> float:
        """Count a failure at `now` (seconds) and return how long to wait: `at_least` seconds, which a server asked for."""
        if now - self._last > self._policy.reset_after:
            self._failures = 0
        delay = self._policy.delay(self._failures, self._random)
        self._failures += 1
        delay = max(delay, at_least)
        self._last = now + delay  # waiting is no time without failure
        return delay

    def forgive(self, failures: int) -> None:
        """Those after the first `failures` had a cause that is over: they count no more."""
        self._failures = min(self._failures, failures)
