"""Which commits waited too long: what writers notice of a backup. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LIMIT = 0.5
"""A commit that takes longer (seconds) was blocked; shorter ones are the machine's noise."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One small transaction: when it was sent, and when it was acknowledged; seconds on one clock."""

    sent: float
    done: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.done - self.sent


def within(commits: Iterable[Commit], begin: float, end: float) -> list[Commit]:
    """Return those that were under way at some moment between `begin` and `end`."""
    return [one for one in commits if one.done > begin and one.sent < end]


def blocked(commits: Iterable[Commit], begin: float, end: float, limit: float = LIMIT) -> float:
    """Return the seconds between `begin` and `end` in which at least one blocked commit was under way.

    Seconds in which several writers wait count once.
    """
    found = 0.0
    covered = begin
    for one in sorted(commits, key=lambda one: one.sent):
        if one.seconds > limit:
            start, stop = max(one.sent, covered), min(one.done, end)
            if stop > start:
                found += stop - start
                covered = stop
    return found
