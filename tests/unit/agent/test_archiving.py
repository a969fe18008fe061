"""Whole agents: what is stored of the log, what is told of it, and what is kept; each against state that is looked at."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rig import (
    MakeRig,
    fill,
    pair,
    repository,
    stored,
    until,
)
from yoban.agent import room, shipper, tailer
from yoban.agent.reserve import NAME
from yoban.errors import Unavailable
from yoban.plugins import Position
from yoban.testing.memory_sets import SetsEngine, SetsLog
from yoban.testing.memory_store import MemoryCloud


async def test_bug_a_mark_promised_bytes_of_the_tail_that_could_not_be_read(
    make_rig: MakeRig, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    await stored(agent)
    looks = 0

    def gone(path: object, start: int, size: int) -> bytes:
        nonlocal looks
        looks += 1
        return b""

    monkeypatch.setattr(tailer, "_read", gone)
    await rig.driver.write(agent.context, "row")
    await until("a round has ended, and another one has begun", lambda: looks > 1)
    mark = await repository(cloud).marks.newest()
    assert mark is not None
    chunks = await repository(cloud).tail.chunks(mark.line, mark.segment)
    assert mark.flushed <= max((chunk.end for chunk in chunks), default=0)


async def test_every_instance_is_told_what_is_stored(
    make_rig: MakeRig, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailer, "FOLLOW_EVERY", 0.2)
    rig = make_rig(instances=2, engine=SetsEngine)
    first, second = await pair(rig)
    await fill(rig, first, 5)
    await stored(first)
    log, log_covers = rig.engine.log_source, rig.engine.positions.covers
    assert isinstance(log, SetsLog)

    def told() -> bool:
        known = [log.told.get(agent.context.data) for agent in (first, second)]
        return all(one is not None and log_covers(one, Position("1:1-6")) for one in known)

    await until("both know", told)


async def test_bug_log_that_need_not_be_stored_is_recycled(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a policy nobody told a server that keeps its log until it is told; its volume filled without a word."""
    monkeypatch.setattr(tailer, "FOLLOW_EVERY", 0.2)
    rig = make_rig(instances=2, engine=SetsEngine, archive=False)
    first, second = await pair(rig)
    await fill(rig, first, 5)
    log, log_covers = rig.engine.log_source, rig.engine.positions.covers
    assert isinstance(log, SetsLog)

    def told() -> bool:
        known = [log.told.get(agent.context.data) for agent in (first, second)]
        return all(one is not None and log_covers(one, Position("1:1-6")) for one in known)

    await until("both know", told)


async def test_a_store_that_fails_is_told_with_what_is_kept(make_rig: MakeRig, cloud: MemoryCloud) -> None:
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    await stored(agent)
    cloud.stop()
    await fill(rig, agent, 100)
    await until("it is told", lambda: "ArchiveFailing" in agent.reasons(), 60)
    archive = agent.status.archive
    assert archive.failing_since is not None
    assert archive.backlog > 0
    assert agent.parts.ready()
    cloud.start()
    await until(
        "it caught up", lambda: "ArchiveFailing" not in agent.reasons() and not agent.status.archive.backlog, 40
    )
    await stored(agent)


async def test_bug_a_replica_tells_no_failure_when_it_is_over(make_rig: MakeRig, cloud: MemoryCloud) -> None:
    """Only a primary ever took the failure back."""
    rig = make_rig(instances=2)
    first, second = rig.agent(1), rig.agent(2)
    first.start()
    await first.ready()
    second.start()
    await second.ready()
    await stored(first)
    cloud.stop()
    await fill(rig, first, 100)
    second.parts.shipper._failed(Unavailable("the store is away", object="it"))
    await until("it is told", lambda: "ArchiveFailing" in second.reasons(), 30)
    cloud.start()
    second.parts.shipper._worked()
    await until("it is over", lambda: "ArchiveFailing" not in second.reasons(), 30)
    assert second.status.archive.failing_since is None


