"""Opens the object stores that the mounted configuration names, and the repositories in them.

Guarantees: a store is opened once for each configuration, however many ask at the same time. When that changes the old store
is closed a while later, but never under work that holds it by `using`; who holds nothing gets Unavailable-like errors and
comes again. What a provider fails with is a `YobanError` that names the store. Opening does no I/O.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from yoban.agent.document import Configuration
from yoban.errors import Terminal, Unavailable, YobanError
from yoban.model.instance import StoreDocument
from yoban.plugins import ObjectStore, StoreConfig
from yoban.plugins.registry import Registry
from yoban.repository import Repository, RetryPolicy

log = logging.getLogger("yoban.agent.storage")
IMPATIENT = RetryPolicy(attempts=3, call_seconds=30.0)
"""How the archive is written: who stores the log comes again by himself, and must tell soon that it fails."""
CLOSE_AFTER = 30.0
"""Seconds for which a store that was replaced stays open at least: calls under way may end."""


@dataclass(slots=True, eq=False)
class _Open:
    """A repository in an open store, and how many work with it; `idle` while nobody does."""

    store: StoreDocument
    path: str
    repository: Repository
    stack: contextlib.AsyncExitStack
    users: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    async def close(self) -> None:
        try:
            await self.stack.aclose()
        except Exception:  # nobody's work hangs on it any more
            log.warning("a store could not be closed", exc_info=True)


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
    """The stores of one instance.

    `archive` and `source` are cheap and may be called each time one is needed; work that takes longer than moments holds
    what it got by `using`.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._open: dict[str, _Open] = {}
        self._replaced: dict[_Open, asyncio.Task[None]] = {}
        self._opening = asyncio.Lock()

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

    @contextlib.asynccontextmanager
    async def using(self, repository: Repository) -> AsyncIterator[None]:
        """Keep the store of a repository that we handed out open, whatever is configured meanwhile.

        Raises:
            Unavailable: it is closed already; the next `archive` or `source` gives the one in force.
        """
        opened = next((one for one in [*self._open.values(), *self._replaced] if one.repository is repository), None)
        if opened is None:
            raise Unavailable("the configuration of the object store changed", object=repository.root)
        opened.users += 1
        opened.idle.clear()
        try:
            yield
        finally:
            opened.users -= 1
            if not opened.users:
                opened.idle.set()

    async def _repository(self, name: str, store: StoreDocument | None, path: str) -> Repository | None:
        opened = self._current(name, store, path)
        if opened is not None or (store is None and name not in self._open):
            return opened
        async with self._opening:
            # Another one may have opened it while we waited.
            opened = self._current(name, store, path)
            if opened is not None:
                return opened
            if name in self._open:
                self._replace(self._open.pop(name))
            if store is None:
                return None
            stack = contextlib.AsyncExitStack()
            opened_store = await self._opened(stack, store)
            repository = Repository(opened_store, path, retry=IMPATIENT if name == "archive" else None)
            self._open[name] = _Open(store, path, repository, stack)
            log.info("store opened", extra={"use": name, "provider": store.provider, "path": path})
            return repository

    def _current(self, name: str, store: StoreDocument | None, path: str) -> Repository | None:
        """What is open for exactly this configuration."""
        opened = self._open.get(name)
        return opened.repository if opened is not None and (opened.store, opened.path) == (store, path) else None

    async def _opened(self, stack: contextlib.AsyncExitStack, store: StoreDocument) -> ObjectStore:
        """Open a store, to be closed with the stack. Raises YobanError, whatever its provider raises."""
        try:
            provider = self._registry.store_provider(store.provider)
            config = store_config(store)
            provider.check(config)
            return await stack.enter_async_context(provider.open(config))
        except YobanError:
            raise
        except Exception as error:
            log.warning("the provider of object stores %s failed", store.provider, exc_info=True)
            raise Terminal(
                "the object store cannot be opened",
                object=f"{store.provider} bucket {store.bucket}{f' at {store.endpoint}' if store.endpoint else ''}",
                cause=f"{type(error).__name__}: {error}",
                fix="correct endpoint, region, CA and credentials of the ObjectStore",
                reason="StoreFailed",
            ) from error

    def _replace(self, opened: _Open) -> None:
        task = asyncio.create_task(self._close_later(opened))
        self._replaced[opened] = task

    async def _close_later(self, opened: _Open) -> None:
        try:
            await asyncio.sleep(CLOSE_AFTER)
            await opened.idle.wait()
        finally:
            # Out of the list first: from now on nobody can take it into use.
            del self._replaced[opened]
            await opened.close()

    async def close(self) -> None:
        """Close all stores. Called at the end of the agent, after its work ended."""
        closing = list(self._replaced.values())
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)
        for opened in list(self._replaced):  # of a task that was cancelled before it began
            await opened.close()
        self._replaced.clear()
        while self._open:
            await self._open.popitem()[1].close()
