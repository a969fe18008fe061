"""What the reconciler needs of the world beside the API server: agents, stores, catalogues.

Guarantees of every implementation: nothing here waits for an agent or a store. Answers are what observers found last;
a question that was never asked before is noted, and the Database's key is enqueued when there is an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from yoban.domain.recoverability import Plan
from yoban.domain.summary import Fault
from yoban.kube.objects import ObjectKey
from yoban.model.control import AgentStatus, Push
from yoban.model.instance import Member, StoreDocument
from yoban.plugins import Engine, RecoveryTarget, Window


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM texts by which agents of one Database are reached: trusted certificates, the operator's pair."""

    ca: str
    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Catalogued:
    """What was found in a repository.

    Attributes:
        window: proven to be restorable.
        newest_backup: end of the newest usable base backup.
        looked_at: when somebody looked.
        hindrance: why not everything that is stored can be restored (`yoban.domain.recoverability.hindrance`).
        fault: why the last look failed; the rest is then of the look before.
    """

    window: Window | None = None
    newest_backup: datetime | None = None
    looked_at: datetime | None = None
    hindrance: Fault | None = None
    fault: Fault | None = None


class Agents(Protocol):
    """The agents of all Databases, observed by tasks of their own."""

    def observe(self, key: ObjectKey, members: Sequence[Member], credentials: Credentials) -> None:
        """Keep an eye on these instances, and no others, of the Database. The same again is cheap."""
        ...

    def statuses(self, key: ObjectKey) -> Mapping[str, AgentStatus]:
        """What each instance that answers told last, by name; those not heard from lately are left out."""
        ...

    def push(self, key: ObjectKey, push: Push) -> None:
        """Bring this to every observed instance, again and again until each has it or a later one replaces it."""
        ...

    def forget(self, key: ObjectKey) -> None:
        """Stop observing; a Database not known is fine."""
        ...


class Stores(Protocol):
    """ObjectStores by name."""

    async def document(self, namespace: str, name: str) -> StoreDocument:
        """How to reach the store, credentials included. Reads the API server at most, never the store.

        Raises:
            InvalidInput, NotFound: there is no such ObjectStore (`StoreMissing`), its Secret or an entry of it is missing
                (`SecretMissing`), its provider is unknown or disabled.
        """
        ...


class Catalogues(Protocol):
    """What is in repositories, looked up by observers."""

    def look(self, key: ObjectKey, store: StoreDocument, path: str, engine: Engine) -> Catalogued | None:
        """What was found at `path` last; None when nobody looked yet. `key` is enqueued on changes."""
        ...

    def plan(
        self, key: ObjectKey, store: StoreDocument, path: str, engine: Engine, target: RecoveryTarget
    ) -> Plan | None:
        """How `target` would be restored from `path`; None when nobody looked yet.

        Raises:
            InvalidInput, NotFound, IntegrityError, Unsupported: it cannot be; see `yoban.domain.recoverability.plan`.
            Retryable: the store could not be read.
        """
        ...

    def forget(self, key: ObjectKey) -> None:
        """Stop looking for this Database."""
        ...
