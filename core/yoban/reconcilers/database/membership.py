"""Second decision: which instances exist, given what became of their volumes.

Guarantees: pure. A number is never used again; the primary is never taken away, nor anybody while it is not known who that
is; a volume that was deleted means a new instance under a new number, as long as others hold the data; when nobody does,
nothing is made or taken away at all. Numbers reach the Lease before anything is made of them: `plan.membership` is what is to
be written first.
"""

from __future__ import annotations

from dataclasses import dataclass

from yoban.domain.topology import Existing, topology
from yoban.reconcilers.database.builders.lease import Membership
from yoban.reconcilers.database.observed import Observed

_NO_DATA = ("empty", "making")


@dataclass(frozen=True, slots=True)
class MembershipPlan:
    """What is to be.

    Attributes:
        membership: to be written to the Lease before anything else is done.
        founder: number of the one instance that may create the data, None when none may.
        data_lost: the data existed, and no volume has it.
        leaving: the primary, when its volume is being deleted or gone: another must take over.
        why: sentences for people.
    """

    membership: Membership
    founder: int | None = None
    data_lost: bool = False
    leaving: int | None = None
    why: tuple[str, ...] = ()


def plan(observed: Observed, wanted: int) -> MembershipPlan:
    """Decide the membership."""
    membership = _noted(observed)
    fresh = {number for number, uid in membership.volumes.items() if not uid}
    lost = {number for number in membership.numbers if number not in fresh and _lost(observed, membership, number)}
    initialized = observed.initialized
    if initialized and _nobody_has_data(observed, membership, fresh, lost):
        for number in _brought_back(observed, lost):
            membership = membership.made(number, observed.claims[number].uid)
            lost.discard(number)
    if initialized and _nobody_has_data(observed, membership, fresh, lost):
        why = "no volume holds the data any more; nothing is made in its place"
        return MembershipPlan(membership, data_lost=True, why=(why,))
    if initialized and observed.primary is None:
        # The Lease was lost and nobody has taken it again: whoever is taken away now could be the primary.
        wanted = max(wanted, len(membership.numbers))
    existing = [_existing(observed, number, number in lost) for number in membership.numbers]
    decided = topology(wanted, existing, membership.last, initialized=initialized)
    if not initialized:
        # Nothing is lost yet with a volume; but its number is used, and the founder must have a volume that stays.
        for number in sorted(lost):
            membership = membership.remove(number)
        existing = [entry for entry in existing if entry.number not in lost]
        decided = topology(wanted, existing, membership.last, initialized=False)
    for number in decided.remove:
        membership = membership.remove(number)
    for _ in decided.create:
        membership = membership.add()
    primary = observed.primary
    doomed = (
        primary is not None and primary in membership.volumes and initialized and _doomed(observed, membership, primary)
    )
    return MembershipPlan(
        membership,
        founder=decided.founder or None,
        data_lost=decided.data_lost,
        leaving=primary if doomed else None,
        why=decided.why,
    )


def _noted(observed: Observed) -> Membership:
    """The membership, with the uids of claims that were made but not noted yet."""
    membership = observed.membership
    for number, uid in membership.volumes.items():
        found = observed.claims.get(number)
        if not uid and found is not None and not found.deleting:
            membership = membership.made(number, found.uid)
    return membership


def _lost(observed: Observed, membership: Membership, number: int) -> bool:
    found = observed.claims.get(number)
    return found is None or found.uid != membership.volumes[number]


def _brought_back(observed: Observed, lost: set[int]) -> set[int]:
    """The instances whose claims were made anew after all were lost, once the last primary's agent tells of its data.

    All of them at once, also those whose agents are not heard yet. With a replica alone, what only the primary had would be
    given up.
    """
    agent = observed.agent(observed.primary) if observed.primary in lost and observed.primary is not None else None
    if agent is None or agent.data != "ready":
        return set()
    return {number for number in lost if (found := observed.claims.get(number)) is not None and not found.deleting}


def _doomed(observed: Observed, membership: Membership, number: int) -> bool:
    found = observed.claims.get(number)
    return bool(membership.volumes[number]) and (
        found is None or found.deleting or found.uid != membership.volumes[number]
    )


def _existing(observed: Observed, number: int, lost: bool) -> Existing:
    found = observed.claims.get(number)
    return Existing(
        number,
        ready=observed.ready(number),
        primary=number == observed.primary,
        lost=lost,
        # A claim that is being deleted lives for as long as its Pod does: its data is there, but not for long.
        broken=not lost and found is not None and found.deleting,
    )


def _nobody_has_data(observed: Observed, membership: Membership, fresh: set[int], lost: set[int]) -> bool:
    kept = [number for number in membership.numbers if number not in fresh and number not in lost]
    if not kept:
        return bool(membership.numbers)
    words = [observed.agent(number) for number in kept]
    if not all(word is not None and word.data in _NO_DATA and not word.ready for word in words):
        return False
    # Volumes that hold nothing: copies that were never made. Is there anybody to make them from?
    if observed.primary is None or observed.primary in lost or observed.primary not in membership.volumes:
        return True
    return not observed.holder and any(
        problem.reason == "DataLost" for word in words if word is not None for problem in word.problems
    )
