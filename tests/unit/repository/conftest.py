from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from yoban.repository import Repository, RetryPolicy
from yoban.testing.clock import LoopClock, VirtualClockLoop
from yoban.testing.faulty_store import FaultyStore
from yoban.testing.memory_store import MemoryCloud, MemoryStore

from tests.unit.repository.parts import EPOCH, ROOT


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, type[asyncio.AbstractEventLoop]]:
    return {"virtual": VirtualClockLoop}


@pytest.fixture
def clock() -> LoopClock:
    return LoopClock(EPOCH)


@pytest.fixture
def memory(clock: LoopClock) -> MemoryStore:
    return MemoryStore(MemoryCloud(clock.now))


@pytest.fixture
def store(memory: MemoryStore) -> FaultyStore:
    return FaultyStore(memory)


@pytest.fixture
def repo(store: FaultyStore, clock: LoopClock) -> Repository:
    return Repository(store, ROOT, clock=clock, retry=RetryPolicy(attempts=4, call_seconds=20), random=lambda: 0.0)
