"""Sentences for people: what is wrong, why, and what to do; and one condition that sums up.

The words of conditions are made here, so that the same fault reads the same wherever it shows. Nothing is decided by
what is made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from yoban.errors import Retryable, Terminal, YobanError

GIVE_UP = "bring its Pod or node back, or give it up: docs/operations.md"
"""What is to be done with a primary that does not accept writes."""


class Truth(Enum):
    """The three states of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Observation:
    """A condition to be: type, state, CamelCase reason, message."""

    type: str
    truth: Truth
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong: reason, a sentence, what to do, and whether somebody has to act.

    `blocking`: the thing does not do its work because of it; otherwise it works, but not as it should.
    """

    reason: str
    message: str
    fix: str = ""
    terminal: bool = False
    blocking: bool = True

    def __str__(self) -> str:
        return f"{self.message}; {self.fix}" if self.fix else self.message


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What Ready of a Database is summed up from.

    Attributes:
        wanted, ready: instances wanted, and really usable.
        primary: name of the primary, "" when there is none.
        primary_ready: it accepts writes.
        activity: what is under way ("restoring 40 %", "cloning"), "" when nothing.
        faults: what is wrong.
        deleting, paused: state of the object.
        data_lost: the data existed, and no volume has it any more.
        primary_served: its Pod bears the label by which the Service for writes finds it.
    """

    wanted: int
    ready: int
    primary: str = ""
    primary_ready: bool = False
    activity: str = ""
    faults: tuple[Fault, ...] = ()
    deleting: bool = False
    paused: bool = False
    data_lost: bool = False
    primary_served: bool = True


def fault(error: BaseException) -> Fault:
    """Return an error as a fault; what is no error of ours is named by its type, without its text, which may hold
    secrets."""
    if isinstance(error, YobanError):
        text = f"{error.object}: {error.message}" if error.object else error.message
        if error.cause:
            text += f" ({error.cause})"
        return Fault(error.reason, text, error.fix, isinstance(error, Terminal), not isinstance(error, Retryable))
    if isinstance(error, TimeoutError):
        return Fault("DeadlineExceeded", "no answer in time", "it is tried again")
    return Fault("InternalError", f"unexpected {type(error).__name__}", "see the operator's log")


def not_ready(type: str, wrong: Fault) -> Observation:
    """Return the condition that a fault makes false."""
    return Observation(type, Truth.FALSE, wrong.reason, str(wrong))


def worst(faults: Sequence[Fault]) -> Fault | None:
    """Return what to tell first: what somebody must act on, then what blocks, then the first."""
    return min(faults, key=lambda item: (not item.blocking, not item.terminal), default=None)


def database_ready(facts: DatabaseFacts) -> Observation:
    """Sum up a Database: Ready is true when its primary accepts writes where applications look for it, and nothing blocks.

    Missing replicas alone leave it Ready, with the reason `Degraded`.
    """
    if facts.deleting:
        return Observation("Ready", Truth.FALSE, "Deleting", "it is being deleted")
    if facts.data_lost:
        text = (
            "its data existed and no volume has it any more; nothing is made in its place. Restore it into a new "
            "Database from its backups (status.path), or bring the volumes back"
        )
        return Observation("Ready", Truth.FALSE, "DataLost", text)
    first = worst(facts.faults)
    others = f" (and {len(facts.faults) - 1} more)" if len(facts.faults) > 1 else ""
    if first is not None and first.blocking and (first.terminal or not facts.primary_ready):
        return Observation("Ready", Truth.FALSE, first.reason, f"{first}{others}")
    count = f"{facts.ready} of {facts.wanted} instances are ready"
    if not facts.primary_ready:
        reason = "Progressing" if facts.activity else "NoPrimary" if not facts.primary else "PrimaryNotReady"
        lacks = f"primary {facts.primary} does not accept writes; {GIVE_UP}" if facts.primary else "no primary"
        text = facts.activity or lacks
        return Observation("Ready", Truth.FALSE, reason, f"{text}; {count}")
    if not facts.primary_served:
        lacks = f"Pod of primary {facts.primary} has not its label; {count}"
        return Observation(
            "Ready", Truth.FALSE, "PrimaryNotServed", f"the Service for writes finds no primary yet: the {lacks}"
        )
    if facts.paused:
        return Observation("Ready", Truth.TRUE, "Paused", f"{count}; nothing planned is begun while it is paused")
    if first is not None:
        return Observation("Ready", Truth.TRUE, "Degraded", f"{first}{others}; {count}")
    if facts.ready < facts.wanted:
        doing = f"; {facts.activity}" if facts.activity else ""
        return Observation("Ready", Truth.TRUE, "Degraded", f"{count}{doing}")
    return Observation("Ready", Truth.TRUE, "AllReady", count)


def size(count: float) -> str:
    """Return bytes for people: `512 B`, `1.5 GiB`."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    step = 0
    while count >= 1024 and step < len(units) - 1:
        count, step = count / 1024, step + 1
    return f"{count:.0f} {units[step]}" if step == 0 or count >= 100 else f"{count:.1f} {units[step]}"


def span(seconds: float) -> str:
    """Return a length of time for people: `850ms`, `12s`, `3m20s`, `5h02m`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
