"""What can be restored now, and how: the recoverable window, and the plan that leads to a target.

Guarantees: a plan is made only for what the History proves to be stored; every refusal names the window. Operator and
agent call the same functions, the operator to tell early, the agent to act. Does not guarantee that the objects are
undamaged (their checksums are verified as they are read), nor that the History is still true (retention spares what a
running restore needs).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from yoban.domain.history import History, StoredBackup
from yoban.domain.lineage import Extent, Gap, chain, chunked, complete, extent, fed, on_chain
from yoban.domain.reigns import LostRecord, lost_record
from yoban.domain.summary import Fault, fault
from yoban.errors import IntegrityError, InvalidInput, NotFound, NotReady, Terminal, Unsupported
from yoban.plugins import (
    Capability,
    Engine,
    Fork,
    Reach,
    RecoveryPlan,
    RecoveryTarget,
    TargetType,
    Window,
)

AHEAD = timedelta(minutes=15)
"""How long a window may lag behind and still be expected to reach a target by itself."""
SKEW = timedelta(minutes=1)
"""How much the clock that a target was read from may be ahead of ours."""


@dataclass(frozen=True, slots=True)
class Recoverable:
    """What can be restored along one chain of lines.

    Attributes:
        lines, forks: the chain, oldest first; no line for an engine without a log or when nothing is stored.
        window: the proven window, None when nothing can be restored.
        backups: backups from which the window's end is reached, oldest first; when there is none the newest complete
            backup alone, and the window is its end.
        unusable: id of each other backup on record, and why it does not count.
        gap: the segment that is missing between the newest complete backup and the end of the log, None when all is
            there.
        extent: end of the stored log, None without a window.
        lost: the reign whose record is missing, None when all are there, or a line was named.
    """

    lines: tuple[str, ...] = ()
    forks: tuple[Fork, ...] = ()
    window: Window | None = None
    backups: tuple[StoredBackup, ...] = ()
    unusable: tuple[tuple[str, str], ...] = ()
    gap: Gap | None = None
    extent: Extent | None = None
    lost: LostRecord | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How a target is reached.

    Attributes:
        backup: base backup to place.
        recovery: what the engine is told.
        window: window at the time of planning, for messages.
        lines: lines whose segments may be fetched, oldest first; the newest line that has a segment counts.
        last_segment: last segment of `recovery.line` of which anything is stored; "" without a log.
        tail_bytes: bytes of `last_segment` to join from chunks, then padded (`LogSource.pads_to`); 0: stored whole.
        partial: further segments of which only chunks are stored: the last of a line that another one took over.
        most: bytes of `last_segment` that are replayed, whatever more is stored of it; None for all.
    """

    backup: StoredBackup
    recovery: RecoveryPlan
    window: Window
    lines: tuple[str, ...] = ()
    last_segment: str = ""
    tail_bytes: int = 0
    partial: tuple[str, ...] = ()
    most: int | None = None


def recoverable(history: History, engine: Engine, line: str = "") -> Recoverable:
    """Return what can be restored along `line` (default: that of the newest term and its ancestors).

    Raises:
        InvalidInput: nothing is known of `line`.
    """
    log = engine.log_source
    lines, forks = chain(history, line)
    lost = None if line else lost_record(history, lines)
    usable: list[StoredBackup] = []
    reaching: list[StoredBackup] = []
    unusable: list[tuple[str, str]] = []
    gap: Gap | None = None
    end: Extent | None = None
    for backup in sorted(history.backups, key=lambda item: (item.facts.end_time, item.facts.id)):
        if not on_chain(backup, lines, forks, engine.positions):
            unusable.append((backup.facts.id, _off(backup, lines, lost)))
            continue
        if missing := complete(history, backup, log):
            unusable.append((backup.facts.id, f"{missing} is missing, without which it is not consistent"))
            gap = missing
            continue
        usable.append(backup)
        reached = extent(history, backup, lines, forks, log, engine.positions)
        if isinstance(reached, Gap):
            gap = reached
            reaching.clear()
            unusable.append((backup.facts.id, f"{reached} is missing after it"))
        else:
            gap, end = None, reached
            reaching.append(backup)
    if reaching and end is not None:
        oldest = reaching[0].facts
        seen = [mark.last_commit for mark in history.marks if mark.line in lines and mark.last_commit is not None]
        proof = history.mark(end.line)
        # The greatest of all: an overestimate makes a restore fail loudly, an underestimate would go too far unseen. So where
        # the proof of the end does not know it, or the end is another's and more is stored, nobody does.
        more = proof is not None or history.stored(end.line).holds(end.segment)
        unknown = (proof is not None and proof.last_commit is None) or (not end.proven and more)
        last_commit = min(max(seen), end.at) if seen and not unknown else None
        window = Window(oldest.end_time, end.at, last_commit, end.position, end.line, forks)
        return Recoverable(lines, forks, window, tuple(reaching), tuple(unusable), None, end, lost)
    if not usable:
        return Recoverable(lines, forks, None, (), tuple(unusable), gap, lost=lost)
    only = usable[-1]
    facts = only.facts
    window = Window(facts.end_time, facts.end_time, None, facts.end, facts.line, forks)
    lone = Extent(facts.line, facts.end, facts.end_time, only.last_segment)
    others = tuple(item for item in unusable if item[0] != facts.id)
    return Recoverable(lines, forks, window, (only,), others, gap, lone, lost)


