"""Recovery targets of PostgreSQL: what a value means, and whether a base backup can lead to it. Pure.

Guarantees: times are compared in UTC and only with an offset given; transactions are compared with their epoch. Whether a
named point exists only replay can tell.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from yoban.errors import InvalidInput, Unsupported
from yoban.plugins import BackupFacts, Fork, Order, Position, Reach, RecoveryTarget, Targets, TargetType, Window

from yoban_postgres.lsn import format_lsn, parse_lsn
from yoban_postgres.positions import Lineage, PostgresPositions, make, split

_TIME = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,12}))?([Zz]|[+-]\d{2}:\d{2})")
_EXCLUSIVE = (TargetType.TIME, TargetType.POSITION, TargetType.TRANSACTION)
_EPOCH = 1 << 32


def parse_time(text: str, *, up: bool = False) -> datetime:
    """Return an RFC 3339 time in UTC. Digits beyond microseconds are cut, or with `up` rounded up.

    Raises:
        InvalidInput: it is malformed or has no offset.
    """
    match = _TIME.fullmatch(text.strip())
    problem = InvalidInput(
        "a time needs date, time of day and an offset from UTC",
        object=f"target time {text[:60]!r}",
        fix="write it as in 2026-03-01T03:00:00.25+09:00 or 2026-02-28T18:00:00Z",
        reason="InvalidTarget",
    )
    if match is None:
        raise problem
    digits = (match[3] or "").ljust(6, "0")
    offset = "+00:00" if match[4] in "Zz" else match[4]
    try:
        moment = datetime.fromisoformat(f"{match[1]}T{match[2]}.{digits[:6]}{offset}").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            str(error), object=f"target time {text[:60]!r}", fix=problem.fix, reason="InvalidTarget"
        ) from error
    if up and digits[6:].strip("0"):
        moment += timedelta(microseconds=1)
    return moment


def format_time(moment: datetime) -> str:
    """Return the canonical text: UTC, microseconds, `Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def full_transaction(value: int, near: int) -> int:
    """Return the 64-bit number of a transaction given by 64 or by 32 bits: the one of its kind closest to `near`."""
    if value >= _EPOCH:
        return value
    candidates = [value + epoch * _EPOCH for epoch in range(max((near >> 32) - 1, 0), (near >> 32) + 2)]
    return min(candidates, key=lambda candidate: abs(candidate - near))


class PostgresTargets(Targets):
    """Targets: latest, time, position (LSN), transaction (xid), name (restore point), immediate."""

    supported = frozenset(TargetType)

    def __init__(self) -> None:
        self._positions = PostgresPositions()

    def parse(self, target: RecoveryTarget) -> RecoveryTarget:
        """See `Targets.parse`."""
        if target.skip:
            raise Unsupported("PostgreSQL cannot leave out transactions of its log", object="target", fix="remove skip")
        if target.exclusive and target.type not in _EXCLUSIVE:
            raise Unsupported(
                f"exclusive has no meaning for a target of type {target.type.value}",
                object="target",
                fix="remove exclusive, or use a time, position or transaction",
            )
        if target.line and not re.fullmatch(r"[0-9A-Fa-f]{8}", target.line):
            raise _invalid(f"line {target.line[:20]!r} is no timeline", "write 8 hex digits as in 00000002")
        line = target.line.upper()
        value = target.value.strip()
        if target.type in (TargetType.LATEST, TargetType.IMMEDIATE):
            if value:
                raise _invalid(f"a target of type {target.type.value} takes no value", "remove value")
        elif not value:
            raise _invalid(f"a target of type {target.type.value} needs a value", "add value")
        elif target.type is TargetType.TIME:
            value = format_time(parse_time(value, up=target.exclusive))
        elif target.type is TargetType.POSITION:
            value, line = _parse_place(value, line)
        elif target.type is TargetType.TRANSACTION:
            if not re.fullmatch(r"\d{1,20}", value) or not 3 <= int(value) < 1 << 64:
                raise _invalid(
                    f"{value[:40]!r} is no transaction id", "write its number, as pg_current_xact_id() shows it"
                )
            value = str(int(value))
        elif len(value.encode()) > 63 or any(ord(c) < 32 for c in value):
            raise _invalid("a name has at most 63 bytes and no control characters", "use the restore point's name")
        return dataclasses.replace(target, value=value, line=line)

    def reach(self, target: RecoveryTarget, backup: BackupFacts, forks: Sequence[Fork]) -> Reach:
        """See `Targets.reach`; the line is the target's, else the newest of `forks`, else the backup's own."""
        line = target.line or _newest(forks) or backup.line
        lineage = Lineage(forks)
        own, end = lineage.place(*split(backup.end))
        if own != line:
            left = lineage.exit_of(line, own)
            if left is None or end > left:
                return Reach.NO
        if target.type in (TargetType.LATEST, TargetType.IMMEDIATE):
            return Reach.YES
        if target.type is TargetType.TIME:
            asked = parse_time(target.value)
            late = backup.end_time >= asked if target.exclusive else backup.end_time > asked
            return Reach.NO if late else Reach.YES
        if target.type is TargetType.POSITION:
            return Reach.YES if end <= _place_lsn(target.value) else Reach.NO
        if target.type is TargetType.TRANSACTION:
            return _reach_transaction(int(target.value), backup.facts)
        return Reach.UNKNOWN

    def check(self, target: RecoveryTarget, window: Window) -> None:
        """See `Targets.check`."""
        span = f"the recoverable window is {format_time(window.start)} to {format_time(window.end)}"
        if target.type is TargetType.TIME:
            asked = parse_time(target.value)
            if asked < window.start or asked > window.end:
                side = "before" if asked < window.start else "after"
                raise _outside(f"time {target.value} lies {side} it: {span}")
        elif target.type is TargetType.POSITION:
            place = target.value if ":" in target.value else make(target.line or window.line, target.value)
            order = self._positions.compare(Position(place), window.position, window.forks)
            if order in (Order.GREATER, Order.INCOMPARABLE):
                raise _outside(f"position {target.value} is not stored, the log is up to {window.position}: {span}")


def _newest(forks: Sequence[Fork]) -> str:
    parents = {fork.parent for fork in forks}
    leaves = [fork.line for fork in forks if fork.line not in parents]
    return leaves[-1] if leaves else ""


def _place_lsn(value: str) -> int:
    return split(value)[1] if ":" in value else parse_lsn(value)


def _parse_place(value: str, line: str) -> tuple[str, str]:
    try:
        if ":" not in value:
            return format_lsn(parse_lsn(value)), line
        own, lsn = split(value)
    except (ValueError, InvalidInput) as error:
        raise _invalid(
            f"{value[:60]!r} is no position", "write an LSN as in 0/3000148, or 00000001:0/3000148"
        ) from error
    if line and line != own:
        raise _invalid(f"position {value} and line {line} contradict each other", "give one of them")
    return make(own, lsn), own


def _reach_transaction(asked: int, facts: Mapping[str, str]) -> Reach:
    """A transaction that ran or was yet to come when the backup had ended, ends after it."""
    if not facts.get("next_xid", "").isdigit() or not facts.get("oldest_xid", "").isdigit():
        return Reach.UNKNOWN
    following, oldest = int(facts["next_xid"]), int(facts["oldest_xid"])
    xid = full_transaction(asked, following)
    if xid >= following:
        return Reach.YES
    if xid < oldest:
        return Reach.NO
    if "running_xids" not in facts or (facts.get("from") == "replica" and not facts["running_xids"]):
        return Reach.UNKNOWN
    return Reach.YES if str(xid) in facts["running_xids"].split(",") else Reach.NO


def _invalid(message: str, fix: str) -> InvalidInput:
    return InvalidInput(message, object="target", fix=fix, reason="InvalidTarget")


def _outside(message: str) -> InvalidInput:
    return InvalidInput(message, object="target", fix="choose a target inside the window", reason="TargetOutsideWindow")
