"""Which stores are open, when they are closed, and what a provider that fails becomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rig import STORE, Rig, fill, repository, stored, until
from yoban.agent import storage
from yoban.agent.document import Configuration
from yoban.agent.storage import Storage
from yoban.errors import InvalidInput, Terminal, Unavailable
from yoban.model.control import JobRequest
from yoban.model.instance import StoreDocument
from yoban.plugins import Buffer, ObjectInfo, ObjectStore, StoreConfig
from yoban.testing.memory_engine import MemoryEngine
from yoban.testing.memory_store import MemoryCloud, MemoryProvider, MemoryStore

OTHER = msgspec.structs.replace(STORE, credentials={"key": "another"})


class Watched(MemoryStore):
    """A store that knows whether it is closed, and can hold back the data of base backups."""

    gate: asyncio.Event | None = None
    closed = False
    waiting = 0

    async def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> ObjectInfo:
        if self.gate is not None and "/data/" in key:
            self.waiting += 1
            await self.gate.wait()
        if self.closed:
            raise Unavailable("the store is closed", object=key)
        return await super().put(key, data, if_absent=if_absent)


class Provider(MemoryProvider):
    """Opens slowly, and remembers what it opened."""

    def __init__(self, cloud: MemoryCloud) -> None:
        super().__init__(cloud)
        self.stores: list[Watched] = []
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None
        self.error_at_close: Exception | None = None

    @asynccontextmanager
    async def open(self, config: StoreConfig) -> AsyncIterator[ObjectStore]:
        if self.error is not None:
            raise self.error
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        store = Watched(self.cloud, config.bucket, config.prefix)
        store.gate = self.gate
        self.stores.append(store)
        try:
            yield store
        finally:
            store.closed = True
            if self.error_at_close is not None:
                raise self.error_at_close

    @property
    def open_now(self) -> list[Watched]:
        return [store for store in self.stores if not store.closed]


@pytest.fixture
def provider(cloud: MemoryCloud) -> Provider:
    return Provider(cloud)


@pytest.fixture
async def rig(tmp_path: Path, provider: Provider) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "rig", provider, engine=MemoryEngine)
    yield rig
    await rig.close()


@pytest.fixture
async def stores(rig: Rig) -> AsyncIterator[Storage]:
    stores = Storage(rig.registry)
    yield stores
    await stores.close()


def configuration(rig: Rig, store: StoreDocument | None = STORE) -> Configuration:
    """What is asked of the instance, with this store."""
    return replace(rig.agent().instance.configuration, store=store)


async def test_bug_several_at_once_opened_a_store_each(rig: Rig, stores: Storage, provider: Provider) -> None:
    """The last one won, and those of the others were closed under them."""
    given = await asyncio.gather(*(stores.archive(configuration(rig)) for _ in range(5)))
    assert len(provider.stores) == 1
    assert all(one is given[0] for one in given)
    assert len(provider.open_now) == 1


async def test_a_store_that_is_replaced_is_closed_when_nobody_uses_it(
    rig: Rig, stores: Storage, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "CLOSE_AFTER", 0)
    old = await stores.archive(configuration(rig))
    assert old is not None
    async with stores.using(old):
        async with stores.using(old):
            new = await stores.archive(configuration(rig, OTHER))
            assert new is not old
            assert await stores.archive(configuration(rig, OTHER)) is new
            await asyncio.sleep(0.05)
        async with stores.using(old):  # also one that comes late
            await asyncio.sleep(0.05)
        assert len(provider.open_now) == 2
    await until("the old one is closed", lambda: provider.stores[0].closed)
    assert not provider.stores[1].closed
    with pytest.raises(Unavailable):
        async with stores.using(old):
            pass


async def test_calls_under_way_have_time_to_end(rig: Rig, stores: Storage, provider: Provider) -> None:
    await stores.archive(configuration(rig))
    assert await stores.archive(configuration(rig, None)) is None
    assert await stores.archive(configuration(rig, None)) is None
    await asyncio.sleep(0.05)
    assert len(provider.open_now) == 1
    await stores.close()
    assert provider.open_now == []


async def test_closing_closes_everything_at_once(
    rig: Rig, stores: Storage, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await stores.archive(configuration(rig))
    assert old is not None
    async with stores.using(old):
        await stores.archive(configuration(rig, OTHER))
        provider.error_at_close = RuntimeError("cannot close")
        await stores.close()  # before the task that closes the old one had its first turn
    assert provider.open_now == []
    await stores.close()


async def test_bug_a_base_backup_lost_its_store_when_credentials_changed(
    rig: Rig, provider: Provider, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It failed after hours at its next put, and so did its clean-up."""
    monkeypatch.setattr(storage, "CLOSE_AFTER", 0)
    provider.gate = asyncio.Event()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    await fill(rig, agent, 5)
    await stored(agent)
    agent.jobs.put("b", JobRequest(kind="backup", id="20260101T000000Z-aaaaaa"))
    await until("it copies", lambda: provider.stores[0].waiting)
    rig.store = OTHER
    rig.change()
    await until("the new store is in use", lambda: len(provider.stores) > 1)
    await stored(agent)
    assert not provider.stores[0].closed
    provider.gate.set()

    async def ended() -> Any:
        status = await agent.jobs.get("b", 1.0)
        return status if status is not None and status.state != "running" else None

    status = await until("it ended", ended)
    assert status.state == "completed", status
    assert await repository(cloud).backups.ids() == ["20260101T000000Z-aaaaaa"]
    await until("the old store is closed", lambda: provider.stores[0].closed)
    assert len(provider.open_now) == 1


@pytest.mark.parametrize("where", ["check", "open"])
async def test_bug_a_provider_s_own_error_ended_the_agent(
    rig: Rig, stores: Storage, provider: Provider, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def fails(config: StoreConfig) -> Any:
        raise ValueError("Invalid endpoint: s3.example")

    monkeypatch.setattr(provider, where, fails)
    with pytest.raises(Terminal) as error:
        await stores.archive(configuration(rig))
    assert (error.value.object, error.value.reason) == ("memory bucket backups", "StoreFailed")
    assert "Invalid endpoint" in error.value.cause
    assert error.value.fix


async def test_what_a_provider_says_itself_is_passed_on(rig: Rig, stores: Storage, provider: Provider) -> None:
    provider.error = InvalidInput("no such region", object="spec.region")
    with pytest.raises(InvalidInput):
        await stores.archive(configuration(rig))
    provider.error = None
    assert await stores.archive(configuration(rig)) is not None


async def test_an_agent_outlives_a_store_that_cannot_be_opened(rig: Rig, provider: Provider) -> None:
    agent = rig.agent()
    agent.start()
    await agent.ready()
    await stored(agent)
    provider.error = ValueError("Invalid endpoint")
    rig.store = OTHER
    rig.change()
    await fill(rig, agent, 30)
    await until("it is told", lambda: "Invalid endpoint" in agent.parts.shipper.error)
    assert agent.parts.ready()
    provider.error = None
    await stored(agent)
    await until("it works again", lambda: agent.parts.shipper.failing_since is None)
