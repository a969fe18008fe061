"""Who owns a repository, and whether its data exists.

Guarantees: of any number of claimants one wins, and every other one learns who did without having changed anything. The
owner is known by its incarnation, not by the engine's id of the data, which a restored copy shares. Does not keep two
processes of the same incarnation apart: that is the Lease's work.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from yoban.errors import NotFound, OwnedByAnother, Retryable, Terminal
from yoban.model.instance import Struct
from yoban.plugins import ObjectStore
from yoban.repository.access import Access, RetryPolicy
from yoban.repository.codec import FORMAT, seal_struct, unseal_struct
from yoban.repository.layout import Layout

KIND = "identity"


class Identity(Struct):
    """Owner of a repository.

    Attributes:
        incarnation: id of this life of the data.
        uid, namespace, name: of the Database.
        engine: its engine, `version` the major version at the time of the claim.
        system_id: the engine's own id of the data, "" until it exists.
        initialized: the data exists; nothing may ever be initialised again under this identity.
        created: when it was claimed (UTC).
        origin: `new`, or `restore <path> <backup>`.
        spec: what is needed to make the Database again without the cluster; no secrets.
    """

    format: int = FORMAT
    incarnation: str
    uid: str
    namespace: str
    name: str
    engine: str
    version: str = ""
    system_id: str = ""
    initialized: bool = False
    created: datetime
    origin: str = "new"
    spec: dict[str, Any] = msgspec.field(default_factory=dict)


class IdentityObject:
    """The identity object of one repository."""

    def __init__(self, access: Access, layout: Layout) -> None:
        self._access = access
        self._key = layout.identity

    async def read(self) -> Identity | None:
        """Return the identity, None when it is proven absent. Raises IntegrityError when it is damaged."""
        blob = await self._access.read(self._key)
        return None if blob is None else unseal_struct(blob, self._key, KIND, KIND, Identity)

    async def claim(self, identity: Identity) -> Identity:
        """Make the repository ours. May be called again, by any instance of the same incarnation.

        Returns:
            the identity that is stored; an earlier one of the same incarnation wins over the argument.

        Raises:
            OwnedByAnother: another incarnation, or another Database, has it.
        """
        for _ in range(2):
            if await self._access.create(self._key, seal_struct(KIND, KIND, identity)):
                return identity
            found = await self.read()
            if found is not None:
                return self._ours(found, identity.incarnation, identity.uid)
        raise Retryable("the identity appeared and went again", object=self._key, fix="try again")

    def _ours(self, found: Identity, incarnation: str, uid: str = "") -> Identity:
        if found.incarnation == incarnation and uid in ("", found.uid):
            return found
        raise OwnedByAnother(
            "the repository belongs to another Database",
            object=self._key,
            cause=f"it was claimed by {found.namespace}/{found.name}, incarnation {found.incarnation}, "
            f"on {found.created.isoformat()}",
            fix="use another prefix or another ObjectStore; nothing was changed",
        )

    async def mark_initialized(
        self, incarnation: str, *, system_id: str = "", origin: str = "", spec: dict[str, Any] | None = None
    ) -> Identity:
        """Note that the data exists. Called again with nothing new, it writes nothing.

        Raises:
            NotFound: the repository has not been claimed.
            OwnedByAnother: it is not this incarnation's.
        """
        found = await self._current(incarnation)
        wanted = msgspec.structs.replace(
            found,
            initialized=True,
            system_id=system_id or found.system_id,
            origin=origin or found.origin,
            spec=found.spec if spec is None else spec,
        )
        if wanted != found:
            await self._access.put(self._key, seal_struct(KIND, KIND, wanted))
        return wanted

    async def update_spec(self, incarnation: str, spec: dict[str, Any]) -> bool:
        """Store what a rebuild needs; True when it had changed. Raises as `mark_initialized`."""
        found = await self._current(incarnation)
        if found.spec == spec:
            return False
        await self._access.put(self._key, seal_struct(KIND, KIND, msgspec.structs.replace(found, spec=spec)))
        return True

    async def _current(self, incarnation: str) -> Identity:
        found = await self.read()
        if found is None:
            raise NotFound("the repository has not been claimed", object=self._key)
        return self._ours(found, incarnation)


@dataclass(frozen=True, slots=True)
class RepositoryRef:
    """A repository found in a store: its root, its owner (None when the identity is missing or unreadable), and why."""

    root: str
    identity: Identity | None
    problem: str = ""


async def discover(store: ObjectStore, prefix: str = "", *, retry: RetryPolicy | None = None) -> list[RepositoryRef]:
    """Find the repositories below `prefix` ("", `<namespace>/`, `<namespace>/<name>/`) with two calls for each.

    Raises:
        Retryable: the store could not be listed.
    """
    access = Access(store, retry=retry)
    found: list[RepositoryRef] = []
    after = ""
    while (key := await access.first(prefix, after)) is not None:
        parts = key.split("/")
        if len(parts) < 4:  # an object of somebody else's beside the repositories
            after = key
            continue
        root = "/".join(parts[:3])
        try:
            found.append(RepositoryRef(root, await IdentityObject(access, Layout(root)).read()))
        except Terminal as error:
            found.append(RepositoryRef(root, None, str(error)))
        after = root + "/\U0010ffff"
    return found
