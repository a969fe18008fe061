"""Object stores as resources describe them: their configuration with credentials, and open stores to work with.

Guarantees: reading a configuration asks the API server at most, never the store; an open store is shared by content, so a
changed credential opens another and the old one is closed when nobody uses it any more. Credentials never reach a log or
a message. Does not tell whether a store can be reached.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec

from yoban.errors import InvalidInput, NotFound
from yoban.kube.client import Client
from yoban.kube.clock import Clock, SystemClock
from yoban.kube.objects import Obj, ObjectKey
from yoban.kube.resource import SECRET
from yoban.model.instance import StoreDocument
from yoban.model.objectstore import ObjectStore as StoreResource
from yoban.plugins import ObjectStore, StoreConfig
from yoban.plugins.registry import Registry
from yoban.telemetry import remember_secret

SECRET_SECONDS = 10.0
"""How long a Secret that was read counts as current."""
OPEN = 64
"""Stores kept open while nobody uses them, at most."""


@dataclass(slots=True)
class _Open:
    store: ObjectStore
    context: AbstractAsyncContextManager[ObjectStore]
    users: int = 0


def store_config(document: StoreDocument) -> StoreConfig:
    """Return what a provider opens a store with."""
    return StoreConfig(
        bucket=document.bucket,
        prefix=document.prefix,
        endpoint=document.endpoint,
        region=document.region,
        ca_bundle=document.ca_bundle.encode(),
        credentials=dict(document.credentials),
    )


class Stores:
    """All ObjectStores of the cluster.

    Args:
        client: the way to the API server.
        registry: providers.
        find: an ObjectStore resource by key, from a cache; None when there is none.
        clock: for the age of Secrets.
    """

    def __init__(
        self,
        client: Client,
        registry: Registry,
        find: Callable[[ObjectKey], Obj | None],
        *,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._registry = registry
        self._find = find
        self._clock = clock or SystemClock()
        self._secrets: dict[ObjectKey, tuple[float, dict[str, str]]] = {}
        self._last: dict[str, StoreDocument] = {}
        self._open: OrderedDict[str, _Open] = OrderedDict()

    async def document(self, namespace: str, name: str) -> StoreDocument:
        """Return how to reach the ObjectStore, credentials included.

        Raises:
            NotFound: there is no such ObjectStore (`StoreMissing`), or no such Secret (`SecretMissing`).
            InvalidInput: the Secret lacks an entry (`SecretMissing`), the provider is unknown or refuses the
                configuration.
            Unsupported: the provider's plugin is disabled.
            Retryable: the API server does not answer.
        """
        found = self._find(ObjectKey(namespace, name))
        if found is None:
            raise NotFound(
                "there is no such ObjectStore",
                object=f"ObjectStore {namespace}/{name}",
                fix="create it, or correct the name",
                reason="StoreMissing",
            )
        return await self.describe(StoreResource.parse(found))

    async def describe(self, resource: StoreResource, *, fresh: bool = False) -> StoreDocument:
        """Return how to reach this ObjectStore. `fresh`: read its Secret again. Raises as `document`."""
        spec = resource.spec
        provider = self._registry.store_provider(spec.provider)
        credentials: dict[str, str] = {}
        if spec.credentials is not None:
            key = ObjectKey(resource.metadata.namespace, spec.credentials.secret)
            credentials = await self._credentials(key, fresh=fresh)
            missing = [entry for entry in provider.secret_keys if not credentials.get(entry)]
            if missing:
                raise InvalidInput(
                    f"the Secret has no entry {', '.join(missing)}",
                    object=f"Secret {key}",
                    fix=f"add it: {'; '.join(f'{entry}: {provider.secret_keys[entry]}' for entry in missing)}",
                    reason="SecretMissing",
                )
        document = StoreDocument(
            provider=spec.provider,
            bucket=spec.bucket,
            prefix=spec.prefix,
            endpoint=spec.endpoint,
            region=spec.region,
            ca_bundle=spec.ca_bundle,
            credentials=credentials,
        )
        provider.check(store_config(document))
        self._last[resource.metadata.uid] = document
        return document

    def remembered(self, uid: str) -> StoreDocument | None:
        """Return the last good configuration of an ObjectStore, for a clean-up after its Secret went; None: never seen."""
        return self._last.get(uid)

    def forget(self, uid: str) -> None:
        """The ObjectStore is gone."""
        self._last.pop(uid, None)

    @asynccontextmanager
    async def using(self, document: StoreDocument) -> AsyncIterator[ObjectStore]:
        """Hand out the open store of a configuration; opened when nobody had it. Does no I/O by itself.

        Raises:
            InvalidInput, Unsupported: the provider is unknown, disabled, or refuses the configuration.
        """
        key = hashlib.sha256(msgspec.json.encode(document, order="deterministic")).hexdigest()
        entry, spare = self._open.get(key), None
        if entry is None:
            context = self._registry.store_provider(document.provider).open(store_config(document))
            opened = _Open(await context.__aenter__(), context)
            entry = self._open.setdefault(key, opened)
            spare = opened if entry is not opened else None  # another one opened it meanwhile
        entry.users += 1
        self._open.move_to_end(key)
        try:
            if spare is not None:
                await spare.context.__aexit__(None, None, None)
            yield entry.store
        finally:
            entry.users -= 1
            await self._trim(OPEN)

    async def close(self) -> None:
        """Close what nobody uses. Called at the end of the process, after all users ended."""
        await self._trim(0)

    async def _trim(self, limit: int) -> None:
        idle = [key for key, entry in self._open.items() if not entry.users]
        async with AsyncExitStack() as stack:
            # None of them can be found any more when the first is closed, which takes time.
            for key in idle[: max(0, len(self._open) - limit)]:
                stack.push_async_exit(self._open.pop(key).context)

    async def _credentials(self, key: ObjectKey, *, fresh: bool) -> dict[str, str]:
        now = self._clock.monotonic()
        known = self._secrets.get(key)
        if known is not None and not fresh and now - known[0] < SECRET_SECONDS:
            return known[1]
        self._secrets = {name: entry for name, entry in self._secrets.items() if now - entry[0] < SECRET_SECONDS}
        secret = await self._client.find(SECRET, key.name, key.namespace)
        if secret is None:
            raise NotFound(
                "the Secret with the credentials is missing",
                object=f"Secret {key}",
                fix="create it; the store is looked at again by itself",
                reason="SecretMissing",
            )
        entries = {name: _decode(key, name, text) for name, text in (secret.get("data") or {}).items()}
        remember_secret(*(value for value in entries.values() if len(value) >= 8))
        self._secrets[key] = (now, entries)
        return entries


def _decode(key: ObjectKey, name: str, text: str) -> str:
    try:
        return base64.b64decode(text).decode().strip("\r\n")
    except (binascii.Error, UnicodeDecodeError):
        raise InvalidInput(
            f"entry {name} of the Secret is no text",
            object=f"Secret {key}",
            fix="write it as UTF-8",
            reason="SecretMissing",
        ) from None
