"""Whole agents: base backups and restores; each against state that is looked at."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from rig import (
    DATABASE,
    ENGINES,
    INCARNATION,
    NAMESPACE,
    STORE,
    Agent,
    MakeRig,
    backup,
    copying,
    fill,
    pair,
    repository,
    restoring,
    role,
    stored,
    until,
)
from yoban.agent import restorer
from yoban.agent.marker import read_marker
from yoban.model.control import ShipRequest
from yoban.model.instance import ArchiveDocument, RestoreDocument, SwitchoverDocument, TargetDocument
from yoban.plugins import InstanceContext, RecoveryPlan, RecoveryProgress, RecoveryReached, RecoveryState, StopMode
from yoban.repository import StoredSegment
from yoban.testing.memory_engine import MemoryEngine
from yoban.testing.memory_sets import SetsEngine
from yoban.testing.memory_store import MemoryCloud


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_log_is_stored_and_restored_to_a_moment(
    make_rig: MakeRig, cloud: MemoryCloud, engine: type[MemoryEngine]
) -> None:
    rig = make_rig(engine=engine)
    agent = rig.agent()
    agent.start()
    await agent.ready()
    await fill(rig, agent, 10, "a")
    done = await backup(agent)
    assert done.state == "completed", done
    await fill(rig, agent, 70, "b")
    await asyncio.sleep(0.01)
    moment = datetime.now(UTC)
    await asyncio.sleep(0.01)
    await fill(rig, agent, 70, "c")
    await stored(agent)
    await until("whole segments are stored", lambda: not agent.status.archive.backlog)
    assert await repository(cloud).log.stored("1")

    copy = make_rig(engine=engine)
    copy.source = STORE
    copy.document = msgspec.structs.replace(
        copy.document,
        incarnation="ba9876543210",
        uid="uid-2",
        archive=ArchiveDocument(path=f"{NAMESPACE}/{DATABASE}/ba9876543210", rpo_seconds=1),
        restore=RestoreDocument(
            path=f"{NAMESPACE}/{DATABASE}/{INCARNATION}",
            target=TargetDocument(type="time", value=moment.isoformat()),
        ),
    )
    before = {key: item.data for key, item in cloud.buckets["backups"].objects.items()}
    second = copy.agent()
    second.start()
    await second.ready()
    texts = await copy.driver.read(second.context)
    assert {text for text in texts if text[0] in "ab"} == {f"a-{n}" for n in range(10)} | {f"b-{n}" for n in range(70)}
    assert not [text for text in texts if text[0] == "c"]
    assert second.status.restore is not None
    assert second.status.restore.state == "done"
    marker = read_marker(second.context)
    assert marker is not None
    assert marker.origin == "restore"
    await stored(second)
    # Nothing of the old life was touched (its own agent moves its mark on).
    for key, data in before.items():
        if "/marks/" not in key and "/tail/" not in key:
            assert cloud.buckets["backups"].objects[key].data == data


async def test_bug_retention_was_not_told_of_a_restore_before_it_was_planned(
    make_rig: MakeRig, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    assert (await backup(agent)).state == "completed"
    await stored(agent)
    held: list[bool] = []
    real = restorer.history

    def seen(*arguments: Any) -> Any:
        held.append(any("/restores/" in key for key in cloud.buckets["backups"].objects))
        return real(*arguments)

    monkeypatch.setattr(restorer, "history", seen)
    second = copying(make_rig)
    second.start()
    await second.ready()
    assert held and all(held)
    assert not any("/restores/" in key for key in cloud.buckets["backups"].objects)


class Asks:
    """A recovery that asks to be started anew, each time with the next of these words; then it goes on."""

    def __init__(self, agent: Agent, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
        self.words = list(words)
        self.calls: list[str] = []
        engine = agent.rig.engine
        self.real = engine.recovery.progress
        monkeypatch.setattr(engine.recovery, "progress", self.progress)
        for part, name in ((engine.recovery, "prepare"), (engine.server, "configure"), (agent.rig.runner, "start")):
            monkeypatch.setattr(part, name, self.noted(name, getattr(part, name)))

    def noted(self, name: str, real: Any) -> Any:
        async def call(*arguments: Any, **more: Any) -> Any:
            self.calls.append(name)
            return await real(*arguments, **more)

        return call

    async def progress(self, ctx: InstanceContext, plan: RecoveryPlan) -> RecoveryProgress:
        if self.words:
            return RecoveryProgress(RecoveryState.RESTART, message=self.words.pop(0))
        return await self.real(ctx, plan)


async def test_bug_a_restore_of_a_log_with_higher_limits_never_ended(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = await restoring(make_rig)
    asks = Asks(second, monkeypatch, "a limit is too low", "another one is")
    second.start()
    await second.ready()
    assert asks.calls[:9] == ["configure", "prepare", "start"] * 3, "the settings follow the data each time"
    assert await second.rig.driver.read(second.context) == {f"row-{n}" for n in range(20)}


async def test_a_restart_that_does_not_help_fails_the_restore(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = await restoring(make_rig)
    Asks(second, monkeypatch, "a limit is too low", "a limit is too low")
    second.start()
    await until("it is told", lambda: "RestoreFailed" in second.reasons())
    assert "a limit is too low" in second.status.problems[-1].message
    assert second.supervision.gone()


async def test_bug_a_restore_that_flushed_for_minutes_was_begun_again(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving recovery and the stop after it write to disk what replay changed: no time for small things will do."""
    second = await restoring(make_rig)
    given: dict[str, float] = {}
    asked: list[float] = []
    finish, stop = second.rig.engine.recovery.finish, second.supervision.stop

    class Timed:
        """asyncio, that notes deadlines."""

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

        def timeout(self, seconds: float) -> asyncio.Timeout:
            asked.append(seconds)
            return asyncio.timeout(seconds)

    async def leave(ctx: InstanceContext, plan: RecoveryPlan) -> RecoveryReached:
        given["finish"] = asked[-1]
        return await finish(ctx, plan)

    async def end(mode: StopMode, seconds: float) -> bool:
        given.setdefault(mode.value, seconds)
        return await stop(mode, seconds)

    monkeypatch.setattr(restorer, "asyncio", Timed())
    monkeypatch.setattr(second.rig.engine.recovery, "finish", leave)
    monkeypatch.setattr(second.supervision, "stop", end)
    second.start()
    await second.ready()
    assert min(given["finish"], given["clean"]) >= 20 * 60, given


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_gap_stops_the_restore_by_name(
    make_rig: MakeRig, cloud: MemoryCloud, engine: type[MemoryEngine]
) -> None:
    rig = make_rig(engine=engine)
    agent = rig.agent()
    agent.start()
    await agent.ready()
    assert (await backup(agent)).state == "completed"
    await fill(rig, agent, 200)
    await stored(agent)
    await until("whole segments are stored", lambda: not agent.status.archive.backlog)
    await agent.end()
    names = [segment.name for segment in await repository(cloud).log.stored("1")]
    await repository(cloud).log.delete("1", [names[-2]])
    copy = make_rig(engine=engine)
    copy.source = STORE
    copy.document = msgspec.structs.replace(
        copy.document,
        incarnation="ba9876543210",
        uid="uid-2",
        archive=None,
        restore=RestoreDocument(path=f"{NAMESPACE}/{DATABASE}/{INCARNATION}"),
    )
    second = copy.agent()
    second.start()
    await until("it is told", lambda: "LogGap" in second.reasons())
    # Where names do not follow from each other, what the name begins with is all that is known.
    told = names[-2] if engine is MemoryEngine else f"{names[-2][:10]}*"
    assert told in second.status.problems[-1].message
    assert second.status.phase == "failed"


