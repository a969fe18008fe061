"""Sets of global transaction identifiers (GTIDs). Pure.

A GTID names one transaction: the UUID of the server that ran it first, since MySQL 8.3 optionally a tag, and a number from
1. A set is written `UUID:1-5:9:tag:1-3,UUID:…`, where a tag holds for the intervals behind it (MySQL reference manual,
"GTID Format and Storage"). One set has one text: UUIDs in lower case and sorted, intervals without a tag first, then
tags sorted, intervals sorted and joined.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from yoban.errors import InvalidInput

LARGEST = 2**63 - 2
"""Largest number of a transaction."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}")
_INTERVAL = re.compile(r"([0-9]{1,19})(?:-([0-9]{1,19}))?")
_FORM = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5"

Interval = tuple[int, int]
"""First and last number, both included."""


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """Who numbers transactions: a server's UUID in lower case, and a tag ("" for none)."""

    uuid: str
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Gtid:
    """One transaction."""

    source: Source
    number: int

    def __str__(self) -> str:
        tag = f":{self.source.tag}" if self.source.tag else ""
        return f"{self.source.uuid}{tag}:{self.number}"


class GtidSet:
    """An immutable set of GTIDs, kept as sorted intervals: its size in memory follows the gaps, not the transactions."""

    __slots__ = ("_intervals",)

    def __init__(self, intervals: Mapping[Source, Iterable[Interval]] | None = None) -> None:
        """Make a set of intervals, which may overlap and come in any order.

        Raises:
            InvalidInput: an interval is empty, or outside 1 to 2^63 - 2.
        """
        joined = {source: _join(found) for source, found in (intervals or {}).items()}
        self._intervals: dict[Source, tuple[Interval, ...]] = {
            source: joined[source] for source in sorted(joined) if joined[source]
        }

    @classmethod
    def parse(cls, text: str) -> GtidSet:
        """Return the set that a text describes; white space is ignored, and so is an empty part between commas.

        Raises:
            InvalidInput: not a GTID set; the message shows the form.
        """
        found: dict[Source, list[Interval]] = {}
        for part in re.sub(r"\s+", "", text).lower().split(","):
            if part:
                _parse_part(part, text, found)
        return cls(found)

    @classmethod
    def of(cls, gtids: Iterable[Gtid]) -> GtidSet:
        """Return the set of single transactions."""
        found: dict[Source, list[Interval]] = {}
        for gtid in gtids:
            found.setdefault(gtid.source, []).append((gtid.number, gtid.number))
        return cls(found)

    def __str__(self) -> str:
        parts: dict[str, list[str]] = {}
        for source, intervals in self._intervals.items():
            words = parts.setdefault(source.uuid, [])
            words += [source.tag] if source.tag else []
            words += [str(first) if first == last else f"{first}-{last}" for first, last in intervals]
        return ",".join(":".join([uuid, *words]) for uuid, words in parts.items())

    def __repr__(self) -> str:
        return f"GtidSet({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GtidSet) and self._intervals == other._intervals

    def __hash__(self) -> int:
        return hash(tuple(self._intervals.items()))

    def __bool__(self) -> bool:
        return bool(self._intervals)

    def __iter__(self) -> Iterator[tuple[Source, Interval]]:
        """Go through sources and intervals in the order of the text."""
        for source, intervals in self._intervals.items():
            for interval in intervals:
                yield source, interval

    def __contains__(self, gtid: Gtid) -> bool:
        intervals = self._intervals.get(gtid.source, ())
        at = bisect_right(intervals, (gtid.number, LARGEST)) - 1
        return at >= 0 and gtid.number <= intervals[at][1]

    def __or__(self, other: GtidSet) -> GtidSet:
        """What is in either."""
        sources = self._intervals.keys() | other._intervals.keys()
        return GtidSet({one: self._intervals.get(one, ()) + other._intervals.get(one, ()) for one in sources})

    def __sub__(self, other: GtidSet) -> GtidSet:
        """What is in this and not in the other."""
        return GtidSet({one: _without(own, other._intervals.get(one, ())) for one, own in self._intervals.items()})

    def __and__(self, other: GtidSet) -> GtidSet:
        """What is in both."""
        return self - (self - other)

    def __le__(self, other: GtidSet) -> bool:
        """Whether everything in this is in the other (`GTID_SUBSET`)."""
        return not self - other

    @property
    def count(self) -> int:
        """Number of transactions."""
        return sum(last - first + 1 for _, (first, last) in self)

    @property
    def sources(self) -> tuple[Source, ...]:
        """Who is in it, sorted."""
        return tuple(self._intervals)

    def single(self) -> Gtid:
        """Return the only transaction in it.

        Raises:
            InvalidInput: there is none, or more than one.
        """
        if self.count != 1:
            raise _invalid(str(self), "this is not one transaction")
        ((source, (number, _)),) = self
        return Gtid(source, number)


def _parse_part(part: str, text: str, found: dict[Source, list[Interval]]) -> None:
    """Add what is written behind one UUID."""
    uuid, *words = part.split(":")
    if not _UUID.fullmatch(uuid) or not words:
        raise _invalid(text, "this is no set of GTIDs")
    source, empty = Source(uuid), True
    for word in words:
        if interval := _INTERVAL.fullmatch(word):
            first = int(interval[1])
            found.setdefault(source, []).append((first, int(interval[2] or first)))
            empty = False
        elif _TAG.fullmatch(word) and not (empty and source.tag):
            source, empty = Source(uuid, word), True
        else:
            raise _invalid(text, "this is no set of GTIDs")
    if empty:
        raise _invalid(text, "a UUID or tag has no numbers behind it")


def _join(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """Sort intervals; those that touch become one."""
    joined: list[Interval] = []
    for first, last in sorted(intervals):
        if not 1 <= first <= last <= LARGEST:
            raise _invalid(f"{first}-{last}", "numbers of transactions go from 1 to 2^63 - 2, the smaller one first")
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return tuple(joined)


def _without(own: tuple[Interval, ...], other: tuple[Interval, ...]) -> list[Interval]:
    """What of sorted intervals lies in none of the others, in one pass over both."""
    left: list[Interval] = []
    at = 0
    for begin, last in own:
        first = begin
        while at < len(other) and other[at][1] < first:
            at += 1
        step = at
        while step < len(other) and other[step][0] <= last:
            if first < other[step][0]:
                left.append((first, other[step][0] - 1))
            first = max(first, other[step][1] + 1)
            step += 1
        if first <= last:
            left.append((first, last))
    return left


def _invalid(text: str, message: str) -> InvalidInput:
    return InvalidInput(message, object=f"GTID set {text[:80]!r}", fix=f"write it as in {_FORM}")
