"""From a policy's retention to what the repository's plan is asked with.

Which objects go is decided on the repository's listing, in one place (`yoban.repository`). Here is only what is asked
of it: never less than one base backup, never without a time of grace.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

SHORTEST_GRACE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept: so many newest base backups, every moment this far back, and the grace between mark and removal."""

    count: int
    window: timedelta
    grace: timedelta


def keep(count: int | None, window: timedelta | None, grace: timedelta) -> Keep | None:
    """Return what to keep by a policy's fields; None when it names neither count nor window: then nothing is removed."""
    if count is None and window is None:
        return None
    return Keep(max(count or 1, 1), window or timedelta(0), max(grace, SHORTEST_GRACE))


def look_again(kept: Keep, interval: timedelta = timedelta(hours=1)) -> timedelta:
    """Return how long until retention is worth another run: within the grace, at most `interval`."""
    return min(interval, max(kept.grace, SHORTEST_GRACE))