def hindrance(found: Recoverable) -> Fault | None:
    """Return why not everything that is stored can be restored; None when it can, or there is nothing yet.

    It is `blocking` when it concerns the end of the log: `latest` is refused. Otherwise what lies before the window is lost.
    """
    if found.lost is not None and found.lost.newest:
        return fault(_term_missing(found.lost, found.window))
    if found.gap is not None:
        return fault(_gap(found.gap, found.window, found))
    if found.lost is not None:
        return replace(fault(_term_missing(found.lost, found.window)), blocking=found.window is None)
    return None


def plan(history: History, target: RecoveryTarget, engine: Engine, now: datetime | None = None) -> Plan:
    """Return how to reach `target`, or say why it cannot be reached. With `now`, the aware time, a moment that the window
    has not reached yet, but will as the log is stored, is something to wait for.

    Without `target.backup` the newest base backup that surely reaches the target is taken; where only replay can tell
    (a name, a transaction the facts say nothing of), the oldest that might. A time between the last stored commit and
    the window's end is LATEST, and ends with what was proven then: nothing else was committed in between, but what is
    stored behind it, or meanwhile, may be later than the time.

    Raises:
        NotReady: the window lies less than `AHEAD` back and ends before the target, which is past (`TargetAhead`).
        Unsupported: the engine cannot restore, or not to such a target.
        InvalidInput: the target is malformed or outside the window (reason `TargetOutsideWindow`), the line or backup
            is not known, or the backup cannot serve (`LineUnknown`, `BackupUnknown`, `BackupUnusable`).
        NotFound: there is no base backup at all (`NoBackup`).
        IntegrityError: a part of the log that the target needs is missing (`LogGap`), or the record of the newest reign is
            (`TermMissing`); its object key is named.
    """
    parsed = _parsed(target, engine)
    found = recoverable(history, engine, parsed.line)
    window = found.window
    if found.lost is not None and (found.lost.newest or (window is None and not parsed.backup)):
        raise _term_missing(found.lost, window)
    if parsed.backup:
        chosen = _named(history, found, parsed, engine)
        if window is None or found.gap is not None:
            window = _own_window(chosen, found)
    elif window is None:
        raise _nothing(history, found)
    else:
        chosen = None
    if engine.log_source is None:
        return _without_log(history, found, chosen, parsed, window)
    if parsed.type is TargetType.IMMEDIATE:
        return _immediate(history, chosen or found.backups[-1], parsed, window, engine)
    if found.gap is not None:
        raise _gap(found.gap, window, found)
    asked = parsed.type
    parsed = _check(parsed, window, engine, now)
    backup = chosen or _choose(parsed, found, window, engine)
    if chosen is not None:
        _usable(chosen, found, parsed, window, engine)
    assert found.extent is not None
    end = found.extent
    at = found.lines.index(backup.facts.line)
    if engine.log_source.lines_overlap:
        own = extent(history, backup, found.lines, found.forks, engine.log_source, engine.positions)
        assert isinstance(own, Extent), "the backup was found to reach the end"
        end = own
    segments = fed(history, backup, found.lines, found.forks, end, engine.log_source) if _feeds(engine) else ()
    recovery = RecoveryPlan(
        target=parsed,
        line=window.line,
        end=window.position,
        backup_facts=backup.facts.facts,
        backup_end=backup.facts.end,
        forks=found.forks[at:],
        segments=segments,
    )
    partial = tuple(part.last for part in end.stretches if not history.stored(part.line).whole(part.last))
    if asked is not parsed.type and end.proven and not recovery.segments:
        tail = chunked(history, end.line, end.proven)
        return Plan(backup, recovery, window, found.lines[at:], end.proven, tail, partial, end.flushed)
    return Plan(backup, recovery, window, found.lines[at:], end.segment, end.tail_bytes, partial)


def describe(window: Window) -> str:
    """Return a window as people read it: `2026-03-01T00:00:00Z to 2026-03-02T03:04:05Z, last commit …`."""
    text = f"{moment(window.start)} to {moment(window.end)}"
    return f"{text}, last commit {moment(window.last_commit)}" if window.last_commit else text


