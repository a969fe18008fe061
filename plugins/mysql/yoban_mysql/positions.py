"""Positions of MySQL: the set of transactions that a server holds, as text. Pure.

A place in MySQL's log is no number: it is told by what was executed up to it. So of two places each may hold something
that the other lacks, and the history is a partial order without any knowledge of forks. A server that has executed
nothing is at no place (None), not at an empty one.
"""

from __future__ import annotations

from collections.abc import Sequence

from yoban.errors import InvalidInput
from yoban.plugins import Fork, Order, Position, Positions

from yoban_mysql.gtid import GtidSet


def position_of(executed: GtidSet) -> Position | None:
    """Return the place at which a server with these transactions is; None when there is none."""
    return Position(str(executed)) if executed else None


class MySqlPositions(Positions):
    """Positions as GTID sets."""

    def parse(self, text: str) -> Position:
        """Return the set's one canonical text. Raises InvalidInput for an empty set, or what is no set of GTIDs."""
        found = position_of(GtidSet.parse(text))
        if found is None:
            raise InvalidInput(
                "an empty set of GTIDs is no position",
                object=f"position {text[:60]!r}",
                fix="write it as in 3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5",
            )
        return found

    def compare(self, a: Position, b: Position, forks: Sequence[Fork] = ()) -> Order:
        """Compare as sets: each result but EQUAL says that one, or each, has transactions that the other lacks."""
        if a == b:
            return Order.EQUAL
        one, other = GtidSet.parse(a), GtidSet.parse(b)
        within, around = one <= other, other <= one
        if within and around:
            return Order.EQUAL
        return Order.LESS if within else Order.GREATER if around else Order.INCOMPARABLE
