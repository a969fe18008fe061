"""Recovery targets of MySQL: what a value means, and whether a base backup can lead to it. Pure.

Guarantees: times are compared in UTC and only with an offset given. A transaction that is to be left out, or stopped before,
is in no base backup from which the restore starts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from yoban.errors import InvalidInput, Unsupported
from yoban.plugins import BackupFacts, Fork, Reach, RecoveryTarget, Targets, TargetType, Window

from yoban_mysql.gtid import Gtid, GtidSet
from yoban_mysql.positions import MySqlPositions

_TIME = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,12}))?([Zz]|[+-]\d{2}:\d{2})")
_EXCLUSIVE = (TargetType.TIME, TargetType.TRANSACTION)
MOST_SKIPPED = 1000


def parse_time(text: str) -> datetime:
    """Return an RFC 3339 time in UTC; digits beyond microseconds are cut, as the server's own commit times are.

    Raises:
        InvalidInput: it is malformed or has no offset.
    """
    match = _TIME.fullmatch(text.strip())
    fix = "write it as in 2026-03-01T03:00:00.25+09:00 or 2026-02-28T18:00:00Z"
    if match is None:
        raise _invalid("a time needs date, time of day and an offset from UTC", f"target time {text[:60]!r}", fix)
    offset = "+00:00" if match[4] in "Zz" else match[4]
    digits = (match[3] or "").ljust(6, "0")[:6]
    try:
        return datetime.fromisoformat(f"{match[1]}T{match[2]}.{digits}{offset}").astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise _invalid(str(error), f"target time {text[:60]!r}", fix) from error


def parse_gtid(text: str) -> Gtid:
    """Return one transaction. Raises InvalidInput for anything else."""
    try:
        return GtidSet.parse(text).single()
    except InvalidInput as error:
        raise _invalid(
            "a transaction is named by its GTID",
            f"transaction {text[:80]!r}",
            "write it as in 3e11fa47-71ca-11e1-9e33-c80aa9429562:23",
        ) from error


def skipped(target: RecoveryTarget) -> GtidSet:
    """Return the transactions that a parsed target leaves out."""
    return GtidSet.parse(",".join(target.skip))


class MySqlTargets(Targets):
    """Targets in the history of GTIDs."""

    supported = frozenset(
        {TargetType.LATEST, TargetType.TIME, TargetType.POSITION, TargetType.TRANSACTION, TargetType.IMMEDIATE}
    )

    def parse(self, target: RecoveryTarget) -> RecoveryTarget:
        """See `Targets.parse`."""
        if target.type not in self.supported:
            raise Unsupported(
                f"MySQL cannot be restored to a {target.type.value}",
                object=f"target {target.type.value}",
                fix="use latest, time, position, transaction or immediate",
            )
        if target.exclusive and target.type not in _EXCLUSIVE:
            raise Unsupported(
                "exclusive has a meaning only for a time or a transaction", object=f"target {target.type.value}"
            )
        if target.skip and target.type is TargetType.IMMEDIATE:
            raise Unsupported(
                "a base backup holds every transaction before its end",
                object="target immediate",
                fix="leave skip out, or choose a later target",
            )
        skip = tuple(str(parse_gtid(text)) for text in target.skip)
        if len(skip) > MOST_SKIPPED:
            raise Unsupported(f"at most {MOST_SKIPPED} transactions can be left out", object="target skip")
        value = ""
        if target.type is TargetType.TIME:
            value = parse_time(target.value).isoformat()
        elif target.type is TargetType.POSITION:
            value = MySqlPositions().parse(target.value)
        elif target.type is TargetType.TRANSACTION:
            value = str(parse_gtid(target.value))
        return dataclasses.replace(target, value=value, skip=skip)

    def reach(self, target: RecoveryTarget, backup: BackupFacts, forks: Sequence[Fork]) -> Reach:
        """See `Targets.reach`. What is left out must not be in the backup."""
        held = GtidSet.parse(backup.end)
        if held & skipped(target):
            return Reach.NO
        if target.type is TargetType.TIME:
            return Reach.YES if backup.end_time <= datetime.fromisoformat(target.value) else Reach.NO
        if target.type is TargetType.POSITION:
            return Reach.YES if held <= GtidSet.parse(target.value) else Reach.NO
        if target.type is TargetType.TRANSACTION:
            return Reach.NO if parse_gtid(target.value) in held else Reach.YES
        return Reach.YES

    def check(self, target: RecoveryTarget, window: Window) -> None:
        """See `Targets.check`."""
        stored = GtidSet.parse(window.position)
        if target.type is TargetType.TIME and not window.start <= datetime.fromisoformat(target.value) <= window.end:
            raise _outside(target.value, window)
        if target.type is TargetType.POSITION and not GtidSet.parse(target.value) <= stored:
            raise _outside(target.value, window)
        if target.type is TargetType.TRANSACTION and parse_gtid(target.value) not in stored:
            raise _outside(target.value, window)
        if unknown := skipped(target) - stored:
            raise _outside(f"{unknown}, which is to be left out,", window)


def _outside(what: str, window: Window) -> InvalidInput:
    return _invalid(
        f"{what[:200]} lies outside of what is stored",
        f"target {what[:80]}",
        f"choose one from {window.start.isoformat()} to {window.end.isoformat()}, {window.position[:300]}",
    )


def _invalid(message: str, what: str, fix: str) -> InvalidInput:
    return InvalidInput(message, object=what, fix=fix, reason="InvalidTarget")