async def test_a_restore_goes_through_lines_that_overlap(make_rig: MakeRig, cloud: MemoryCloud) -> None:
    """The new primary's own files reach back before the fork; what the old one wrote past it is left out."""
    rig = make_rig(instances=2, engine=SetsEngine)
    first, second = await pair(rig)
    assert await until("labelled", lambda: role(rig, second)) == "replica"
    await fill(rig, first, 20, "a")
    done = await backup(first)
    assert done.state == "completed", done
    await fill(rig, first, 20, "b")
    await stored(first)
    rig.change(switchover=SwitchoverDocument(id="a", target="orders-2"))

    async def reigns() -> bool:
        return await role(rig, second) == "primary"

    await until("the second reigns", reigns)
    await second.ready()
    await first.ready()
    await fill(rig, second, 20, "c")
    await stored(second)
    await until("whole segments are stored", lambda: not second.status.archive.backlog)
    await first.end()
    await second.end()
    # Like the tail of a primary that died: it belongs to no history.
    names = [segment.name for segment in await repository(cloud).log.stored("1")]
    orphan = rig.folder / "orphan"
    orphan.write_text('[1, 42, "2026-01-01T00:00:00+00:00", "orphan"]\n')
    before = int(names[-1][-8:]) + 100
    await repository(cloud).log.put_segment("1", f"0001.{int(names[-1][5:9]) + 1:04d}.{before:08d}", orphan)
    copy = make_rig(engine=SetsEngine)
    copy.source = STORE
    copy.document = msgspec.structs.replace(
        copy.document,
        incarnation="ba9876543210",
        uid="uid-2",
        archive=None,
        restore=RestoreDocument(path=f"{NAMESPACE}/{DATABASE}/{INCARNATION}"),
    )
    third = copy.agent()
    third.start()
    await third.ready()
    assert await copy.driver.read(third.context) == {f"{kind}-{n}" for kind in "abc" for n in range(20)}


async def test_a_backup_from_a_replica_asks_the_primary_to_ship(
    make_rig: MakeRig, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(instances=2)
    first, second = await pair(rig)
    await fill(rig, first, 50)
    asked: list[tuple[str, ShipRequest]] = []

    async def at(address: str, request: ShipRequest) -> None:
        asked.append((address, request))
        await asyncio.wait_for(first.parts.shipping.here(request), 10)

    monkeypatch.setattr(type(second.parts.shipping), "at", lambda _, address, request: at(address, request))
    done = await backup(second, shipper="orders-1:8443")
    assert done.state == "completed", done
    assert done.backup is not None
    if asked:
        assert asked[0][0] == "orders-1:8443"
    summary = await repository(cloud).backups.summary(done.backup.id)
    assert summary.instance == "orders-2"


async def test_a_backup_without_its_log_is_none(make_rig: MakeRig, cloud: MemoryCloud) -> None:
    """Failure 2: the copy is made, a segment that it needs is not stored."""
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    await fill(rig, agent, 40)

    async def nothing_there(line: str, *, after: str = "") -> list[StoredSegment]:
        return []

    await stored(agent)
    configured = await agent.parts.shipper.repository()
    configured.log.stored = nothing_there  # type: ignore[method-assign]
    done = await backup(agent)
    assert done.state == "failed"
    assert done.problem is not None
    assert done.problem.reason == "LogGap"
    assert done.retryable
    assert not [key for key in cloud.buckets["backups"].objects if "/backups/" in key]
