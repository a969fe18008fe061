"""Opens the object stores that the mounted configuration names, and the repositories in them.

Guarantees: a store is opened once for each configuration and closed when that changes or the agent ends; users of the old
one get Unavailable-like errors and come again. Opening does no I/O.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from yoban.agent.document import Configuration
from yoban.model.instance import StoreDocument
from yoban.plugins import ObjectStore, StoreConfig
from yoban.plugins.registry import Registry
from yoban.repository import Repository, RetryPolicy

log = logging.getLogger("yoban.agent.storage")
IMPATIENT = RetryPolicy(attempts=3, call_seconds=30.0)
"""How the archive is written: who stores the log comes again by himself, and must tell soon that it fails."""
CLOSE_AFTER = 30.0
"""Seconds for which a store that was replaced stays open: calls under way may end."""


def store_config(document: StoreDocument) -> StoreConfig:
    """Return a store's configuration as providers want it."""
    return StoreConfig(
        bucket=document.bucket,
        prefix=document.prefix,
        endpoint=document.endpoint,
        region=document.region,
        ca_bundle=document.ca_bundle.encode(),
        credentials=document.credentials,
    )


class Storage:
    """The stores of one instance. `archive` and `source` are cheap and may be called each time one is needed."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._open: dict[str, tuple[StoreDocument, str, Repository, contextlib.AsyncExitStack]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def archive(self, configuration: Configuration) -> Repository | None:
        """Return the repository that this Database writes to; None when none is configured.

        Raises InvalidInput or Unsupported when the store's configuration cannot work.
        """
        document = configuration.document
        if document.archive is None:
            return None
        return await self._repository("archive", configuration.store, document.archive.path)

    async def source(self, configuration: Configuration) -> Repository | None:
        """Return the repository that this Database is restored from, None when it is not. Raises as `archive`."""
        document = configuration.document
        if document.restore is None:
            return None
        return await self._repository("source", configuration.source, document.restore.path)

    async def _repository(self, name: str, store: StoreDocument | None, path: str) -> Repository | None:
        opened = self._open.get(name)
        if opened is not None:
            if (opened[0], opened[1]) == (store, path):
                return opened[2]
            del self._open[name]
            task = asyncio.create_task(_close_later(opened[3]))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        if store is None:
            return None
        provider = self._registry.store_provider(store.provider)
        config = store_config(store)
        provider.check(config)
        stack = contextlib.AsyncExitStack()
        opened_store: ObjectStore = await stack.enter_async_context(provider.open(config))
        repository = Repository(opened_store, path, retry=IMPATIENT if name == "archive" else None)
        self._open[name] = (store, path, repository, stack)
        log.info("store opened", extra={"use": name, "provider": store.provider, "path": path})
        return repository

    async def close(self) -> None:
        """Close all stores."""
        for task in self._closing:
            task.cancel()
        for _, _, _, stack in self._open.values():
            await stack.aclose()
        self._open.clear()


async def _close_later(stack: contextlib.AsyncExitStack) -> None:
    try:
        await asyncio.sleep(CLOSE_AFTER)
    finally:
        await stack.aclose()
