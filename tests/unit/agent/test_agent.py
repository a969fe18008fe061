"""Whole agents: creation, restart, replicas, switchover, archive, backup, restore; each against state that is looked at."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from rig import DATABASE, INCARNATION, NAMESPACE, STORE, Agent, Rig, until
from yoban.agent import decisions, life, restorer, room, shipper, tailer
from yoban.agent.marker import read_marker
from yoban.agent.reserve import NAME
from yoban.errors import Unavailable
from yoban.kube.resource import LEASE, POD
from yoban.model.control import JobRequest, JobStatus, ShipRequest
from yoban.model.instance import ArchiveDocument, RestoreDocument, SwitchoverDocument, TargetDocument
from yoban.plugins import InstanceContext, Position, Promotion, Role
from yoban.repository import Repository, StoredSegment
from yoban.testing.memory_engine import MemoryEngine
from yoban.testing.memory_sets import SetsEngine, SetsLog
from yoban.testing.memory_store import MemoryCloud, MemoryStore

MakeRig = Callable[..., Rig]
ENGINES = [MemoryEngine, SetsEngine]
"""With a log whose names follow from each other, and with one whose do not."""


def repository(cloud: MemoryCloud, incarnation: str = INCARNATION) -> Repository:
    return Repository(MemoryStore(cloud, "backups"), f"{NAMESPACE}/{DATABASE}/{incarnation}")


async def role(rig: Rig, agent: Agent) -> str:
    pod = await rig.client.get(POD, f"{agent.name}-0", NAMESPACE)
    return str(pod["metadata"]["labels"].get("yoban.dev/role", ""))


async def backup(agent: Agent, id: str = "20260101T000000Z-aaaaaa", shipper: str = "") -> JobStatus:
    agent.jobs.put(id, JobRequest(kind="backup", id=id, shipper=shipper))

    async def ended() -> JobStatus | None:
        status = await agent.jobs.get(id, 1.0)
        assert status is not None
        return status if status.state != "running" else None

    status = await until("the backup ended", ended)
    assert isinstance(status, JobStatus)
    return status


async def stored(agent: Agent, moment: datetime | None = None) -> None:
    moment = moment or datetime.now(UTC)
    await until(
        "it is stored",
        lambda: agent.status.archive.window_end is not None and agent.status.archive.window_end > moment,
    )


async def fill(rig: Rig, agent: Agent, count: int, prefix: str = "row") -> None:
    for number in range(count):
        await rig.driver.write(agent.context, f"{prefix}-{number}")


async def test_a_new_database(make_rig: MakeRig, cloud: MemoryCloud) -> None:
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    lease = await rig.lease()
    assert lease["spec"]["holderIdentity"] == "orders-1"
    assert lease["metadata"]["annotations"]["yoban.dev/initialized"] == INCARNATION
    assert await until("it is labelled", lambda: role(rig, agent)) == "primary"
    marker = read_marker(agent.context)
    assert marker is not None
    assert (marker.state, marker.reigned, marker.term, marker.origin) == ("ready", True, 1, "new")
    identity = await repository(cloud).identity.read()
    assert identity is not None
    assert identity.initialized
    assert identity.incarnation == INCARNATION
    await stored(agent)
    assert [(term.term, term.instance, term.parent) for term in await repository(cloud).terms.all()] == [
        (1, "orders-1", "")
    ]
    assert agent.supervision.fence_at is not None
    assert agent.status.phase == "running"


async def test_a_lost_record_of_the_reign_is_written_again(
    make_rig: MakeRig, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it reigns the primary knows what nobody else does: where its log left the one before."""
    monkeypatch.setattr(tailer, "RECORD_EVERY", 0.2)
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    await stored(agent)
    before = await repository(cloud).terms.all()
    objects = cloud.buckets["backups"].objects
    (key,) = [name for name in objects if "/terms/" in name]
    del objects[key]

    async def again() -> bool:
        return await repository(cloud).terms.all() == before

    await until("it is there again", again)


async def test_no_store_no_archive(make_rig: MakeRig, cloud: MemoryCloud) -> None:
    rig = make_rig(archive=False)
    agent = rig.agent()
    agent.start()
    await agent.ready()
    assert not agent.status.archive.active
    assert not cloud.buckets["backups"].objects