def moment(time: datetime) -> str:
    """Return a time as RFC 3339 in UTC, with microseconds only where there are any."""
    text = time.astimezone(UTC).isoformat(timespec="microseconds" if time.microsecond else "seconds")
    return text.replace("+00:00", "Z")


def _parsed(target: RecoveryTarget, engine: Engine) -> RecoveryTarget:
    if engine.recovery is None:
        raise Unsupported("the engine cannot restore", object=f"engine {engine.name}")
    if target.skip and Capability.SKIP not in engine.capabilities:
        raise Unsupported("the engine cannot leave out transactions", object=f"engine {engine.name}", fix="remove skip")
    if engine.targets is not None:
        return engine.targets.parse(target)
    if target.type not in (TargetType.LATEST, TargetType.IMMEDIATE):
        raise Unsupported(
            f"the engine cannot restore to a {target.type.value}",
            object=f"engine {engine.name}",
            fix="use the type latest, or name a backup",
        )
    return target


def _named(history: History, found: Recoverable, target: RecoveryTarget, engine: Engine) -> StoredBackup:
    backup = next((item for item in history.backups if item.facts.id == target.backup), None)
    if backup is None:
        ids = ", ".join(item.facts.id for item in history.backups[-10:]) or "none"
        raise InvalidInput(
            "no such base backup is stored",
            object=f"backup {target.backup}",
            fix=f"choose one of: {ids}",
            reason="BackupUnknown",
        )
    why = ""
    if not on_chain(backup, found.lines, found.forks, engine.positions):
        why = f"it lies on line {backup.facts.line}, which was left before its end"
    elif gap := complete(history, backup, engine.log_source):
        why = f"{gap} is missing, without which it is not consistent"
    if why:
        raise InvalidInput(
            "the base backup cannot serve",
            object=f"backup {target.backup}",
            cause=why,
            fix=f"name the line in target.line, or another backup; {_window_text(found.window)}",
            reason="BackupUnusable",
        )
    return backup


def _own_window(backup: StoredBackup, found: Recoverable) -> Window:
    facts = backup.facts
    return Window(facts.end_time, facts.end_time, None, facts.end, facts.line, found.forks)


def _nothing(history: History, found: Recoverable) -> Terminal:
    if not history.backups:
        return NotFound(
            "there is no complete base backup to start from",
            object="repository",
            fix="check store and path, or wait for the first Backup to complete",
            reason="NoBackup",
        )
    why = "; ".join(f"{id}: {text}" for id, text in found.unusable[-5:])
    if found.gap is not None:
        return IntegrityError(
            "no base backup is usable", object=str(found.gap), cause=why, fix="take a new Backup", reason="LogGap"
        )
    return InvalidInput(
        "no base backup is usable",
        object="repository",
        cause=why,
        fix="name its line in target.line",
        reason="NoBackup",
    )


def _gap(gap: Gap, window: Window | None, found: Recoverable) -> IntegrityError:
    proven = (
        f"restore what is proven: type immediate with backup {found.backups[-1].facts.id}; " if found.backups else ""
    )
    return IntegrityError(
        "a segment of the log is missing, what lies behind it cannot be replayed",
        object=str(gap),
        cause=f"everything up to {gap.after} is there" if gap.after else "",
        fix=f"{proven}{_window_text(window)}",
        reason="LogGap",
    )


def _term_missing(lost: LostRecord, window: Window | None) -> IntegrityError:
    """Refuse to end on an older line since nobody knows of the newest, and tell what an older loss cuts off."""
    if lost.newest:
        return IntegrityError(
            "the record of the newest reign is missing: nobody can tell where its log left the one before",
            object=str(lost),
            cause=lost.proof,
            fix="its primary writes it again within minutes if it still reigns; else bring the object back, or name an older "
            "line in target.line to restore what lies before that reign",
            reason="TermMissing",
        )
    fix = "bring the object back"
    if window is None:
        fix += ", or take a new Backup: from then on everything can be restored"
    return IntegrityError(
        "the record of an earlier reign is missing: what was stored before it cannot be joined to the newest log",
        object=str(lost),
        cause=lost.proof,
        fix=f"{fix}; {_window_text(window)}",
        reason="TermMissing",
    )


def _off(backup: StoredBackup, lines: tuple[str, ...], lost: LostRecord | None) -> str:
    """Why a backup is not on the chain."""
    if lost is not None and backup.facts.line not in lines:
        return f"it lies on line {backup.facts.line}, and {lost}, which joins it to the newest one, is missing"
    return f"it lies on line {backup.facts.line}, which was left before its end"


