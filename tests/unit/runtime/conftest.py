"""Everything here runs on virtual time: a test of ten minutes takes milliseconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from yoban.kube.client import Client
from yoban.kube.informer import Informer
from yoban.kube.resource import CONFIG_MAP
from yoban.testing.apiserver import FakeApiServer
from yoban.testing.clock import LoopClock, VirtualClockLoop


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual": VirtualClockLoop}


@pytest.fixture
def clock() -> LoopClock:
    return LoopClock()


@pytest.fixture
async def server(clock: LoopClock) -> FakeApiServer:
    return FakeApiServer(clock=clock)


@pytest.fixture
async def client(server: FakeApiServer) -> AsyncIterator[Client]:
    async with Client(server, random=lambda: 0.5) as client:
        yield client


@pytest.fixture
async def informer(client: Client) -> Informer:
    return Informer(client, CONFIG_MAP)
