"""Which base backups and segments may go.

The plan is pure: a function of the catalogue, the survey and the time. Guarantees: what is removed was marked at an earlier
look, at least a grace before; nothing goes that the wanted window, a restore or a backup under way needs; without a usable
backup nothing goes at all, nor while anything that tells what is needed cannot be read; log goes only from before the first
segment of the oldest backup that is still there. A clock that is wrong makes backups stay longer or go earlier within these
rules, never the last usable ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from yoban.errors import InvalidInput
from yoban.model.instance import Struct
from yoban.plugins import LogSource, Position, SegmentKind
from yoban.repository.access import Access
from yoban.repository.backups import Backups
from yoban.repository.catalog import Catalog
from yoban.repository.codec import FORMAT, seal_struct
from yoban.repository.holds import Hold, read_hold
from yoban.repository.layout import Layout
from yoban.repository.manifest import BackupSummary
from yoban.repository.segments import LogStore
from yoban.repository.survey import BackupUse, Survey
from yoban.repository.terms import ages

KIND = "expired"
SKEW = timedelta(minutes=5)
"""How far the clocks of the writer and the reader of a note may be apart."""


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What must be kept.

    Attributes:
        keep_count: base backups to keep at least, usable and restorable ones alike; None: no rule by count.
        keep_for: how far back the window must reach; None: no rule by age. Without any rule everything is kept.
        grace: time between marking and removing.
    """

    keep_count: int | None = None
    keep_for: timedelta | None = None
    grace: timedelta = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What to do now.

    Attributes:
        mark, unmark, remove: ids of backups.
        log: segments to remove, by line.
        notes: ids of restores whose notes ran out long ago.
        why: for each backup that stays although no rule keeps it, the reason.
    """

    mark: tuple[str, ...] = ()
    unmark: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    log: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    why: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.mark or self.unmark or self.remove or self.log or self.notes)


@dataclass(frozen=True, slots=True)
class RetentionDone:
    """What `Retention.apply` removed: ids of backups, number of segments."""

    backups: tuple[str, ...] = ()
    segments: int = 0


class Expired(Struct):
    """A backup is to be removed: its id, and when it was marked (UTC)."""

    format: int = FORMAT
    id: str
    marked: datetime


def plan_retention(
    catalog: Catalog,
    view: Survey,
    policy: RetentionPolicy,
    now: datetime,
    *,
    log: LogSource | None = None,
    running: frozenset[str] = frozenset(),
) -> RetentionPlan:
    """Decide. Pure.

    Args:
        catalog, view: of the repository, from one read.
        policy: what must be kept.
        now: UTC.
        log: the engine's facet for names of segments; None: no segment goes.
        running: ids of backups that the caller knows to be made.
    """
    held = [hold for hold in catalog.restores if hold.expires + SKEW > now]
    kept = wanted(view.backups, policy, now)
    if not kept:
        return RetentionPlan()
    mark, unmark, remove, why = [], [], [], {}
    named = {hold.backup for hold in held}
    for use in view.backups:
        backup = use.summary.id
        if backup in kept:
            if backup in catalog.expired:
                unmark.append(backup)
        elif backup not in catalog.expired:
            mark.append(backup)
        elif catalog.expired[backup] + policy.grace > now:
            why[backup] = "it was marked for removal and waits for the grace to pass"
        elif held and (backup in named or "" in named):
            why[backup] = f"restore {held[0].id} is under way"
        else:
            remove.append(backup)
    if unread := unreadable(catalog):
        # What looks useless may be so only because of that: a line leads nowhere without the record of its reign.
        text = f"{unread}, so nobody can tell what is needed"
        return RetentionPlan(unmark=tuple(unmark), why={use.summary.id: text for use in view.backups})
    ruled = policy.keep_count is not None or policy.keep_for is not None
    staying = [use for use in view.backups if use.summary.id not in remove]
    return RetentionPlan(
        mark=tuple(mark),
        unmark=tuple(unmark),
        remove=tuple(remove),
        log={} if held or log is None or not ruled else _log(catalog, view, staying, log, now, running),
        notes=tuple(hold.id for hold in catalog.restores if hold.expires + timedelta(days=1) < now),
        why=why,
    )


def unreadable(catalog: Catalog) -> str:
    """Return what of a repository's own records cannot be read or is missing, "" when all is there. Pure."""
    if catalog.damaged:
        more = f" and {len(catalog.damaged) - 1} more" if len(catalog.damaged) > 1 else ""
        return f"{min(catalog.damaged)}{more} cannot be read"
    marks = [*catalog.marks, *([catalog.mark] if catalog.mark is not None else [])]
    missing = {mark.term for mark in marks} - {record.term for record in catalog.terms}  # it was written first
    return f"the record of term {min(missing)} is missing" if missing else ""


