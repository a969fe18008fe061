"""When a base backup is due: by a cron schedule, by a maximum age, or both.

Guarantees: a missed night is due now, once, however many nights were missed; the same need has the same slot, so that
a name made of it is made once; an attempt that failed, or did not help, is repeated with growing pauses and does not
hide that the need is there. Every answer tells when to look again, so nobody has to poll. Reads no clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from yoban.errors import InvalidInput

SPREAD = timedelta(seconds=60)
"""Databases of one policy begin within this time after a slot, each always at the same distance from it."""
FIRST_PAUSE = timedelta(minutes=5)
LONGEST_PAUSE = timedelta(hours=6)
SHORTEST = timedelta(minutes=1)
"""A maximum age, or a deadline, below this can be kept by no backup: one after the other would be made, or fail."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """What a policy asks for: five cron fields in a time zone, and/or how old the newest backup may become."""

    schedule: str = ""
    time_zone: str = "UTC"
    maximum_age: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """Backups that were made for one slot and ended: how many, and when the last of them did (UTC)."""

    count: int
    last: datetime


@dataclass(frozen=True, slots=True)
class Attempts:
    """What is known of one Database's backups.

    Attributes:
        since: when the policy began to apply; the first backup is due at once.
        newest_begin: begin of the newest completed base backup, None when there is none.
        newest_took: how long it took.
        broken: a part of the log after it is lost: only another backup makes the present restorable again.
        running: one is under way.
        ended: by slot, Backups that ended; one of a slot that is still due failed, or what it stored cannot be used.
        served: slots for which a usable base backup was made, whatever its server's clock said when it began.
    """

    since: datetime
    newest_begin: datetime | None = None
    newest_took: timedelta = timedelta(0)
    broken: bool = False
    running: bool = False
    ended: Mapping[datetime, Ended] = field(default_factory=dict)
    served: frozenset[datetime] = frozenset()


@dataclass(frozen=True, slots=True)
class Due:
    """The answer.

    Attributes:
        now: a backup is to be started now.
        slot: the moment for which it is (or the next will be); the same until it is served.
        attempt: 1 for the first Backup of the slot.
        overdue: since when what the policy asks for does not hold; None while it holds.
        look_again: when the answer may change by time alone.
        why: a sentence.
    """

    now: bool
    slot: datetime
    attempt: int
    overdue: datetime | None
    look_again: datetime
    why: str


def check(cadence: Cadence, deadline: timedelta | None = None) -> None:
    """Check a policy's schedule, time zone, and lengths of time.

    Raises:
        InvalidInput: not five cron fields, a time that never comes, a time zone that is not known, or an age or deadline
            that no backup can keep.
    """
    _zone(cadence.time_zone)
    if cadence.maximum_age is not None and cadence.maximum_age < SHORTEST:
        raise InvalidInput(
            "base backups would be made one after the other, without end",
            object=f"maximumAge {cadence.maximum_age.total_seconds():g}s",
            fix="set it to 1m or more, such as 24h",
            reason="MaximumAgeTooShort",
        )
    if deadline is not None and deadline < SHORTEST:
        raise InvalidInput(
            "no base backup would be done in time",
            object=f"backupDeadline {deadline.total_seconds():g}s",
            fix="set it to 1m or more, such as 24h",
            reason="DeadlineTooShort",
        )
    if cadence.schedule:
        previous_slot(cadence, datetime(2026, 1, 1, tzinfo=UTC))


def previous_slot(cadence: Cadence, now: datetime) -> datetime:
    """Return the schedule's last moment at or before `now`, in UTC."""
    # Backwards from the next whole second: the moment itself counts, and no moment to come does.
    return _next(cadence, now.replace(microsecond=0) + timedelta(seconds=1), reverse=True)


def next_slot(cadence: Cadence, now: datetime) -> datetime:
    """Return the schedule's first moment after `now`, in UTC."""
    return _next(cadence, now)


def spread(uid: str) -> timedelta:
    """Return how long after a slot the Database with that uid begins: always the same, at most `SPREAD`."""
    share = int.from_bytes(hashlib.sha256(uid.encode()).digest()[:4], "big") / 2**32
    return timedelta(seconds=int(SPREAD.total_seconds() * share))


