"""How long a key that failed waits: the longer of its own exponential delay and the share of everybody's bucket.

Guarantees: the counter of a key lives until `forget`, so whoever succeeds must forget, or the map grows. Decides only;
waiting is the queue's.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from yoban.kube.backoff import Random, default_random

K = TypeVar("K", bound=Hashable)


class TokenBucket:
    """A rate for everybody together: `burst` at once, then `rate` a second."""

    def __init__(self, rate: float = 10.0, burst: int = 100) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at: float | None = None

    def reserve(self, now: float) -> float:
        """Take a token at `now` (seconds) and return after how many seconds it may be used."""
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._rate)


class RateLimiter(Generic[K]):
    """Delays for keys that failed.

    Args:
        initial: first delay in seconds; doubled with each failure of the key.
        cap: largest delay in seconds.
        jitter: largest share that is added at random, so that many failures do not come back as one wave.
        bucket: the overall rate, None for none.
    """

    def __init__(
        self,
        *,
        initial: float = 0.005,
        cap: float = 1000.0,
        jitter: float = 0.1,
        bucket: TokenBucket | None = None,
        random: Random = default_random,
    ) -> None:
        self._initial = initial
        self._cap = cap
        self._jitter = jitter
        self._bucket = bucket
        self._random = random
        self._failures: dict[K, int] = {}

    def when(self, key: K, now: float) -> float:
        """Count a failure of `key` at `now` and return its delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(self._cap, self._initial * 2.0 ** min(failures, 64))
        delay = min(self._cap, delay * (1.0 + self._jitter * self._random()))
        return max(delay, self._bucket.reserve(now)) if self._bucket is not None else delay

    def apart(self, cap: float) -> RateLimiter[K]:
        """One of the same delays up to `cap` seconds that counts by itself and takes nothing from the bucket."""
        return RateLimiter(initial=self._initial, cap=min(cap, self._cap), jitter=self._jitter, random=self._random)

    def forget(self, key: K) -> None:
        """`key` succeeded: its next failure starts from the first delay."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """Failures of `key` in a row."""
        return self._failures.get(key, 0)

    def __len__(self) -> int:
        return len(self._failures)
