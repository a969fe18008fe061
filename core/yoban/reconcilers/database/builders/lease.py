"""The Lease of the primary, and what the operator keeps on it: the membership, and the owner's last switchover request.

Guarantees: the operator makes the Lease and never takes it: it writes no field of `spec`. Instance numbers are given
out here *before* anything of an instance is made, so a crash in between cannot give a number twice; the uid of each
instance's data claim is noted, so a volume that was deleted is told from one that was not made yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from yoban.model.instance import (
    LEASE_INITIALIZED,
    LEASE_LAST_NUMBER,
    LEASE_TERM,
)
from yoban.reconcilers.database.builders.names import Names

MEMBERS = "yoban.dev/members"
"""Annotation of the Lease: JSON, instance number to the uid of its data claim ("" while it has none)."""
ASKED = "yoban.dev/switchover-asked"
"""Annotation of the Lease: JSON of `Asked`."""
BEST = "best"
"""In the id of a switchover request that leaves the choice of the instance to the operator."""
REIGN = (LEASE_INITIALIZED, LEASE_TERM, ASKED)
"""Marks of the Lease that must survive it, mirrored on the spec ConfigMap. Whose turn it is, is told by the volumes."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Which instances are to exist. `last` is the greatest number ever given; `volumes` maps numbers to claim uids."""

    last: int = 0
    volumes: Mapping[int, str] = field(default_factory=dict)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the members, ascending."""
        return tuple(sorted(self.volumes))

    def add(self) -> Membership:
        """With one more member, under a number never used before."""
        return Membership(self.last + 1, {**self.volumes, self.last + 1: ""})

    def remove(self, number: int) -> Membership:
        """Without a member; its number stays used."""
        return replace(self, volumes={n: uid for n, uid in self.volumes.items() if n != number})

    def made(self, number: int, uid: str) -> Membership:
        """With the uid of the member's data claim noted."""
        return replace(self, volumes={**self.volumes, number: uid})

    def annotations(self) -> dict[str, str]:
        """As annotations of the Lease."""
        members = {str(number): self.volumes[number] for number in self.numbers}
        return {LEASE_LAST_NUMBER: str(self.last), MEMBERS: msgspec.json.encode(members).decode()}

    @classmethod
    def parse(cls, annotations: Mapping[str, str]) -> Membership:
        """Read from annotations; what is missing or spoilt reads as nothing, and the greatest number seen is kept."""
        volumes: dict[int, str] = {}
        try:
            raw = msgspec.json.decode(annotations.get(MEMBERS, "{}"), type=dict[str, str])
            volumes = {int(number): uid for number, uid in raw.items()}
        except (msgspec.DecodeError, ValueError):
            volumes = {}
        last = annotations.get(LEASE_LAST_NUMBER, "")
        return cls(max([int(last) if last.isdigit() else 0, *volumes]), volumes)


@dataclass(frozen=True, slots=True)
class Asked:
    """The owner's last switchover request: the annotation as it was seen last.

    An annotation stays where it is, and others switch over, too (a rolling update, say). So a request is one turn of the
    annotation, to another value or from none to any, has an id of its own, and was begun once for all.

    Attributes:
        count: how many requests there have been.
        value: of the annotation, None while there is none.
        begun: a primary has begun this one.
        refused: why this one cannot be, "" when it can; it stays refused, also when it could be carried out later.
    """

    count: int = 0
    value: str | None = None
    begun: bool = False
    refused: str = ""

    @property
    def id(self) -> str:
        """The id of the request; "" while there is none."""
        if self.value is None:
            return ""
        name = self.value or BEST
        return f"{name}#{self.count}" if self.count > 1 else name

    def seen(self, value: str | None, begun: str) -> Asked:
        """After a look at the annotation, and at the id of the switchover that was begun last."""
        found = self if value == self.value else Asked(self.count + (value is not None), value)
        return replace(found, begun=found.begun or (found.value is not None and begun == found.id))

    def annotations(self) -> dict[str, str]:
        """As annotations of the Lease; none before the first request."""
        return {ASKED: msgspec.json.encode(self).decode()} if self.count else {}

    @classmethod
    def parse(cls, annotations: Mapping[str, str]) -> Asked:
        """Read from annotations; what is missing or spoilt reads as nothing asked yet."""
        try:
            return msgspec.json.decode(annotations.get(ASKED, "{}"), type=cls)
        except (msgspec.DecodeError, ValueError):
            return cls()


def lease(names: Names, engine: str, membership: Membership, asked: Asked) -> dict[str, Any]:
    """The operator's part of the Lease, for server-side apply."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": names.lease,
            "namespace": names.namespace,
            "labels": names.labels(engine),
            "annotations": {**membership.annotations(), **asked.annotations()},
        },
    }


def reign(annotations: Mapping[str, str]) -> dict[str, str]:
    """The marks among a Lease's annotations that must survive it."""
    return {name: annotations[name] for name in REIGN if annotations.get(name)}