def due(cadence: Cadence, attempts: Attempts, now: datetime, *, delay: timedelta = timedelta(0)) -> Due:
    """Decide whether a base backup is due.

    Args:
        cadence: what the policy asks for.
        attempts: what there is.
        now: UTC.
        delay: `spread` of the Database; a slot of the schedule counts from so much later on. Not for the first.
    """
    begin = attempts.newest_begin
    slot, why = _need(cadence, attempts, now - delay)
    if slot is None:
        upcoming = _upcoming(cadence, attempts, now - delay)
        return Due(False, upcoming, 1, None, upcoming + delay, "the newest base backup satisfies the policy")
    late = slot if begin is None else _late_since(cadence, attempts, slot)
    overdue = late if late <= now else None
    later = next_slot(cadence, now) if cadence.schedule else now + timedelta(hours=1)
    if attempts.running:
        return Due(False, slot, 1, overdue, later, f"{why}; it is under way")
    ended = attempts.ended.get(slot)
    if ended is not None:
        again = ended.last + min(FIRST_PAUSE * 2 ** min(ended.count - 1, 16), LONGEST_PAUSE)
        why, number = f"{why}; attempts so far: {ended.count}", ended.count + 1
        if now < again:
            return Due(False, slot, number, overdue, again, f"{why}, the next waits")
        return Due(True, slot, number, overdue, later, why)
    return Due(True, slot, 1, overdue, later, why)


def _need(cadence: Cadence, attempts: Attempts, now: datetime) -> tuple[datetime | None, str]:
    begin = attempts.newest_begin
    if begin is None:
        return attempts.since, "there is no base backup yet"
    if attempts.broken:
        return begin, "a part of the log after the newest one is lost"
    if cadence.schedule:
        slot = previous_slot(cadence, now)
        if begin < slot and slot > attempts.since and slot not in attempts.served:
            return slot, f"the one scheduled for {slot:%Y-%m-%dT%H:%MZ} is missing"
    if cadence.maximum_age is not None:
        slot = begin + _start_after(cadence.maximum_age, attempts.newest_took)
        if slot <= now:
            return slot, f"the newest began at {begin:%Y-%m-%dT%H:%MZ} and gets too old"
    return None, ""


def _upcoming(cadence: Cadence, attempts: Attempts, now: datetime) -> datetime:
    times = []
    if cadence.schedule:
        times.append(next_slot(cadence, now))
    if cadence.maximum_age is not None and attempts.newest_begin is not None:
        times.append(attempts.newest_begin + _start_after(cadence.maximum_age, attempts.newest_took))
    return min(times)


def _late_since(cadence: Cadence, attempts: Attempts, slot: datetime) -> datetime:
    """A scheduled backup is late from its slot on; by age the policy holds until the age is really reached."""
    if cadence.maximum_age is None or attempts.newest_begin is None:
        return slot
    by_age = attempts.newest_begin + cadence.maximum_age
    return min(slot, by_age) if cadence.schedule and slot == previous_slot(cadence, slot) else by_age


def _start_after(maximum_age: timedelta, took: timedelta) -> timedelta:
    """Early enough to be done when the age is reached, as long as the last one took, but at most half the age earlier."""
    return maximum_age - min(took * 1.25, maximum_age / 2)


def _next(cadence: Cadence, moment: datetime, *, reverse: bool = False) -> datetime:
    local = moment.astimezone(_zone(cadence.time_zone))
    try:
        return next(CronSim(cadence.schedule, local, reverse=reverse)).astimezone(UTC)
    except (CronSimError, StopIteration) as error:
        raise InvalidInput(
            "the schedule is not one that cron knows",
            object=f"schedule {cadence.schedule!r}",
            cause=str(error) or "its time never comes",
            fix="write minute, hour, day of month, month, day of week, such as 0 2 * * *",
            reason="InvalidSchedule",
        ) from error


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise InvalidInput(
            "the time zone is not known",
            object=f"timeZone {name!r}",
            fix="use a name of the IANA database, such as UTC or Asia/Tokyo",
            reason="InvalidTimeZone",
        ) from error
