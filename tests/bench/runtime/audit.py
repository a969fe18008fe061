"""Who asked the API server for what: its own audit log, read the same way for every contestant.

Guarantees that a request is counted once, when it was answered (a watch: when it was opened). Counts what clients sent, not
what they meant: a retry is a request. Does not see what never reached the server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

WRITES = frozenset(("create", "update", "patch", "delete", "deletecollection"))


class _Reference(msgspec.Struct, frozen=True):
    resource: str = ""
    subresource: str = ""
    name: str = ""


class _User(msgspec.Struct, frozen=True):
    username: str = ""


class _Status(msgspec.Struct, frozen=True):
    code: int = 0


class _Event(msgspec.Struct, rename="camel"):
    stage: str
    verb: str
    request_received_timestamp: str
    stage_timestamp: str
    user: _User
    object_ref: _Reference = _Reference()
    response_status: _Status = _Status()


_EVENT = msgspec.json.Decoder(_Event)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Times are seconds since the epoch by the API server's clock, which is this machine's."""

    user: str
    verb: str
    resource: str  # with its subresource: `cards/status`
    name: str
    code: int
    received: float
    answered: float

    @property
    def is_write(self) -> bool:
        """Whether it asked for a change."""
        return self.verb in WRITES


def policy(users: Iterable[str]) -> str:
    """The audit policy: the requests of these users, without bodies, and nobody else's."""
    rules: list[dict[str, object]] = [{"level": "Metadata", "users": sorted(users)}, {"level": "None"}]
    document = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}
    return json.dumps(document)


def parse(lines: Iterable[bytes]) -> list[Request]:
    """The requests that the lines of an audit log tell of. Raises msgspec.DecodeError for a line that is none."""
    found = []
    for line in lines:
        event = _EVENT.decode(line)
        # A watch is answered when it ends, maybe never: it counts when it was opened.
        if event.stage != ("ResponseStarted" if event.verb == "watch" else "ResponseComplete"):
            continue
        about = event.object_ref
        found.append(
            Request(
                event.user.username,
                event.verb,
                f"{about.resource}/{about.subresource}" if about.subresource else about.resource,
                about.name,
                event.response_status.code,
                _seconds(event.request_received_timestamp),
                _seconds(event.stage_timestamp),
            )
        )
    return found


def overlaps(requests: Sequence[Request]) -> int:
    """How many writes to one object and subresource began before the one before was answered."""
    last: dict[tuple[str, str], float] = {}
    count = 0
    for one in sorted((r for r in requests if r.is_write), key=lambda r: r.received):
        key = (one.resource, one.name)
        count += one.received < last.get(key, 0.0)
        last[key] = max(one.answered, last.get(key, 0.0))
    return count


class AuditLog:
    """The log file of a running API server."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def mark(self) -> int:
        """Where the log ends now."""
        return self._file.stat().st_size if self._file.exists() else 0

    def since(self, mark: int, user: str) -> list[Request]:
        """The requests of `user` that were answered since."""
        if not self._file.exists():
            return []
        with self._file.open("rb") as file:
            file.seek(mark)
            whole = file.read().rpartition(b"\n")[0]
        return [request for request in parse(filter(None, whole.split(b"\n"))) if request.user == user]


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
