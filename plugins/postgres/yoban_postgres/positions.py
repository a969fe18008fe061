"""Positions of PostgreSQL: `TIMELINE/…` in the form `00000003:0/3000148`. Pure.

Guarantees a partial order over the tree of timelines: a place on a line at or before the line's fork is a place of its
parent; two places are comparable when one's line is the other's or an ancestor of it, left at or after that place. Lines
whose relation no fork tells are incomparable.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from yoban.errors import InvalidInput
from yoban.plugins import Fork, Order, Position, Positions

from yoban_postgres.lsn import format_lsn, parse_lsn

_POSITION = re.compile(r"([0-9A-Fa-f]{8}):([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})")


def make(line: str | int, lsn: int | str) -> Position:
    """Return the position of an LSN on a timeline."""
    name = line_name(line) if isinstance(line, int) else line
    return Position(f"{name}:{format_lsn(parse_lsn(lsn) if isinstance(lsn, str) else lsn)}")


def line_name(timeline: int) -> str:
    """Return a timeline's name: 8 upper case hex digits, as in segment names."""
    return f"{timeline:08X}"


def split(position: str) -> tuple[str, int]:
    """Return line and LSN of a canonical position. Raises InvalidInput for other text."""
    match = _POSITION.fullmatch(position)
    if match is None:
        raise InvalidInput(
            "this is no position in the log",
            object=f"position {position[:60]!r}",
            fix="write timeline and LSN as in 00000001:0/3000148",
        )
    return match[1].upper(), parse_lsn(match[2])


class Lineage:
    """The tree of lines that a list of forks describes."""

    def __init__(self, forks: Sequence[Fork]) -> None:
        self._told = {fork.line.upper(): (fork.parent.upper(), split(fork.position)[1]) for fork in forks}
        self._forks: dict[str, tuple[str, int]] = {}
        for line in self._told:
            self._forks[line] = self._true_fork(line)

    def _true_fork(self, line: str) -> tuple[str, int]:
        """A line that left its parent before the parent's own fork really left the grandparent."""
        parent, at = self._told[line]
        seen = {line}
        while parent in self._told and at <= self._told[parent][1] and parent not in seen:
            seen.add(parent)
            parent = self._told[parent][0]
        return parent, at

    def place(self, line: str, lsn: int) -> tuple[str, int]:
        """Return the line on which this place of the log was really written."""
        seen: set[str] = set()
        while line in self._forks and lsn <= self._forks[line][1] and line not in seen:
            seen.add(line)
            line = self._forks[line][0]
        return line, lsn

    def exit_of(self, line: str, ancestor: str) -> int | None:
        """Return where the way from `ancestor` to `line` leaves `ancestor`; None when it is no ancestor."""
        seen: set[str] = set()
        lowest: int | None = None
        while line in self._forks and line not in seen:
            seen.add(line)
            line, at = self._forks[line]
            lowest = at if lowest is None else min(lowest, at)
            if line == ancestor:
                return lowest
        return None


class PostgresPositions(Positions):
    """Positions as timeline and LSN."""

    def parse(self, text: str) -> Position:
        """Return upper case, unpadded text. Raises InvalidInput when `text` is not timeline and LSN."""
        line, lsn = split(text.strip())
        return make(line, lsn)

    def compare(self, a: Position, b: Position, forks: Sequence[Fork] = ()) -> Order:
        """Compare on the tree of timelines that `forks` describes."""
        lineage = Lineage(forks)
        line_a, at_a = lineage.place(*split(a))
        line_b, at_b = lineage.place(*split(b))
        if line_a == line_b:
            return Order.EQUAL if at_a == at_b else Order.LESS if at_a < at_b else Order.GREATER
        left = lineage.exit_of(line_b, line_a)
        if left is not None:
            return Order.LESS if at_a <= left else Order.INCOMPARABLE
        left = lineage.exit_of(line_a, line_b)
        if left is not None:
            return Order.GREATER if at_b <= left else Order.INCOMPARABLE
        return Order.INCOMPARABLE
