"""Everything here runs on virtual time: a test of a night takes milliseconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from yoban.testing.clock import LoopClock, VirtualClockLoop

from tests.unit.reconcilers.watch.world import World


def pytest_asyncio_loop_factories(config: Any, item: Any) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual": VirtualClockLoop}


@pytest.fixture
def clock() -> LoopClock:
    return LoopClock()


@pytest.fixture
async def world(clock: LoopClock) -> AsyncIterator[World]:
    """Running, with an empty bucket `backups`."""
    made = World(clock)
    await made.bucket("backups").bucket.create()  # type: ignore[union-attr]
    await made.start()
    yield made
    await made.stop()
