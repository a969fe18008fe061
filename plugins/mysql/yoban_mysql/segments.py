"""Names of binary logs in the archive. Pure.

`<server uuid>.<first>.<number>.<before>`: the line (a server, and the file with which its line began), the number of the file
on that server (10 digits), and how many transactions had been executed before it (20 digits). So no two servers' files share
a name, names of a line sort in log order, and a place on the line is found by its count of transactions: along one line
sets of transactions only grow.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from yoban.errors import InvalidInput
from yoban.plugins import Position, SegmentKind, SegmentName

from yoban_mysql.gtid import GtidSet

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_NAME = re.compile(rf"({_UUID}\.([0-9]{{10}}))\.([0-9]{{10}})\.([0-9]{{20}})")
_BEGINNING = re.compile(rf"({_UUID}\.[0-9]{{10}})\.([0-9]{{10}})\..*")


@dataclass(frozen=True, slots=True)
class Place:
    """What a name says: line, number of the line's first file, number of the file, transactions before it."""

    line: str
    first: int
    number: int
    before: int


def segment_name(line: str, number: int, before: int) -> str:
    """Return the name of a file of a line."""
    return f"{line}.{number:010d}.{before:020d}"


def parse(name: str) -> Place:
    """Understand a name. Raises InvalidInput for any other."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise InvalidInput("this is no file name of the log", object=f"file {name[:120]!r}")
    return Place(match[1], int(match[2]), int(match[3]), int(match[4]))


def classify(name: str) -> SegmentName:
    """See `LogSource.classify`."""
    return SegmentName(name, parse(name).line, SegmentKind.FULL)


def successor(name: str) -> str:
    """See `LogSource.successor`: how many transactions are before the next file is not known beforehand."""
    match = _BEGINNING.fullmatch(name)
    if match is None:
        raise InvalidInput("this is no file name of the log", object=f"file {name[:120]!r}")
    return f"{match[1]}.{int(match[2]) + 1:010d}."


def segment_of(position: Position, names: Sequence[str]) -> str:
    """See `LogSource.segment_of`."""
    count = GtidSet.parse(position).count
    at = bisect_left(names, count, key=lambda name: int(name.rsplit(".", 1)[1]))
    if at:
        return names[at - 1]
    return names[0] if names and parse(names[0]).before == count else ""
