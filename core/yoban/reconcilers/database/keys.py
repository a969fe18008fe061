"""Passwords, the certificate authority and certificates: made once, kept, replaced when lost or due.

Guarantees: nothing random is made while the API server may still have what the cache does not know yet; a password
that exists is never replaced; the authority's key is written to the operator's namespace before anything is signed by
it; of a Secret that is not this Database's nothing is read.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from yoban.kube.objects import Obj, ObjectKey
from yoban.kube.resource import CONFIG_MAP, SECRET
from yoban.reconcilers.database.admit import Admitted
from yoban.reconcilers.database.builders import secrets
from yoban.reconcilers.database.builders.document import ca_config_map
from yoban.reconcilers.database.builders.names import Names
from yoban.reconcilers.database.caches import Caches
from yoban.reconcilers.database.ports import Credentials
from yoban.reconcilers.database.writer import Writer, ours
from yoban.telemetry import remember_secret

# What makes certificates is loaded with the first of them: 10 MB that an operator without Databases does not need.
if TYPE_CHECKING:
    from yoban.reconcilers.database.builders.authority import Authority


class Keys:
    """Ensures everything secret of a Database."""

    def __init__(self, writer: Writer, caches: Caches, operator_namespace: str) -> None:
        self._writer = writer
        self._caches = caches
        self._namespace = operator_namespace

    def known(self, names: Names) -> Credentials | None:
        """What agents are reached with, as the cache knows it; None when it does not (yet). Writes nothing."""
        entries = secrets.decode(self._caches.authorities.get(ObjectKey(self._namespace, names.ca)))
        ca, certificate, key = (entries.get(name, "") for name in ("ca.crt", "operator.crt", "operator.key"))
        return Credentials(ca, certificate, key) if ca and certificate and key else None

    async def accounts(self, admitted: Admitted, owner: Obj) -> dict[str, str]:
        """Passwords by purpose, and the connection Secret."""
        names, engine = admitted.names, admitted.engine
        accounts = engine.accounts(names.database)
        cached = ours(SECRET, self._caches.child(SECRET, names.namespace, names.accounts), owner)
        entries = secrets.decode(cached)
        if any(not entries.get(account.purpose) for account in accounts):
            # The cache may be behind our own write: a second password must not replace the first.
            cached = ours(SECRET, await self._writer.client.find(SECRET, names.accounts, names.namespace), owner)
            entries = secrets.decode(cached)
        entries = secrets.passwords(accounts, entries)
        remember_secret(*entries.values())
        await self._writer.ensure(SECRET, secrets.accounts_secret(names, engine.name, entries), cached, owner)
        connection = secrets.connection_secret(names, engine, admitted.blueprint.layout.port, entries)
        cached = self._caches.child(SECRET, names.namespace, names.connection)
        await self._writer.ensure(SECRET, connection, cached, owner)
        return entries

    async def authority(self, admitted: Admitted, owner: Obj, now: datetime) -> tuple[Authority, Credentials]:
        """The authority, with the operator's own certificate, and the public bundle in its ConfigMap."""
        from yoban.reconcilers.database.builders import certificates
        from yoban.reconcilers.database.builders.authority import Authority, renewed

        names = admitted.names
        public = ours(CONFIG_MAP, self._caches.child(CONFIG_MAP, names.namespace, names.public_ca), owner)
        cached = self._caches.authorities.get(ObjectKey(self._namespace, names.ca))
        authority = Authority.parse(secrets.decode(cached))
        if authority is None:
            cached = await self._writer.client.find(SECRET, names.ca, self._namespace)
            authority = Authority.parse(secrets.decode(cached))
        trusted = str(((public or {}).get("data") or {}).get("ca.crt", ""))
        authority = renewed(authority, f"{names.namespace}/{names.database}", now, trusted=trusted)
        entries = secrets.decode(cached)
        operator = certificates.operator_entries(authority, entries, now)
        desired = certificates.ca_secret(
            names, self._namespace, admitted.database.metadata.uid, {**authority.entries(), **operator}
        )
        await self._writer.ensure(SECRET, desired, cached, None)
        await self._writer.ensure(CONFIG_MAP, ca_config_map(admitted.blueprint, authority.bundle), public, owner)
        return authority, Credentials(authority.bundle, operator["operator.crt"], operator["operator.key"])

    async def certificates(
        self, admitted: Admitted, owner: Obj, number: int, authority: Authority, now: datetime
    ) -> None:
        """The certificates of one instance."""
        from yoban.reconcilers.database.builders import certificates

        names, engine = admitted.names, admitted.engine
        cached = self._caches.child(SECRET, names.namespace, names.tls(number))
        if cached is None:
            cached = await self._writer.client.find(SECRET, names.tls(number), names.namespace)
        ours(SECRET, cached, owner)
        entries = certificates.instance_entries(
            authority,
            names,
            number,
            engine.replication_user,
            secrets.decode(cached),
            now,
            admitted.blueprint.host_names,
        )
        desired = certificates.tls_secret(names, engine.name, number, entries)
        await self._writer.ensure(SECRET, desired, cached, owner)
