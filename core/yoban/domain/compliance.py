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
        kept, kept_since: why what is no longer kept cannot be removed, and since when; None when it can.
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
    kept: Fault | None = None
    kept_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the policy holds; None: nobody knows yet. `since`: since when it does not. Reason and message."""

    satisfied: bool | None
    since: datetime | None
    reason: str
    message: str


def judge(facts: Facts, now: datetime) -> Verdict:
    """Return the verdict; the gravest fault first: a log that cannot be followed, then no store, a late log, a late base
    backup, and last what is not removed."""
    if facts.lost is not None:
        return Verdict(False, now, facts.lost.reason, str(facts.lost))
    if facts.gap:
        return Verdict(
            False,
            now,
            "LogGap",
            f"{facts.gap} is missing; what lies behind it cannot be restored until the next base backup",
        )
    if facts.store is not None:
        return Verdict(False, facts.failing_since or now, facts.store.reason, str(facts.store))
    if facts.failing_since is not None:
        since = facts.failing_since
        return Verdict(False, since, "ArchiveFailing", f"the log has not been stored since {since:%Y-%m-%dT%H:%M:%SZ}")
    if facts.due is None:
        return Verdict(None, None, "Unknown", "the repository was not read yet")
    wish = facts.rpo.total_seconds()
    if facts.has_log and facts.lag is not None and facts.lag > max(wish * PATIENCE, LEAST_LAG):
        late = span(facts.lag)
        since = now - timedelta(seconds=facts.lag)
        return Verdict(False, since, "LogBehind", f"the log is {late} behind, {span(wish)} is asked for")
    if facts.due.overdue is not None:
        text = facts.due.why
        if facts.failures:
            text += f": {facts.failure}" if facts.failure else ""
            return Verdict(False, facts.due.overdue, "BackupFailed", text)
        return Verdict(False, facts.due.overdue, "BackupOverdue", text)
    if facts.kept is not None:
        since = facts.kept_since or now
        return Verdict(False, since, "RetentionFailing", f"what is no longer kept cannot be removed: {facts.kept}")
    return Verdict(True, None, "Satisfied", facts.due.why)


def worst(verdicts: Sequence[tuple[str, Verdict]]) -> tuple[str, Verdict] | None:
    """Return the Database furthest from its policy, by name: the one that has been so for longest; None when all hold."""
    wrong = [(name, verdict) for name, verdict in verdicts if verdict.satisfied is False]
    return min(wrong, key=lambda item: (item[1].since is None, item[1].since, item[0]), default=None)
