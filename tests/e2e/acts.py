"""What the replicas of the operator wrote, and in which term: by the lab's API server, which all of their writes go through.

A write counts as made in the term that the Lease was in when the server received it. Where the Lease was being written at
that very moment, either state counts: breaches may be overlooked, not made up. Events are left out, whoever saw something
may still tell it when it leads no more, and so are writes that the server refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deploy.demo.installation import NAMESPACE
from deploy.lab.audit import Request
from tests.e2e.leadership import OPERATOR, leader


@dataclass(frozen=True)
class Reign:
    """A state of the operator's Lease: when it may be seen first, when it surely is, its term, and who holds it."""

    begun: float
    sure: float
    term: int
    pod: str


def accepted(requests: Iterable[Request]) -> list[Request]:
    """The writes of the operator's Pods that the server took, Events left out, in the order in which they came."""
    found = [
        one
        for one in requests
        if one.pod.startswith(OPERATOR) and one.is_write and one.code < 300 and one.resource != "events"
    ]
    return sorted(found, key=lambda one: one.received)


def is_lease(request: Request) -> bool:
    """Whether it is about the operator's own Lease."""
    return (request.resource, request.namespace, request.name) == ("leases", NAMESPACE, OPERATOR)


def reigns(writes: Sequence[Request]) -> list[Reign]:
    """Each state of the Lease that these writes made, in order."""
    found = []
    for one in writes:
        if is_lease(one):
            spec = one.answer["spec"]
            found.append(Reign(one.received, one.answered, int(spec["leaseTransitions"]), leader(dict(one.answer))))
    return found


def by_term(writes: Sequence[Request]) -> dict[int, Counter[str]]:
    """How much each Pod wrote, by term; the Lease itself left out. Writes before its first known state are left out too.

    A write counts for its Pod's own term where that may have been the Lease's then, otherwise for the term that surely was.
    """
    states = reigns(writes)
    found: dict[int, Counter[str]] = {}
    for one in writes:
        possible = _possible(states, one.received)
        if is_lease(one) or not possible:
            continue
        own = [state for state in possible if state.pod == one.pod]
        found.setdefault((own or possible)[-1].term, Counter())[one.pod] += 1
    return found


def strangers(writes: Sequence[Request]) -> list[str]:
    """What was written by who did not hold the Lease: who, what, and whose it was."""
    states = reigns(writes)
    found = []
    for one in writes:
        possible = _possible(states, one.received)
        if not is_lease(one) and possible and one.pod not in {state.pod for state in possible}:
            holder = possible[-1]
            found.append(
                f"{one.pod} {one.verb} {one.resource} {one.namespace}/{one.name}, {one.received - holder.sure:.3f} s"
                f" after term {holder.term} was of {holder.pod or 'nobody'}"
            )
    return found


def _possible(states: Sequence[Reign], moment: float) -> list[Reign]:
    """The states that the Lease may have been in at a moment: the last that surely was, and those being written."""
    begun = [state for state in states if state.begun <= moment]
    sure = [number for number, state in enumerate(begun) if state.sure <= moment]
    return begun[sure[-1] :] if sure else begun
