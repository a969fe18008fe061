"""One file of the log on its way to the store: how long it may take, and what becomes of failures nobody foresaw."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rig import MakeRig, archiving, fill, until
from yoban.agent import shipper
from yoban.agent.shipper import Shipper
from yoban.plugins import LogSource, Segment, SegmentKind, SegmentName
from yoban.repository import Repository, RetryPolicy, segments
from yoban.testing.clock import LoopClock, VirtualClockLoop
from yoban.testing.faulty_store import Delay, FaultyStore
from yoban.testing.memory_store import MemoryStore

MIB = 1 << 20


class Shipping:
    """A shipper that writes to a store of ours, and nothing else of an agent."""

    def __init__(self, store: FaultyStore) -> None:
        self.repository = Repository(store, "shop/orders/0123456789ab", retry=RetryPolicy(attempts=1, call_seconds=60))

        async def nothing(context: object, segment: object) -> None:
            return None

        async def archive(configuration: object) -> Repository:
            return self.repository

        instance: Any = SimpleNamespace(
            engine=SimpleNamespace(log_source=SimpleNamespace(inspect=nothing, settled=nothing)),
            configuration=SimpleNamespace(document=None),
            context=None,
            clock=LoopClock(),
            storage=SimpleNamespace(archive=archive, using=lambda repository: nullcontext()),
        )
        self.shipper = Shipper(instance)
        self.shipper._ours = self.repository

    async def store(self, path: Path) -> float:
        """Store a file and return how many seconds it took."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        name = SegmentName(path.name, "1", SegmentKind.FULL)
        await self.shipper._upload(Segment(name, path, 0))
        return loop.time() - start


def virtually(call: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await call()

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(run())


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MAX_PUT", 2 * MIB)
    monkeypatch.setattr(segments, "_PART", 2 * MIB)


def test_bug_a_large_file_had_no_more_time_than_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What took longer than five minutes was begun anew for ever."""
    monkeypatch.setattr(shipper, "SEGMENT_DEADLINE", 5.0)
    path = tmp_path / "large"
    path.write_bytes(os.urandom(16 * MIB))
    faulty = FaultyStore(MemoryStore())

    async def check() -> None:
        rig = Shipping(faulty)
        faulty.inject("put_part", Delay(2.0), times=None)
        assert 16 <= await rig.store(path) < 21
        assert rig.shipper.error == ""
        assert rig.shipper.is_stored("large")

    virtually(check)


def test_a_file_that_takes_longer_than_its_size_allows_is_given_up_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipper, "SEGMENT_DEADLINE", 5.0)
    path = tmp_path / "large"
    path.write_bytes(os.urandom(16 * MIB))
    memory = MemoryStore()
    faulty = FaultyStore(memory)

    async def check() -> None:
        rig = Shipping(faulty)
        faulty.inject("put_part", Delay(4.0), times=None)
        assert await rig.store(path) == pytest.approx(5 + 16)
        assert "in time" in rig.shipper.error
        assert not rig.shipper.is_stored("large")
        assert memory.open_uploads == 0

    virtually(check)


def test_few_large_files_are_in_memory_at_once_and_waiting_costs_them_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipper, "SEGMENT_DEADLINE", 5.0)
    paths = [tmp_path / str(number) for number in range(5)]
    for path in paths:
        path.write_bytes(os.urandom(6 * MIB))
    memory = MemoryStore()
    faulty = FaultyStore(memory)
    most = 0

    async def check() -> None:
        nonlocal most
        rig = Shipping(faulty)
        faulty.inject("put_part", Delay(2.0), times=None)
        async with asyncio.TaskGroup() as group:
            for path in paths:
                group.create_task(rig.store(path))
            for _ in range(30):
                await asyncio.sleep(1)
                most = max(most, memory.open_uploads)
        assert rig.shipper.error == ""
        assert all(rig.shipper.is_stored(path.name) for path in paths)
        assert most == shipper.LARGE_AT_ONCE

    virtually(check)


async def test_bug_an_error_nobody_foresaw_ended_the_agent(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = make_rig()
    agent = await archiving(rig)
    source = rig.engine.log_source
    assert isinstance(source, LogSource)
    inspect = source.inspect

    async def fails(context: object, segment: object) -> None:
        raise ValueError("Invalid endpoint")

    monkeypatch.setattr(source, "inspect", fails)
    await fill(rig, agent, 30)
    await until("it is told", lambda: "ValueError: Invalid endpoint" in agent.parts.shipper.error)
    assert any(record.exc_info for record in caplog.records if record.name == shipper.log.name)
    assert agent.parts.ready()
    monkeypatch.setattr(source, "inspect", inspect)
    await until("it works again", lambda: agent.parts.shipper.failing_since is None)
    await until("all is stored", lambda: not agent.parts.shipper.pending)