async def test_log_that_is_kept_is_told_before_the_volume_is_full(
    make_rig: MakeRig, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a volume of two MiB, and a clock that leaps from look to look."""
    rig = make_rig()
    agent = rig.agent()
    kept = 0

    async def retained(self: object, ctx: object) -> int:
        return kept

    def volume(path: object) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=(2 << 20) - kept, f_frsize=1, f_blocks=2 << 20)

    monkeypatch.setattr(type(rig.engine.log_source), "retained_bytes", retained)
    monkeypatch.setattr(tailer.os, "statvfs", volume)
    monkeypatch.setattr(tailer, "FIGURES_EVERY", 0.0)
    monkeypatch.setattr(room, "LASTING", 0.0)
    monkeypatch.setattr(room, "LEAST", 0.0)
    agent.start()
    await agent.ready()
    await until("the room is looked at", lambda: agent.status.archive.limit_bytes == 2 << 20)
    assert not agent.reasons()
    kept = 1 << 20
    await until("it is told", lambda: agent.status.archive.room, 10)
    assert agent.status.archive.failing_since is None, "the store is well: it is only slower"
    (told,) = agent.status.problems
    assert told.reason in ("LogFilling", "LogNearlyFull")
    assert told.message.startswith("1.0 MiB of log are not stored yet, of 2.0 MiB that the volume can hold; ")
    assert told.message.endswith("; writes stop when it is full")
    assert told.fix == "enlarge spec.storage.size, or write less until what waits is stored"
    kept = 2000 << 10
    await until("it is told again", lambda: agent.reasons() == ["LogNearlyFull"], 10)
    cloud.stop()
    await fill(rig, agent, 100)
    await until("the store is named", lambda: "ArchiveFailing" in agent.reasons(), 60)
    told = next(problem for problem in agent.status.problems if problem.reason == "LogNearlyFull")
    assert told.fix == "make the object store reachable; a larger spec.storage.size gains time"
    cloud.start()
    kept = 0
    await until("it is over", lambda: not agent.reasons(), 60)


async def test_the_reserve_is_given_when_everything_is_stored_and_not_before(
    make_rig: MakeRig, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, looks = 1 << 20, 0

    def volume(path: object) -> SimpleNamespace:
        nonlocal looks
        looks += 1
        return SimpleNamespace(f_bavail=free, f_frsize=1, f_blocks=1 << 20)

    async def looked() -> None:
        after = looks + 2
        await until("it was looked at twice", lambda: looks >= after)

    monkeypatch.setattr(tailer.os, "statvfs", volume)
    monkeypatch.setattr(tailer, "FIGURES_EVERY", 0.0)
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    await stored(agent)
    reserve = agent.context.data.parent / NAME
    await until("it is made", reserve.exists)
    cloud.stop()
    await fill(rig, agent, 100)
    await until("the failure is told", lambda: "ArchiveFailing" in agent.reasons(), 60)
    free = 0
    await looked()
    assert reserve.exists()
    # A new agent does not know what waits, nor that the store is down.
    await agent.again()
    await looked()
    assert reserve.exists()
    await until("the failure is told again", lambda: "ArchiveFailing" in agent.reasons(), 60)
    assert reserve.exists()
    cloud.start()
    await until("it is given", lambda: not reserve.exists(), 40)
    free = 1 << 20
    await until("it is made again", reserve.exists)


async def test_other_content_under_a_segments_name_is_an_error(make_rig: MakeRig, cloud: MemoryCloud) -> None:
    """Failure 6: same name, other bytes: never overwritten, and told."""
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    await stored(agent)
    foreign = rig.folder / "foreign"
    foreign.write_bytes(b"x" * 4096)
    await repository(cloud).log.put_segment("1", "0001-00000001", foreign)
    await fill(rig, agent, 100)
    await until("it is told", lambda: "SegmentConflict" in agent.reasons())
    info = await repository(cloud).log.describe("1", "0001-00000001")
    assert info.size == 4096
    answer = await agent.processes.ask.answer("archive\t0001-00000001\tlog/0001-00000001")  # type: ignore[union-attr]
    assert answer.startswith("error")


async def test_bug_a_segment_that_was_refused_stayed_so_when_somebody_had_cleared_it_up(
    make_rig: MakeRig, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipper, "REFUSED_AGAIN", 0.1)
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    await stored(agent)
    foreign = rig.folder / "foreign"
    foreign.write_bytes(b"x" * 4096)
    await repository(cloud).log.put_segment("1", "0001-00000001", foreign)
    await fill(rig, agent, 100)
    await until("it is told", lambda: "SegmentConflict" in agent.reasons())
    refused = await repository(cloud).log.describe("1", "0001-00000001")
    await repository(cloud).log.delete("1", ["0001-00000001"])
    await until("it is told no more", lambda: "SegmentConflict" not in agent.reasons())
    assert (await repository(cloud).log.describe("1", "0001-00000001")).sha256 != refused.sha256
