"""Segments ahead of replay: what is handed over, what is missing, what stops a restore (failures 8 to 12)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from yoban.agent import prefetch as module
from yoban.agent.prefetch import Prefetch
from yoban.domain.history import StoredBackup
from yoban.domain.recoverability import Plan
from yoban.errors import IntegrityError, NotFound, Retryable
from yoban.plugins import BackupFacts, LogRequest, LogVerb, Position, RecoveryPlan, RecoveryTarget, Window
from yoban.repository import Repository, RetryPolicy
from yoban.testing.memory_data import SEGMENT
from yoban.testing.memory_engine import MemoryEngine
from yoban.testing.memory_store import MemoryCloud, MemoryStore

SIZE = SEGMENT
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def name(number: int, line: int = 1) -> str:
    return f"{line:04d}-{number:08d}"


def content(number: int) -> bytes:
    return bytes([number % 251]) * SIZE


async def until(so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not so():
            await asyncio.sleep(0.01)


def plan(last: int, *, tail: int = 0, lines: tuple[str, ...] = ("1",), first: str = "") -> Plan:
    facts = BackupFacts("b", "1", Position("0"), Position("0"), NOW, NOW)
    window = Window(NOW, NOW, None, Position("0"), lines[-1])
    recovery = RecoveryPlan(RecoveryTarget(), lines[-1], Position("0"), Position("0"))
    return Plan(StoredBackup(facts, first), recovery, window, lines, name(last, int(lines[-1])), tail)


class Bench:
    def __init__(self, cloud: MemoryCloud, folder: Path) -> None:
        self.cloud = cloud
        retry = RetryPolicy(attempts=1, call_seconds=5)
        self.repository = Repository(MemoryStore(cloud, "backups"), "shop/orders/0123456789ab", retry=retry)
        self.source = MemoryEngine().log_source
        self.folder = folder
        self.wanted = folder / "wanted"
        self.wanted.mkdir(parents=True)

    async def store(self, *numbers: int, line: int = 1) -> None:
        for number in numbers:
            file = self.folder / "x"
            file.write_bytes(content(number))
            await self.repository.log.put_segment(str(line), name(number, line), file)

    async def open(self, chosen: Plan) -> Prefetch:
        it = Prefetch(self.repository, self.source, chosen, SIZE, self.folder / "ahead")
        await it.start()
        return it

    async def get(self, it: Prefetch, segment: str) -> bytes:
        path = self.wanted / "RECOVERY"
        path.unlink(missing_ok=True)
        await it.answer(LogRequest(LogVerb.RESTORE, segment, path))
        return path.read_bytes()


@pytest.fixture
def bench(cloud: MemoryCloud, tmp_path: Path) -> Bench:
    return Bench(cloud, tmp_path / "bench")


async def test_segments_in_order_are_there_before_they_are_asked_for(bench: Bench) -> None:
    await bench.store(*range(40))
    it = await bench.open(plan(39))
    assert await bench.get(it, name(0)) == content(0)
    for _ in range(200):
        if (bench.folder / "ahead" / name(5)).exists():
            break
        await asyncio.sleep(0.01)
    bench.cloud.stop()
    for number in range(1, 6):
        assert await bench.get(it, name(number)) == content(number)
    bench.cloud.start()
    for number in range(6, 40):
        assert await bench.get(it, name(number)) == content(number)
    await it.close()
    assert not (bench.folder / "ahead").exists()


async def test_what_is_asked_for_first_is_fetched_before_it_is(bench: Bench) -> None:
    await bench.store(*range(40))
    it = await bench.open(plan(39, first=name(3)))
    ahead = bench.folder / "ahead"
    wanted = {name(number) for number in range(3, 4 + module.MOST_AHEAD)}
    await until(lambda: {path.name for path in ahead.iterdir()} == wanted)
    bench.cloud.stop()
    assert await bench.get(it, name(3)) == content(3)
    bench.cloud.start()
    await it.close()


async def test_room_ahead_is_bounded(bench: Bench) -> None:
    await bench.store(*range(60))
    it = await bench.open(plan(59))
    await bench.get(it, name(0))
    await asyncio.sleep(0.5)
    assert len(list((bench.folder / "ahead").iterdir())) <= module.MOST_AHEAD
    await it.close()


async def test_the_end_is_missing_and_asks_nobody(bench: Bench) -> None:
    await bench.store(0, 1, 2, 3)
    it = await bench.open(plan(2))
    bench.cloud.stop()
    with pytest.raises(NotFound):
        await bench.get(it, name(3))
    with pytest.raises(NotFound):
        await bench.get(it, name(0, line=7))
    assert it.failure is None
    await it.close()


async def test_failure_10_a_miss_of_the_look_ahead_is_no_end(bench: Bench) -> None:
    """A segment that another line has: absent here, and said so without stopping anything."""
    await bench.store(0, 1, 2)
    await bench.store(2, 3, line=2)
    it = await bench.open(plan(3, lines=("1", "2")))
    with pytest.raises(NotFound):
        await bench.get(it, name(0, line=2))
    assert await bench.get(it, name(0)) == content(0)
    assert await bench.get(it, name(3, line=2)) == content(3)
    assert it.failure is None
    await it.close()


async def test_failure_11_a_store_that_does_not_answer_is_never_the_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STORE_DEADLINE", 0.2)
    await bench.store(0, 1)
    it = await bench.open(plan(1))
    bench.cloud.stop()
    with pytest.raises(Retryable) as failed:
        await bench.get(it, name(1))
    assert not isinstance(failed.value, NotFound)
    assert it.failure is not None
    assert name(1) in str(it.failure)
    await it.close()


async def test_a_store_that_comes_back_in_time_is_waited_for(bench: Bench) -> None:
    await bench.store(0)
    it = await bench.open(plan(0))
    bench.cloud.stop()
    asked = asyncio.create_task(bench.get(it, name(0)))
    await asyncio.sleep(0.3)
    bench.cloud.start()
    assert await asyncio.wait_for(asked, 10) == content(0)
    await it.close()


async def test_a_hole_in_the_middle_stops_it_by_name(bench: Bench) -> None:
    await bench.store(0, 2)
    it = await bench.open(plan(2))
    with pytest.raises(IntegrityError) as failed:
        await bench.get(it, name(1))
    assert failed.value.reason == "LogGap"
    assert name(1) in failed.value.object
    assert it.failure is failed.value
    await it.close()


async def test_failure_12_a_damaged_object_stops_it_by_name(bench: Bench) -> None:
    await bench.store(0, 1)
    key = next(key for key in bench.cloud.buckets["backups"].objects if key.endswith(name(1)))
    stored: Any = bench.cloud.buckets["backups"].objects[key]
    data = bytearray(stored.data)
    data[-3] ^= 0xFF
    stored.data = bytes(data)
    it = await bench.open(plan(1))
    with pytest.raises(IntegrityError) as failed:
        await bench.get(it, name(1))
    assert name(1) in failed.value.object
    assert not (bench.wanted / "RECOVERY").exists()
    await it.close()


async def test_the_tail_is_joined_and_padded_only_at_the_end(bench: Bench) -> None:
    await bench.store(0)
    await bench.repository.tail.put("1", 1, name(1), 0, b"a" * 100)
    await bench.repository.tail.put("1", 1, name(1), 100, b"b" * 50)
    it = await bench.open(plan(1, tail=150))
    assert await bench.get(it, name(0)) == content(0)
    data = await bench.get(it, name(1))
    assert len(data) == SIZE
    assert data.rstrip(b"\0") == b"a" * 100 + b"b" * 50
    # A server that was restarted asks again.
    assert await bench.get(it, name(1)) == data
    await it.close()


@pytest.mark.parametrize("whole", [False, True], ids=["in chunks", "whole"])
async def test_bug_what_was_stored_behind_the_end_of_the_plan_was_handed_over(bench: Bench, whole: bool) -> None:
    await bench.store(0)
    await bench.repository.tail.put("1", 1, name(1), 0, b"a" * 100)
    it = await bench.open(replace(plan(1, tail=100), most=70))
    if whole:
        await bench.store(1, 2)
    else:
        await bench.repository.tail.put("1", 1, name(1), 100, b"b" * 50)
    assert await bench.get(it, name(0)) == content(0)
    data = await bench.get(it, name(1))
    assert len(data) == SIZE
    assert data.rstrip(b"\0") == (content(1) if whole else b"a" * 100)[:70]
    with pytest.raises(NotFound, match="past the end"):
        await bench.get(it, name(2))
    await it.close()
    none = await bench.open(replace(plan(1), most=0))
    with pytest.raises(NotFound, match="past the end"):
        await bench.get(none, name(1))
    await none.close()


async def test_a_segment_that_goes_meanwhile_is_a_gap(bench: Bench) -> None:
    await bench.store(0, 1, 2)
    it = await bench.open(plan(2))
    await bench.repository.log.delete("1", [name(2)])
    with pytest.raises(IntegrityError) as failed:
        await bench.get(it, name(2))
    assert failed.value.reason == "LogGap"
    await it.close()


async def test_bug_the_last_segment_that_went_was_called_missing_and_waited_for_for_ever(bench: Bench) -> None:
    await bench.store(0, 1)
    chosen = plan(2)  # it was there when the restore was planned
    it = await bench.open(chosen)
    with pytest.raises(IntegrityError) as failed:
        await bench.get(it, name(2))
    assert failed.value.reason == "LogGap"
    assert it.failure is failed.value
    await it.close()
    tail = await bench.open(plan(2, tail=100))
    with pytest.raises(IntegrityError) as failed:
        await bench.get(tail, name(2))
    assert failed.value.reason == "LogGap"
    await tail.close()


async def test_bug_a_tail_whose_server_lives_on_failed_the_restore(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.store(0)
    join = bench.repository.tail.join

    async def compacted(*arguments: Any, **more: Any) -> int:
        """Between the listing and the reading of chunks they became one."""
        monkeypatch.setattr(bench.repository.tail, "join", join)
        await bench.repository.tail.compact("1", 1, name(1), b"a" * 150)
        raise IntegrityError("a chunk of the tail went while it was read", reason="LogGap")

    async def completed(*arguments: Any, **more: Any) -> int:
        """The segment is stored whole, and its chunks went."""
        monkeypatch.setattr(bench.repository.tail, "join", join)
        await bench.store(1)
        await bench.repository.tail.clear("1", name(1))
        return await join(*arguments, **more)

    await bench.repository.tail.put("1", 1, name(1), 0, b"a" * 100)
    it = await bench.open(plan(1, tail=100))
    monkeypatch.setattr(bench.repository.tail, "join", compacted)
    assert (await bench.get(it, name(1))).rstrip(b"\0") == b"a" * 150
    monkeypatch.setattr(bench.repository.tail, "join", completed)
    assert await bench.get(it, name(1)) == content(1)
    assert it.failure is None
    await it.close()
