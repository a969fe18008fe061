from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from yoban.plugins import BackupItem, BytesItem, DirectoryItem, LinkItem
from yoban.repository import Repository, RetryPolicy
from yoban.testing.clock import LoopClock, VirtualClockLoop
from yoban.testing.faulty_store import FaultyStore
from yoban.testing.memory_store import MemoryCloud, MemoryStore

from tests.unit.repository.parts import EPOCH, ROOT, file_item, mixed, noise

MIB = 1 << 20


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


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


@pytest.fixture
def items(data: Path) -> list[BackupItem]:
    """A small data folder with everything that can be in one."""
    big = bytearray(mixed(15 * MIB))
    big[5 * MIB : 8 * MIB] = bytes(3 * MIB)
    return [
        DirectoryItem("base", 0o750),
        DirectoryItem("base/empty"),
        DirectoryItem("late", 0o500),
        file_item(data, "base/big", bytes(big), mode=0o640, mtime=1_700_000_000.0),
        file_item(data, "base/noise", noise(7 * MIB)),
        file_item(data, "base/empty-file", b""),
        *(file_item(data, f"base/small{number}", mixed(number * 100)) for number in range(50)),
        LinkItem("base/link", "big"),
        BytesItem("made", b"made up", mode=0o644),
        file_item(data, "control", b"the control file", last=True),
        BytesItem("very-last", b"z", last=True),
    ]
