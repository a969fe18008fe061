"""The in-memory store against the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from yoban.plugins import ObjectStore, StoreConfig
from yoban.testing.faulty_store import FaultyStore
from yoban.testing.memory_store import MemoryProvider, MemoryStore
from yoban.testing.objectstore import ObjectStoreContract, Outage


class TestMemoryStore(ObjectStoreContract):
    @pytest.fixture
    def provider(self) -> MemoryProvider:
        provider = MemoryProvider()
        MemoryStore(provider.cloud)  # makes the bucket `default`
        return provider

    @pytest.fixture
    def config(self) -> StoreConfig:
        return StoreConfig(bucket="default")

    @pytest.fixture
    def outage(self, provider: MemoryProvider) -> Outage:
        return Outage(provider.cloud.stop, provider.cloud.start)


class LesserProvider(MemoryProvider):
    """Put, get, list and delete, and nothing more."""

    capabilities = frozenset()

    @asynccontextmanager
    async def open(self, config: StoreConfig) -> AsyncIterator[ObjectStore]:
        yield MemoryStore(self.cloud, config.bucket, config.prefix, frozenset())


class TestStoreWithoutCapabilities(TestMemoryStore):
    @pytest.fixture
    def provider(self) -> MemoryProvider:
        provider = LesserProvider()
        MemoryStore(provider.cloud)
        return provider


class FaultyProvider(MemoryProvider):
    """No fault injected: it must be as good as the store inside."""

    @asynccontextmanager
    async def open(self, config: StoreConfig) -> AsyncIterator[ObjectStore]:
        yield FaultyStore(MemoryStore(self.cloud, config.bucket, config.prefix))


class TestFaultyStoreWithoutFaults(TestMemoryStore):
    @pytest.fixture
    def provider(self) -> MemoryProvider:
        provider = FaultyProvider()
        MemoryStore(provider.cloud)
        return provider