async def test_the_server_goes_on_under_a_new_agent(make_rig: MakeRig) -> None:
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    server = agent.supervision.server
    await agent.again()
    await agent.ready()
    assert server is not None
    assert agent.supervision.server is not None
    assert agent.supervision.server.pid == server.pid
    assert (await rig.lease())["metadata"]["annotations"]["yoban.dev/term"] == "1"


async def test_a_server_that_ends_is_started_again(make_rig: MakeRig) -> None:
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    await rig.runner.stop(agent.context)
    agent.supervision.died(-9)
    await until("it runs again", lambda: agent.supervision.server)
    await agent.ready()


async def test_the_pod_ends(make_rig: MakeRig) -> None:
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    await rig.driver.write(agent.context, "precious")
    agent.supervision.pod_ends()
    await agent.ended()
    assert agent.supervision.server is None
    lease = await rig.lease()
    assert lease["spec"]["holderIdentity"] == ""
    assert lease["metadata"]["annotations"]["yoban.dev/last-holder"] == "orders-1"
    agent.supervision.stop_by = None
    agent.make()
    agent.start()
    await agent.ready()
    assert await rig.driver.read(agent.context) == {"precious"}


async def test_nothing_is_made_while_the_store_is_silent(make_rig: MakeRig, cloud: MemoryCloud) -> None:
    rig = make_rig()
    cloud.stop()
    agent = rig.agent()
    agent.start()
    await until("it is told", lambda: "StoreUnavailable" in agent.reasons(), 40)
    assert not agent.context.data.exists()
    cloud.start()
    await agent.ready()


async def test_a_prefix_of_another_incarnation_is_refused(make_rig: MakeRig) -> None:
    first = make_rig()
    agent = first.agent()
    agent.start()
    await agent.ready()
    second = make_rig()
    second.document = msgspec.structs.replace(second.document, incarnation="ffffffffffff", uid="uid-2")
    other = second.agent()
    other.start()
    await until("it is told", lambda: "OwnedByAnother" in other.reasons())
    assert not other.context.data.exists()


async def test_all_volumes_gone_is_data_lost_even_with_a_new_lease(make_rig: MakeRig) -> None:
    """The repository's identity is the second proof."""
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    await agent.end()
    await rig.runner.stop(agent.context)
    agent.supervision._status = agent.supervision.server = None
    shutil.rmtree(agent.context.data.parent)
    rig.make_lease()
    await agent.again()
    await until("it is told", lambda: "DataLost" in agent.reasons())
    assert not agent.context.data.exists()


async def test_a_lease_that_somebody_took_ends_the_server(make_rig: MakeRig) -> None:
    rig = make_rig(instances=2)
    agent = rig.agent()
    agent.start()
    await agent.ready()

    def stolen(obj: dict[str, Any]) -> None:
        obj["spec"]["holderIdentity"] = "orders-2"
        obj["metadata"]["annotations"]["yoban.dev/last-holder"] = "orders-2"

    rig.api.edit(LEASE, NAMESPACE, f"{DATABASE}-primary", stolen)
    await until("it is not the primary any more", lambda: not agent.parts.ready())
    await until("it was ended", lambda: agent.supervision.last_exit)
    exited = agent.supervision.last_exit
    assert exited is not None
    assert exited.mode == "immediate"


async def test_replicas_and_a_switchover(make_rig: MakeRig, cloud: MemoryCloud) -> None:
    rig = make_rig(instances=2)
    first, second = rig.agent(1), rig.agent(2)
    first.start()
    second.start()
    await first.ready()
    await second.ready()
    assert await until("labelled", lambda: role(rig, second)) == "replica"
    await fill(rig, first, 40)
    rig.change(switchover=SwitchoverDocument(id="a", target="orders-2"))

    async def reigns() -> bool:
        return await role(rig, second) == "primary"

    await until("the second reigns", reigns)
    await second.ready()
    await first.ready()
    assert len(await rig.driver.read(second.context)) == 40
    await rig.driver.write(second.context, "after")
    notes = (await rig.lease())["metadata"]["annotations"]
    assert notes["yoban.dev/term"] == "2"
    assert "yoban.dev/successor" not in notes
    assert "yoban.dev/position" not in notes
    assert second.status.switchover.state == "done"
    await until("the first tells it", lambda: first.status.switchover.state == "done")
    await stored(second)
    terms = await repository(cloud).terms.all()
    assert [(term.term, term.instance, term.line, term.parent) for term in terms] == [
        (1, "orders-1", "1", ""),
        (2, "orders-2", "2", "1"),
    ]
    marker = read_marker(first.context)
    assert marker is not None
    assert not marker.reigned


