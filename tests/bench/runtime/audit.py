"""What a contestant asked the API server for, counted the same way for each: by the server's own audit log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deploy.lab import audit
from deploy.lab.audit import Request


def policy(users: Iterable[str]) -> str:
    """The audit policy: the requests of these users, without bodies, and nobody else's."""
    return audit.policy({"level": "Metadata", "users": sorted(users)})


def overlaps(requests: Sequence[Request]) -> int:
    """How many writes to one object and subresource began before the one before was answered."""
    last: dict[tuple[str, str], float] = {}
    count = 0
    for one in sorted((r for r in requests if r.is_write), key=lambda r: r.received):
        key = (one.resource, one.name)
        count += one.received < last.get(key, 0.0)
        last[key] = max(one.answered, last.get(key, 0.0))
    return count
