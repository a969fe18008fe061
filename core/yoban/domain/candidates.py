"""Who can become primary by a planned switchover, and why the others cannot.

A choice here is a proposal: the candidate's agent still checks that it has everything before it takes the Lease.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from yoban.errors import InvalidInput, NotReady

LARGEST_LAG = 30.0
"""Seconds a candidate may be behind; a clean stop of the primary drains the rest, but writes wait meanwhile."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An instance, as agents last told of it.

    Attributes:
        name, number: the instance.
        primary: it is the primary now.
        ready: really usable.
        streaming: the primary sees it following.
        synchronous: its confirmation counts.
        lag_seconds: how far behind; None unknown.
    """

    name: str
    number: int
    primary: bool = False
    ready: bool = False
    streaming: bool = False
    synchronous: bool = False
    lag_seconds: float | None = None


def target_of(annotation: str) -> str:
    """Return whom a switchover annotation `<instance>[@<any word>]` names, "" for the best.

    What stands behind `@` tells a request from the one before.
    """
    return annotation.partition("@")[0].strip()


def refusal(candidate: Candidate) -> str:
    """Return why an instance cannot become primary now, "" when it can."""
    if candidate.primary:
        return "it is the primary"
    if not candidate.ready:
        return "it is not ready"
    if not candidate.streaming:
        return "it is not following the primary"
    if candidate.lag_seconds is None:
        return "how far it is behind is not known"
    if candidate.lag_seconds > LARGEST_LAG:
        return f"it is {candidate.lag_seconds:.0f} s behind"
    return ""


def choose(candidates: Sequence[Candidate], target: str = "") -> Candidate:
    """Return who is to become primary: the one asked for, else the best; synchronous first, least behind, lowest number.

    Raises:
        InvalidInput: there is no such instance, or it is the primary already, or there is nobody else.
        NotReady: it cannot now; says why for each.
    """
    if target:
        named = next((item for item in candidates if item.name == target), None)
        names = ", ".join(item.name for item in candidates if not item.primary) or "none"
        if named is None or named.primary:
            raise InvalidInput(
                "it is the primary already" if named else "there is no such instance",
                object=f"switchover to {target}",
                fix=f"choose one of: {names}",
                reason="SwitchoverRefused",
            )
        if why := refusal(named):
            raise NotReady(
                why, object=f"switchover to {target}", fix="wait, or choose another", reason="SwitchoverWaits"
            )
        return named
    others = [item for item in candidates if not item.primary]
    if not others:
        raise InvalidInput(
            "there is no other instance",
            object="switchover",
            fix="set instances to 2 or more",
            reason="SwitchoverRefused",
        )
    fit = [item for item in others if not refusal(item)]
    if not fit:
        why = "; ".join(f"{item.name}: {refusal(item)}" for item in others)
        raise NotReady("no instance can take over now", object="switchover", cause=why, reason="SwitchoverWaits")
    return min(fit, key=lambda item: (not item.synchronous, item.lag_seconds or 0.0, item.number))