async def test_bug_a_reign_was_recorded_with_the_fork_of_an_earlier_one(
    make_rig: MakeRig, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(instances=2)
    first, second = rig.agent(1), rig.agent(2)
    first.start()
    second.start()
    await first.ready()
    await second.ready()
    real, failed = rig.engine.server.configure, False

    async def configure(ctx: InstanceContext, role: Role, *arguments: Any, **more: Any) -> Any:
        """Fails once, right after the second promotion of the second instance."""
        nonlocal failed
        if asked == "c" and not failed and ctx.name == "orders-2" and role is Role.PRIMARY:
            failed = True
            raise Unavailable("it does not answer just now")
        return await real(ctx, role, *arguments, **more)

    monkeypatch.setattr(rig.engine.server, "configure", configure)
    for asked, agent in (("a", second), ("b", first), ("c", second)):
        await rig.driver.write(rig.agent(2 if agent is first else 1).context, asked)
        rig.change(switchover=SwitchoverDocument(id=asked, target=agent.name))
        await until(f"{agent.name} reigns", lambda agent=agent: agent.parts.life.role == "primary")
        await first.ready()
        await second.ready()
    assert failed
    await stored(second)
    terms = await repository(cloud).terms.all()
    assert [(term.term, term.instance, term.line, term.parent) for term in terms] == [
        (1, "orders-1", "1", ""),
        (2, "orders-2", "2", "1"),
        (3, "orders-1", "3", "2"),
        (4, "orders-2", "4", "3"),
    ]


async def test_bug_what_the_lease_told_of_another_s_term_was_taken_for_our_own(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    real, told = rig.engine.server.configure, list[int]()
    reigns = agent.parts.tailer.reigns

    def told_of(term: int, promotion: Promotion | None) -> None:
        told.append(term)
        reigns(term, promotion)

    def taken(lease: dict[str, Any]) -> None:
        lease["spec"]["holderIdentity"] = "orders-9"
        lease["metadata"]["annotations"]["yoban.dev/term"] = "9"

    async def configure(*arguments: Any, **more: Any) -> Any:
        done = await real(*arguments, **more)
        rig.api.edit(LEASE, NAMESPACE, f"{DATABASE}-primary", taken)
        await agent.parts.lease.refresh()
        return done

    monkeypatch.setattr(agent.parts.tailer, "reigns", told_of)
    monkeypatch.setattr(rig.engine.server, "configure", configure)
    await until("it was ended", lambda: agent.supervision.last_exit)
    assert 9 not in told


async def test_bug_the_lease_was_given_up_while_the_server_still_ran(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "FORCE_DEADLINE", 0.1)
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    real = agent.supervision._call

    async def deaf(verb: str, **fields: Any) -> dict[str, Any]:
        return {} if verb == "signal" else await real(verb, **fields)

    monkeypatch.setattr(agent.supervision, "_call", deaf)
    agent.supervision.pod_ends(2.0)
    await agent.ended()
    assert (await rig.lease())["spec"]["holderIdentity"] == "orders-1"


async def test_a_switchover_to_who_does_not_follow_changes_nothing(make_rig: MakeRig) -> None:
    rig = make_rig(instances=2)
    agent = rig.agent()
    agent.start()
    await agent.ready()
    server = agent.supervision.server
    rig.change(switchover=SwitchoverDocument(id="a", target="orders-2"))
    await until("it is told", lambda: agent.status.switchover.state == "failed")
    await asyncio.sleep(0.5)
    assert agent.supervision.server == server
    assert agent.parts.ready()


async def test_a_successor_that_does_not_come_is_not_waited_for(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "TAKE_BACK_AFTER", 1.0)
    rig = make_rig(instances=2)
    first, second = rig.agent(1), rig.agent(2)
    first.start()
    second.start()
    await first.ready()
    await second.ready()
    # Its agent dies; its server goes on following, so that it looks fit.
    await second.end()
    rig.change(switchover=SwitchoverDocument(id="a", target="orders-2"))
    await until("it was handed over", lambda: first.supervision.last_exit)
    await first.ready()
    assert first.status.switchover.state == "failed"
    assert (await rig.lease())["spec"]["holderIdentity"] == "orders-1"


async def test_settings_that_are_rejected_are_told(make_rig: MakeRig) -> None:
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    rig.change(settings={"known": "1", "strange": "2"})
    await until("it is told", lambda: agent.status.rejected)
    assert agent.status.rejected == {"strange": "unknown setting"}
    assert "SettingsRejected" in agent.reasons()
    rig.change(settings={"known": "1"})
    await until("it is well again", lambda: not agent.status.rejected and not agent.status.problems)


async def test_a_restart_is_done_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    rig.change(restart="2026-01-01")
    await until("it was restarted", lambda: agent.supervision.last_exit)
    await agent.ready()
    assert agent.status.restart == "2026-01-01"
    server = agent.supervision.server
    await asyncio.sleep(0.5)
    assert agent.supervision.server == server


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
    copy = make_rig()
    copy.source = STORE
    copy.document = msgspec.structs.replace(
        copy.document,
        incarnation="ba9876543210",
        uid="uid-2",
        archive=None,
        restore=RestoreDocument(path=f"{NAMESPACE}/{DATABASE}/{INCARNATION}", target=TargetDocument(type="latest")),
    )
    second = copy.agent()
    second.start()
    await second.ready()
    assert held and all(held)
    assert not any("/restores/" in key for key in cloud.buckets["backups"].objects)


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


async def test_every_instance_is_told_what_is_stored(
    make_rig: MakeRig, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailer, "FOLLOW_EVERY", 0.2)
    rig = make_rig(instances=2, engine=SetsEngine)
    first, second = rig.agent(1), rig.agent(2)
    first.start()
    second.start()
    await first.ready()
    await second.ready()
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
    first, second = rig.agent(1), rig.agent(2)
    first.start()
    second.start()
    await first.ready()
    await second.ready()
    await fill(rig, first, 5)
    log, log_covers = rig.engine.log_source, rig.engine.positions.covers
    assert isinstance(log, SetsLog)

    def told() -> bool:
        known = [log.told.get(agent.context.data) for agent in (first, second)]
        return all(one is not None and log_covers(one, Position("1:1-6")) for one in known)

    await until("both know", told)


async def test_a_restore_goes_through_lines_that_overlap(make_rig: MakeRig, cloud: MemoryCloud) -> None:
    """The new primary's own files reach back before the fork; what the old one wrote past it is left out."""
    rig = make_rig(instances=2, engine=SetsEngine)
    first, second = rig.agent(1), rig.agent(2)
    first.start()
    second.start()
    await first.ready()
    await second.ready()
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
    first, second = rig.agent(1), rig.agent(2)
    first.start()
    second.start()
    await first.ready()
    await second.ready()
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


async def test_answers_of_the_socket(make_rig: MakeRig) -> None:
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    await fill(rig, agent, 80)
    await until("a segment is stored", lambda: agent.parts.shipper.is_stored("0001-00000000"))
    ask = agent.processes.ask
    assert ask is not None
    assert await ask.answer("archive\t0001-00000000\tlog/0001-00000000") == "ok"
    assert await ask.answer("restore\t0001-00000000\tlog/fetched") == "ok"
    assert (agent.context.data / "log/fetched").stat().st_size == 4096
    assert await ask.answer("restore\t0001-00000099\tlog/fetched") == "missing"
    assert (await ask.answer("restore\tnonsense\tlog/x")).startswith("error")
    assert (await ask.answer("nonsense")).startswith("error")
