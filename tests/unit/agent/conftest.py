"""Whole agents in one process."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rig import Rig
from yoban.testing.memory_engine import MemoryEngine
from yoban.testing.memory_store import MemoryCloud, MemoryProvider


@pytest.fixture
def cloud() -> MemoryCloud:
    cloud = MemoryCloud()
    cloud.buckets["backups"] = _bucket()  # type: ignore[assignment]
    return cloud


def _bucket() -> object:
    from yoban.testing import memory_store

    return memory_store._Bucket()


@pytest.fixture
async def make_rig(tmp_path: Path, cloud: MemoryCloud) -> AsyncIterator[Callable[..., Rig]]:
    rigs: list[Rig] = []
    provider = MemoryProvider(cloud)

    def make(*, instances: int = 1, archive: bool = True, engine: type[MemoryEngine] = MemoryEngine) -> Rig:
        rig = Rig(tmp_path / str(len(rigs)), provider, instances=instances, archive=archive, engine=engine)
        rigs.append(rig)
        return rig

    yield make
    for rig in rigs:
        await rig.close()
