"""Whether what a policy asks for holds for one Database, and since when it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from yoban.domain.schedule import Due
from yoban.domain.summary import Fault, span

PATIENCE = 3.0
"""The log is behind when it is older than this many times the wish: a promise of 5 s is measured every few seconds."""
LEAST_LAG = 15.0
"""Below this age in seconds it never is: an idle server's proof is renewed every ten or so."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one Database.

    Attributes:
        due: what its schedule says; None while the repository was not read yet.
        rpo: how old the newest commit may become before it is stored.
        lag: age of the oldest commit that is not stored; None when nobody tells, or the engine has no log.
        failing_since: since when storing the log fails.
        gap: the segment that is missing after the newest backup, "" when none is.
        lost: why the newest reign's log cannot be restored, None when it can.
        store: why the store cannot be read now.
        failures: base backups of the present need that failed, and why the last did.
        has_log: the engine ships a log.
    """

    due: Due | None
    rpo: timedelta
    lag: float | None = None
    failing_since: datetime | None = None
    gap: str = ""
    lost: Fault | None = None
    store: Fault | None = None
    failures: int = 0
    failure: str = ""
    has_log: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the policy holds; None: nobody knows yet. `since`: since when it does not. Reason and message."""

    satisfied: bool | None
    since: datetime | None
    reason: str
    message: str


def judge(facts: Facts, now: datetime) -> Verdict:
    """Return the verdict; the gravest fault first: a log that cannot be followed, then no store, a late log, a late base
    backup."""
    if facts.lost is not None:
        return Verdict(False, now, facts.lost.reason, str(facts.lost))
    if facts.gap:
        text = f"{facts.gap} is missing; what lies behind it cannot be restored until the next base backup"
        return Verdict(False, now, "LogGap", text)
    if facts.store is not None:
        return Verdict(False, facts.failing_since or now, facts.store.reason, str(facts.store))
    if facts.failing_since is not None:
        text = f"the log has not been stored since {facts.failing_since:%Y-%m-%dT%H:%M:%SZ}"
        return Verdict(False, facts.failing_since, "ArchiveFailing", text)
    if facts.due is None:
        return Verdict(None, None, "Unknown", "the repository was not read yet")
    wish = facts.rpo.total_seconds()
    if facts.has_log and facts.lag is not None and facts.lag > max(wish * PATIENCE, LEAST_LAG):
        text = f"the log is {span(facts.lag)} behind, {span(wish)} is asked for"
        return Verdict(False, now - timedelta(seconds=facts.lag), "LogBehind", text)
    if facts.due.overdue is not None:
        text = facts.due.why
        if facts.failures:
            text += f": {facts.failure}" if facts.failure else ""
            return Verdict(False, facts.due.overdue, "BackupFailed", text)
        return Verdict(False, facts.due.overdue, "BackupOverdue", text)
    return Verdict(True, None, "Satisfied", facts.due.why)


def worst(verdicts: Sequence[tuple[str, Verdict]]) -> tuple[str, Verdict] | None:
    """Return the Database furthest from its policy, by name: the one that has been so for longest; None when all hold."""
    wrong = [(name, verdict) for name, verdict in verdicts if verdict.satisfied is False]
    return min(wrong, key=lambda item: (item[1].since is None, item[1].since, item[0]), default=None)
