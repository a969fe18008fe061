"""Who reigns next when the primary's volume is gone for good, so that it can never come back by itself.

Guarantees: pure. Nobody is named while the primary might still run, while an instance with data has not been heard since its
source went, or while the positions cannot be put in order: of all who have data the one that has received most of the log is
named, for what was acknowledged may have been confirmed by it before it was replayed. Not failover: that needs no operator
and is the agents'.
"""

from __future__ import annotations

from dataclasses import dataclass

from yoban.kube.objects import Obj, is_deleting
from yoban.plugins import Order, Position, Positions
from yoban.reconcilers.database.builders.lease import Membership
from yoban.reconcilers.database.observed import Observed

QUIET_SECONDS = 30.0
"""How long the Lease must not have been renewed: twice its duration, so whoever held it has ended its server."""
_NOTHING = ("empty", "making")


@dataclass(frozen=True, slots=True)
class Heir:
    """The instance to name, the place up to which it has replayed the log, and that up to which it has it."""

    instance: str
    position: str
    received: str


def heir(observed: Observed, membership: Membership, positions: Positions, quiet: float) -> Heir | None:
    """The heir of a primary that lost its volume; None when there is none, or not yet.

    Args:
        observed: the Database now.
        membership: the members.
        positions: the engine's order of positions.
        quiet: seconds since the Lease was last seen to change.
    """
    primary = observed.primary
    if primary is None or primary in observed.claims or not membership.volumes.get(primary):
        return None
    if _may_run(observed.pods.get(primary)) or (observed.holder and quiet < QUIET_SECONDS):
        return None
    best: Heir | None = None
    for number in membership.numbers:
        if number == primary or number not in observed.claims:
            continue
        agent = observed.agent(number)
        if agent is None:
            return None
        if agent.data in _NOTHING:
            continue
        if agent.server is None or not agent.server.position:
            return None
        if agent.server.upstream or not agent.server.received_known:
            # It has not noticed yet that its source is gone, or was started anew and still reads what it has: what it told
            # may be less than what it has received.
            return None
        replayed = agent.server.position
        candidate = Heir(observed.names.instance(number), replayed, agent.server.received or replayed)
        if best is None:
            best = candidate
            continue
        order = positions.compare(Position(candidate.received), Position(best.received))
        if order is Order.INCOMPARABLE:
            return None
        if order is Order.GREATER:
            best = candidate
    return best


def _may_run(pod: Obj | None) -> bool:
    if pod is None:
        return False
    return is_deleting(pod) or (pod.get("status") or {}).get("phase") not in ("Pending", "Failed", "Succeeded")
