"""Whether data can follow an upstream as it is. Pure.

Guarantees: data that holds anything which its upstream's history does not is never said to be able to follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from yoban.plugins import Fork

from yoban_postgres.positions import Lineage


class Way(Enum):
    """How to go on."""

    FOLLOW = "follow"
    REWIND = "rewind"
    REBUILD = "rebuild"


@dataclass(frozen=True, slots=True)
class Own:
    """Stopped data: its line, the end of what it holds (None: not known, it crashed), whether it was a primary."""

    system_id: str
    line: str
    end: int | None
    primary: bool


@dataclass(frozen=True, slots=True)
class Upstream:
    """Whom to follow: its line, the forks that lead to it, and how far it is flushed."""

    system_id: str
    line: str
    forks: Sequence[Fork]
    flushed: int


def choose(own: Own, upstream: Upstream) -> tuple[Way, str]:
    """Return the way and why."""
    if own.system_id != upstream.system_id:
        return (
            Way.REBUILD,
            f"it holds another cluster's data (system id {own.system_id}, upstream {upstream.system_id})",
        )
    if own.line == upstream.line:
        if own.end is None or own.end <= upstream.flushed:
            return Way.FOLLOW, "same line"
        return Way.REWIND, "it is ahead of its upstream on the same line"
    left = Lineage(upstream.forks).exit_of(upstream.line, own.line)
    if left is None:
        return Way.REWIND, f"its line {own.line} is no ancestor of line {upstream.line}"
    if own.end is None:
        # Whether a crashed server wrote past the fork only its log tells; the rewind reads it.
        return Way.REWIND, "it was not stopped cleanly"
    if own.end <= left:
        return Way.FOLLOW, "it ended before its upstream's line began"
    return Way.REWIND, f"it wrote past the fork to line {upstream.line}"