def _without_log(
    history: History, found: Recoverable, chosen: StoredBackup | None, target: RecoveryTarget, window: Window
) -> Plan:
    backup = chosen or found.backups[-1]
    recovery = RecoveryPlan(
        target=target,
        line=backup.facts.line,
        end=backup.facts.end,
        backup_facts=backup.facts.facts,
        backup_end=backup.facts.end,
        has_log=False,
    )
    return Plan(backup, recovery, window)


def _immediate(history: History, backup: StoredBackup, target: RecoveryTarget, window: Window, engine: Engine) -> Plan:
    facts = backup.facts
    own = history.stored(facts.line).between(backup.first_segment, backup.last_segment)
    recovery = RecoveryPlan(
        target=target,
        line=facts.line,
        end=facts.end,
        backup_facts=facts.facts,
        backup_end=facts.end,
        segments=own if _feeds(engine) and backup.first_segment else (),
    )
    return Plan(backup, recovery, window, (facts.line,), backup.last_segment)


def _feeds(engine: Engine) -> bool:
    return engine.recovery is not None and engine.recovery.feeds


def _check(target: RecoveryTarget, window: Window, engine: Engine, now: datetime | None) -> RecoveryTarget:
    """Check a parsed target against the window; a time after the last stored commit becomes LATEST."""
    if target.type is TargetType.TIME:
        wanted = datetime.fromisoformat(target.value)
        if wanted.tzinfo is None:
            raise InvalidInput(
                "a time needs an offset", object=target.value, fix="write it like 2026-03-01T02:59:59Z or with +09:00"
            )
        if now is not None and window.end < wanted <= now + SKEW and now - window.end <= AHEAD:
            raise NotReady(
                "the log up to the target is not stored yet",
                object=f"time {target.value}",
                fix=f"it begins by itself when it is; {_window_text(window)}",
                reason="TargetAhead",
            )
        if not window.start <= wanted <= window.end:
            raise _outside(target, window)
        commit = window.last_commit
        if commit is not None and (wanted > commit or (wanted == commit and not target.exclusive)):
            return replace(target, type=TargetType.LATEST, value="", exclusive=False)
    if engine.targets is not None:
        try:
            engine.targets.check(target, window)
        except InvalidInput as error:
            raise InvalidInput(
                error.message,
                object=error.object,
                cause=error.cause,
                fix=f"{error.fix}; {_window_text(window)}" if error.fix else _window_text(window),
                reason="TargetOutsideWindow",
            ) from error
    return target


def _choose(target: RecoveryTarget, found: Recoverable, window: Window, engine: Engine) -> StoredBackup:
    answers = [(_reach(target, backup, found, engine), backup) for backup in found.backups]
    sure = [backup for answer, backup in answers if answer is Reach.YES]
    if sure:
        return sure[-1]
    maybe = [backup for answer, backup in answers if answer is Reach.UNKNOWN]
    if maybe:
        # Replay from the oldest meets the target if it exists at all; from a newer one it could be behind us already.
        return maybe[0]
    raise _outside(target, window)


def _usable(backup: StoredBackup, found: Recoverable, target: RecoveryTarget, window: Window, engine: Engine) -> None:
    if backup not in found.backups:
        why = dict(found.unusable).get(backup.facts.id, "the log after it does not reach the end")
    elif _reach(target, backup, found, engine) is Reach.NO:
        why = f"it ended at {moment(backup.facts.end_time)}, {backup.facts.end}, after the target"
    else:
        return
    raise InvalidInput(
        "the target cannot be reached from this base backup",
        object=f"backup {backup.facts.id}",
        cause=why,
        fix=f"leave target.backup out, or name an older one; {_window_text(window)}",
        reason="BackupUnusable",
    )


def _reach(target: RecoveryTarget, backup: StoredBackup, found: Recoverable, engine: Engine) -> Reach:
    if engine.targets is None:
        return Reach.YES
    # What is left out must not be in the backup already: that only the engine can tell.
    if target.type is TargetType.LATEST and not target.skip:
        return Reach.YES
    if target.type is TargetType.TIME:
        if backup.facts.end_time > datetime.fromisoformat(target.value):
            return Reach.NO
        if not target.skip:
            return Reach.YES
    return engine.targets.reach(target, backup.facts, found.forks)


def _outside(target: RecoveryTarget, window: Window) -> InvalidInput:
    return InvalidInput(
        "the target lies outside the recoverable window",
        object=f"{target.type.value} {target.value}",
        fix=f"choose one inside; {_window_text(window)}",
        reason="TargetOutsideWindow",
    )


def _window_text(window: Window | None) -> str:
    return f"the recoverable window is {describe(window)}" if window else "nothing can be restored now"
