"""Which instance a base backup is taken from.

A healthy replica first, so that the primary is left alone; the primary when no replica is fit, or the engine can do it
nowhere else. Every refusal says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from yoban.domain.candidates import Candidate
from yoban.errors import NotReady

LARGEST_LAG = 300.0
"""Seconds a replica may be behind and still serve: its copy is consistent, only older."""


@dataclass(frozen=True, slots=True)
class Donor:
    """The instance to take it from, and the primary that ships the log up to its end ("" when it is the same)."""

    instance: str
    shipper: str


def choose(instances: Sequence[Candidate], *, on_replica: bool, avoid: frozenset[str] = frozenset()) -> Donor:
    """Return who serves.

    Args:
        instances: all that are heard from.
        on_replica: a replica of this engine can serve.
        avoid: instances on which an earlier attempt failed; taken only when there is nobody else.

    Raises:
        NotReady: nobody can now; says why for each.
    """
    primary = next((item for item in instances if item.primary), None)
    fit = [item for item in instances if not _refusal(item, primary, on_replica)]
    if not fit:
        why = "; ".join(f"{item.name}: {_refusal(item, primary, on_replica)}" for item in instances)
        raise NotReady(
            "no instance can be backed up now",
            object="base backup",
            cause=why or "no instance answers",
            fix="it begins by itself as soon as one can",
            reason="NoFitInstance",
        )
    best = min(
        fit,
        key=lambda item: (item.name in avoid, item.primary, item.synchronous, item.lag_seconds or 0.0, -item.number),
    )
    return Donor(best.name, "" if best.primary or primary is None else primary.name)


def _refusal(item: Candidate, primary: Candidate | None, on_replica: bool) -> str:
    if not item.ready:
        return "not ready"
    if item.primary:
        return ""
    if not on_replica:
        return "the engine backs up primaries only"
    if primary is None or not primary.ready:
        return "there is no primary to ship the log up to the backup's end"
    if not item.streaming:
        return "not following the primary"
    if item.lag_seconds is None or item.lag_seconds > LARGEST_LAG:
        return "too far behind"
    return ""
