"""Conditions of a status, after KEP-1623.

Guarantees: `lastTransitionTime` moves only when the status of a condition does; `observedGeneration` is always there;
the list is a map by type, in the order in which types first came. All functions are pure. Conditions are observations
for people and other programs: they are never input to decisions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from yoban.kube.clock import rfc3339

_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
_MAX_REASON = 1024
_MAX_MESSAGE = 32768


class Status(StrEnum):
    """The three states of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Condition:
    """What is observed now.

    Attributes:
        type: a state (`Ready`), not a transition.
        status: whether it is so.
        reason: CamelCase, for programs; required (ValueError without).
        message: for people.
    """

    type: str
    status: Status
    reason: str
    message: str = ""

    def __post_init__(self) -> None:
        if not _REASON.fullmatch(self.reason) or len(self.reason) > _MAX_REASON:
            raise ValueError(f"condition {self.type} needs a CamelCase reason, not {self.reason!r}")


def set_condition(
    conditions: Sequence[dict[str, Any]], condition: Condition, *, generation: int, now: datetime
) -> list[dict[str, Any]]:
    """`conditions` with `condition` put in its place; the argument is not changed."""
    previous = next((c for c in conditions if c.get("type") == condition.type), None)
    keeps_time = previous is not None and previous.get("status") == condition.status.value
    stamp = previous.get("lastTransitionTime") if previous is not None and keeps_time else None
    entry = {
        "type": condition.type,
        "status": condition.status.value,
        "reason": condition.reason,
        "message": condition.message[:_MAX_MESSAGE],
        "lastTransitionTime": stamp or rfc3339(now),
        "observedGeneration": generation,
    }
    if previous is None:
        return [*conditions, entry]
    return [entry if c is previous else c for c in conditions]


def merge(
    previous: Sequence[dict[str, Any]],
    observed: Iterable[Condition],
    *,
    known: Sequence[str],
    generation: int,
    now: datetime,
) -> list[dict[str, Any]]:
    """The list to write: `observed` over `previous`, and each type of `known` that nobody observed yet as Unknown.

    A known type that was observed before and is not now keeps what it said.
    """
    result = list(previous)
    present = {c.get("type") for c in result}
    fresh = {c.type: c for c in observed}
    for name in known:
        if name not in present and name not in fresh:
            fresh[name] = Condition(name, Status.UNKNOWN, "NotYetObserved", "Nothing is known yet.")
    order = [*[n for n in known if n in fresh], *[n for n in fresh if n not in known]]
    for name in order:
        result = set_condition(result, fresh[name], generation=generation, now=now)
    return result


def find(conditions: Sequence[dict[str, Any]], type_: str) -> dict[str, Any] | None:
    """The condition of that type, or None."""
    return next((c for c in conditions if c.get("type") == type_), None)


def is_true(conditions: Sequence[dict[str, Any]], type_: str, *, generation: int | None = None) -> bool:
    """Whether the condition is True, and not stale when `generation` (the object's) is given."""
    condition = find(conditions, type_)
    if condition is None or condition.get("status") != Status.TRUE.value:
        return False
    return generation is None or int(condition.get("observedGeneration") or 0) >= generation


def summarize(parts: Iterable[Condition], *, type_: str = "Ready", ready: str = "AllReady") -> Condition:
    """One condition for many: False if any is False, else Unknown if any is Unknown, else True.

    Reason and message are those of the first part that is to blame.
    """
    parts = list(parts)
    for status in (Status.FALSE, Status.UNKNOWN):
        for part in parts:
            if part.status is status:
                return Condition(type_, status, part.reason, part.message)
    return Condition(type_, Status.TRUE, ready)
