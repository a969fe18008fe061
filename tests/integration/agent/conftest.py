"""Instances on this machine."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import FakeCluster, World
from postgres import make_bucket
from yoban.model.instance import StoreDocument

if TYPE_CHECKING:
    from deploy.lab.store import LocalStore


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    cluster = FakeCluster()
    await cluster.start()
    yield cluster
    await cluster.stop()


@pytest.fixture
def make_world(cluster: FakeCluster, request: pytest.FixtureRequest) -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(engine: str = "toy", version: str = "1", instances: int = 1) -> World:
        world = World(cluster, engine=engine, version=version, instances=instances)
        worlds.append(world)
        world.make_lease()
        return world

    yield make
    for world in worlds:
        for pod in world.pods.values():
            if pod.log.exists():
                print(f"--- log of {pod.name}\n{pod.problems()}")
        world.close()


@pytest.fixture
async def bucket(local_store: LocalStore) -> StoreDocument:
    """A bucket of its own."""
    return await make_bucket(local_store)
