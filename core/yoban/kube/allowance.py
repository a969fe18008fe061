"""How often something may happen for a key: some at once, then one in a while.

Guarantees: bounded memory: a key whose allowance is whole again is forgotten, and of more keys than `capacity` those taken
for longest ago start anew. Decides only; waiting is the caller's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Allowance(Generic[K]):
    """A token bucket for each key, kept as the moment at which it is full again.

    Args:
        burst: how many at once, at least 1.
        every: seconds after which there is one more.
        capacity: keys that are remembered.
    """

    def __init__(self, burst: int, every: float, *, capacity: int = 4096) -> None:
        self._every = every
        self._slack = (burst - 1) * every
        self._capacity = capacity
        self._whole_at: OrderedDict[K, float] = OrderedDict()

    def wait(self, key: K, now: float) -> float:
        """Return after how many seconds from `now` (monotonic) `key` has one; 0 if it has."""
        return max(0.0, self._whole_at.get(key, now) - now - self._slack)

    def take(self, key: K, now: float) -> None:
        """Use one of `key`, be it there or not: what is owed is waited for."""
        self._whole_at[key] = max(self._whole_at.get(key, now), now) + self._every
        self._whole_at.move_to_end(key)
        while len(self._whole_at) > self._capacity or next(iter(self._whole_at.values())) <= now:
            self._whole_at.popitem(last=False)

    def __len__(self) -> int:
        return len(self._whole_at)
