"""Who asked an API server for what: its own audit log, read.

Guarantees that a request is counted once, when it was answered (a watch: when it was opened). Tells what clients sent, not
what they meant: a retry is a request. Does not see what never reached the server. A log that was rotated is not followed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from deploy.lab.failure import LabError

WRITES = frozenset(("create", "update", "patch", "delete", "deletecollection"))
_POD = "authentication.kubernetes.io/pod-name"


class _Reference(msgspec.Struct, frozen=True):
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    extra: dict[str, list[str]] = {}


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
    response_object: dict[str, Any] = {}


_EVENT = msgspec.json.Decoder(_Event)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Times are seconds since the epoch by the API server's clock, which is this machine's.

    Attributes:
        user: who asked, and `pod` its Pod's name where it is a Pod's ServiceAccount.
        resource: with its subresource: `cards/status`.
        answer: the object that was answered, where the policy has it.
    """

    user: str
    verb: str
    resource: str
    name: str
    code: int
    received: float
    answered: float
    namespace: str = ""
    pod: str = ""
    answer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_write(self) -> bool:
        """Whether it asked for a change."""
        return self.verb in WRITES


def policy(*rules: Mapping[str, object]) -> str:
    """The audit policy of these rules, the first that fits counts, and nothing of what none fits."""
    document = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "omitManagedFields": True,
        "rules": [*rules, {"level": "None"}],
    }
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
                about.namespace,
                next(iter(event.user.extra.get(_POD, ())), ""),
                event.response_object,
            )
        )
    return found


class AuditLog:
    """The log file of a running API server."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def mark(self) -> int:
        """Where the log ends now."""
        return self._file.stat().st_size if self._file.exists() else 0

    def since(self, mark: int, user: str = "") -> list[Request]:
        """The requests of `user`, or of everybody, that were answered since. Raises LabError when the log was rotated."""
        if not self._file.exists():
            return []
        if self.mark() < mark:
            raise LabError("the audit log was rotated meanwhile: what it told is lost")
        with self._file.open("rb") as file:
            file.seek(mark)
            whole = file.read().rpartition(b"\n")[0]
        return [
            request for request in parse(filter(None, whole.split(b"\n"))) if request.user == (user or request.user)
        ]


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()
