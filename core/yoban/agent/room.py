"""How much log the volume can still hold that is not stored yet, and how long that lasts. Pure; time is handed in.

Guarantees: the limit is told before it is reached, whether the store is down or only slower than the log is written; what
comes and goes within seconds is not told; what was told is withdrawn only when it is clearly over.

The limit is the volume: nothing that is not stored is ever removed to make room, and writes stop when it is full.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

SPAN = 600.0
"""Seconds over which growth is measured, at most."""
RECENT = 120.0
"""Seconds without growth after which a burst is over."""
LEAST = 20.0
"""Seconds that growth must have been seen for; before, its rate is not known."""
LASTING = 30.0
"""Seconds that log must have been kept for to count: what is shorter is on its way to the store."""
HALF, FOUR_HOURS = 0.5, 4 * 3600.0
MOST, HALF_HOUR = 0.9, 1800.0
WORTH = 0.1
"""Part of the limit below which nothing is told, however quickly it grows: a burst is no trend."""
EASED = 1.25
"""What was told is withdrawn when the bounds are missed by this factor."""


class Level(Enum):
    """How near the limit is; the value is the reason that it is told by."""

    ENOUGH = ""
    FILLING = "LogFilling"
    """Half of the limit is used, or it is reached within four hours at the present rate."""
    NEARLY_FULL = "LogNearlyFull"
    """Nine tenths of the limit are used, or it is reached within half an hour."""


@dataclass(frozen=True, slots=True)
class Room:
    """One look.

    Attributes:
        kept: bytes of log on the volume that are not stored.
        free: bytes that are free on it.
        rate: bytes a second by which room gets less; 0.0 while it does not, or is not known to.
        lasting: the least that was kept within the last half minute.
    """

    kept: int = 0
    free: int = 0
    rate: float = 0.0
    lasting: int = 0

    @property
    def limit(self) -> int:
        """Bytes of such log that the volume can hold: what it holds, and what is free."""
        return self.kept + self.free

    @property
    def full_in(self) -> float | None:
        """Seconds until the limit is reached at the present rate; None while it is not approached."""
        return self.free / self.rate if self.rate >= 1 else None


class Watch:
    """Looks from time to time, remembers the last ten minutes, and tells how near the limit is."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int, int]] = deque()
        self.room = Room()
        self.level = Level.ENOUGH

    def look(self, now: float, kept: int, free: int) -> Level:
        """Note what is kept and free at a moment (monotonic seconds); return how near the limit is."""
        looks = self._looks
        looks.append((now, kept, free))
        while now - looks[0][0] > SPAN:
            looks.popleft()
        rate = min(self._rate(SPAN), self._rate(RECENT))
        whole = now - looks[0][0] >= LASTING
        lasting = min(look[1] for look in looks if now - look[0] <= LASTING) if whole else 0
        self.room = Room(kept, free, rate, lasting)
        self.level = level(self.room, self.level)
        return self.level

    def _rate(self, seconds: float) -> float:
        """Growth since the least that was kept in the last so many seconds."""
        now, kept, free = self._looks[-1]
        looks = (look for look in reversed(self._looks) if now - look[0] <= seconds)
        since, least, had = min(looks, key=lambda look: look[1])
        grown = kept - least
        if grown <= 0 or now - since < LEAST:
            return 0.0
        # A volume that is shared fills by data, too, for as long as log is written.
        return max(grown, had - free) / (now - since)


def level(room: Room, last: Level = Level.ENOUGH) -> Level:
    """Return how near the limit is, when it was told to be `last` before."""
    for found, share, seconds in ((Level.NEARLY_FULL, MOST, HALF_HOUR), (Level.FILLING, HALF, FOUR_HOURS)):
        told = last is found or last is Level.NEARLY_FULL
        ease = EASED if told else 1.0
        used = room.lasting / room.limit if room.limit else 0.0
        soon = room.full_in is not None and room.full_in <= seconds * ease
        if used >= share / ease or (used >= WORTH / ease and soon):
            return found
    return Level.ENOUGH
