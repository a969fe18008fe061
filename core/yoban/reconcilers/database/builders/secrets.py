"""The Secrets of a Database: account passwords, the connection for applications, and what agents need to reach
stores.

Guarantees: a password once made is kept for as long as its Secret lives; one that is missing is made anew, alone;
passwords have 256 random bits and no character that needs quoting anywhere. Nothing here is logged. Randomness is
only in `passwords`.
"""

from __future__ import annotations

import base64
import binascii
import secrets as randomness
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from yoban.kube.objects import Obj
from yoban.model.instance import STORE_FILE, StoreDocument
from yoban.plugins import AccountSpec, Endpoint, Engine
from yoban.reconcilers.database.builders.names import Names


def new_password() -> str:
    """A password of 43 characters out of A-Z, a-z, 0-9, `-` and `_`, from the system's randomness."""
    return randomness.token_urlsafe(32)


def decode(secret: Obj | None) -> dict[str, str]:
    """The entries of a Secret as text; empty for None. An entry that is no text is left out."""
    found: dict[str, str] = {}
    for name, value in ((secret or {}).get("data") or {}).items():
        try:
            found[name] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError, TypeError):
            continue
    return found


def encode(entries: Mapping[str, str]) -> dict[str, str]:
    """Text entries as the `data` of a Secret."""
    return {name: base64.b64encode(entries[name].encode()).decode() for name in sorted(entries)}


def passwords(
    accounts: Sequence[AccountSpec], known: Mapping[str, str], make: Callable[[], str] = new_password
) -> dict[str, str]:
    """A password for each purpose: the known one, or a new one."""
    return {account.purpose: known.get(account.purpose) or make() for account in accounts}


def accounts_secret(names: Names, engine: str, entries: Mapping[str, str]) -> dict[str, Any]:
    """The Secret with a password per purpose, mounted into every Pod."""
    return _secret(names, engine, names.accounts, entries)


def connection_secret(names: Names, engine: Engine, port: int, entries: Mapping[str, str]) -> dict[str, Any]:
    """The Secret for applications: how to reach the primary as the owner."""
    owner = next(account for account in engine.accounts(names.database) if account.purpose == "owner")
    endpoint = Endpoint(
        host=names.service_host(names.read_write),
        port=port,
        user=owner.user,
        password=entries["owner"],
        database=owner.database,
    )
    basic = {
        "host": endpoint.host,
        "port": str(port),
        "user": endpoint.user,
        "password": endpoint.password,
        "database": endpoint.database,
    }
    return _secret(names, engine.name, names.connection, {**engine.connection(endpoint), **basic})


def store_secret(names: Names, engine: str, name: str, store: StoreDocument | None) -> dict[str, Any]:
    """The Secret `name` with a store's configuration. It always exists; None says that there is no store."""
    text = msgspec.json.encode(store or StoreDocument(), order="sorted").decode()
    return _secret(names, engine, name, {STORE_FILE: text})


def _secret(names: Names, engine: str, name: str, entries: Mapping[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": name, "namespace": names.namespace, "labels": names.labels(engine)},
        "data": encode(entries),
    }
