"""From what agents said to candidates for a backup or a switchover."""

from __future__ import annotations

from yoban.domain.candidates import Candidate
from yoban.kube.objects import ObjectKey
from yoban.model.control import AgentStatus, ReplicaState
from yoban.reconcilers.observatory import Observatory


def candidates(observatory: Observatory, key: ObjectKey) -> list[Candidate]:
    """Return the instances of a Database that are heard from, by number."""
    statuses = observatory.statuses(key)
    members = observatory.members(key)
    primary = next((status for status in statuses.values() if _reigns(status)), None)
    links = {link.name: link for link in primary.server.replicas} if primary is not None and primary.server else {}
    found = [
        _candidate(name, members[name].number, status, links.get(name))
        for name, status in statuses.items()
        if name in members
    ]
    return sorted(found, key=lambda item: item.number)


def _reigns(status: AgentStatus) -> bool:
    return status.lease.held and status.server is not None and status.server.role == "primary"


def _candidate(name: str, number: int, status: AgentStatus, link: ReplicaState | None) -> Candidate:
    server = status.server
    return Candidate(
        name=name,
        number=number,
        primary=_reigns(status),
        ready=status.ready,
        streaming=link.streaming if link is not None else bool(server is not None and server.upstream),
        synchronous=link is not None and link.synchronous,
        lag_seconds=lag(status, link),
    )


def lag(status: AgentStatus | None, link: ReplicaState | None) -> float | None:
    """Return how far a replica is behind in seconds, None when neither it nor its primary can tell.

    Not every engine's primary knows how far its replicas are. Of two answers the greater counts.
    """
    own = status.server.lag_seconds if status is not None and status.server is not None else None
    seen = link.lag_seconds if link is not None else None
    return max((one for one in (own, seen) if one is not None), default=None)