def wanted(backups: tuple[BackupUse, ...], policy: RetentionPolicy, now: datetime) -> set[str]:
    """Return the ids that the policy keeps; empty when nothing usable is there, and then nothing may go. Pure.

    What lies before a gap in the log, or on a line that was left, can still be restored: it is kept for as long as it was to
    be kept without the gap. Only what can be restored no more goes with the oldest usable one.
    """
    usable = [use.summary for use in backups if use.usable]
    if not usable:
        return set()
    if policy.keep_count is None and policy.keep_for is None:
        return {use.summary.id for use in backups}
    kept = _newest(usable, policy, now)
    start = min(summary.end_time for summary in usable if summary.id in kept)
    kept |= _newest([use.summary for use in backups if use.restorable], policy, now)
    lost = (use.summary for use in backups if not use.restorable)
    return kept | {summary.id for summary in lost if summary.end_time > start}


def _newest(backups: Sequence[BackupSummary], policy: RetentionPolicy, now: datetime) -> set[str]:
    """Those of `backups` that are to be kept if there are no others."""
    oldest_first = sorted(backups, key=lambda summary: (summary.end_time, summary.id))
    kept = {summary.id for summary in oldest_first[-max(1, policy.keep_count or 1) :]}
    if policy.keep_for is not None:
        edge = now - policy.keep_for
        kept |= {summary.id for summary in oldest_first if summary.end_time > edge}
        before = [summary.id for summary in oldest_first if summary.end_time <= edge]
        kept |= set(before[-1:])  # the window reaches back to the edge only from a backup that is older
    return kept


def _log(
    catalog: Catalog,
    view: Survey,
    staying: list[BackupUse],
    log: LogSource,
    now: datetime,
    running: frozenset[str],
) -> dict[str, tuple[str, ...]]:
    if not staying:
        return {}
    age = ages(catalog.terms)
    needed = {use.summary.line for use in staying}
    if len(needed) > 1 and not needed <= age.keys():
        return {}  # nobody can tell which line came first: the record of a reign was never written
    # Which is the oldest, places in the log tell: the clocks of who made the backups may differ.
    line_of_oldest = min(needed, key=lambda line: (age.get(line, (0, 0)), line))
    firsts = [(_first(catalog, use.summary, log), use.summary) for use in staying if use.summary.line == line_of_oldest]
    first, oldest = min(firsts, key=lambda found: (found[0], found[1].id))
    unknown = running - catalog.running.keys()
    if unknown or any(_before(hold, oldest.begin_time, now) for hold in catalog.running.values()):
        return {}
    going: dict[str, tuple[str, ...]] = {}
    for line, names in catalog.lines.items():
        if line == oldest.line:
            gone = [name for name in names if _full_before(log, name, first)]
        elif line not in needed and age.get(line, (1 << 62, 0)) < age.get(oldest.line, (0, 0)):
            gone = [name for name in names if _kind(log, name) is not SegmentKind.HISTORY]
        else:
            gone = []
        if gone:
            going[line] = tuple(gone)
    return going


def _first(catalog: Catalog, backup: BackupSummary, log: LogSource) -> str:
    """The first segment that a backup needs; nothing of its line goes when that is not stored ("" sorts before all)."""
    if backup.first_segment:
        return backup.first_segment
    chunked = {chunk.segment for chunk in catalog.tails if chunk.line == backup.line}
    whole = {name for name in catalog.lines.get(backup.line, ()) if _kind(log, name) is SegmentKind.FULL}
    size = max([backup.segment_bytes, catalog.mark.segment_bytes if catalog.mark else 0])
    return log.segment_of(backup.line, Position(backup.end_position), sorted(whole | chunked), size)


def _before(hold: Hold, begin: datetime, now: datetime) -> bool:
    """A live backup that began before the oldest finished one needs log that no manifest names yet."""
    return hold.expires + SKEW > now and hold.started <= begin + SKEW


def _kind(log: LogSource, name: str) -> SegmentKind | None:
    try:
        return log.classify(name).kind
    except InvalidInput:
        return None


def _full_before(log: LogSource, name: str, first: str) -> bool:
    return name < first and _kind(log, name) in (SegmentKind.FULL, SegmentKind.MARKER)


class Retention:
    """Carries plans out."""

    def __init__(self, access: Access, layout: Layout) -> None:
        self._access = access
        self._layout = layout
        self._backups = Backups(access, layout)
        self._log = LogStore(access, layout)

    async def apply(self, plan: RetentionPlan) -> RetentionDone:
        """Do what a plan says. May be called again with the same plan; what is done already counts as done.

        A restore that began since the plan was made stops removals: its note is looked for once more.
        """
        now = self._access.clock.now()
        for backup in plan.unmark:
            await self._access.delete([self._layout.expired(backup)])
        for backup in plan.mark:
            note = Expired(id=backup, marked=now)
            await self._access.create(self._layout.expired(backup), seal_struct(KIND, backup, note))
        await self._access.delete([self._layout.restore(note) for note in plan.notes])
        if await self._restoring(now):
            return RetentionDone()
        for backup in plan.remove:
            await self._backups.delete(backup)
        segments = 0
        for line, names in plan.log.items():
            await self._log.delete(line, list(names))
            segments += len(names)
        return RetentionDone(plan.remove, segments)

    async def _restoring(self, now: datetime) -> bool:
        for info in await self._access.listed(self._layout.restores):
            hold = await read_hold(self._access, info.key)
            if hold is not None and hold.expires + SKEW > now:
                return True
        return False
