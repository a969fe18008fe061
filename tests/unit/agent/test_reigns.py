"""Whole agents: who reigns, switchover, and the record of each reign; each against state that is looked at."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest
from rig import (
    DATABASE,
    NAMESPACE,
    MakeRig,
    backup,
    fill,
    pair,
    repository,
    role,
    stored,
    until,
)
from yoban.agent import decisions, life, pace, switchover, tailer
from yoban.agent.marker import read_marker
from yoban.domain.gathering import history
from yoban.domain.recoverability import recoverable
from yoban.errors import Unavailable
from yoban.kube.clock import SystemClock
from yoban.kube.resource import LEASE
from yoban.model.instance import SwitchoverDocument
from yoban.plugins import BrokenReplica, Configured, InstanceContext, Peer, Promotion, Role
from yoban.repository import forks_of, survey
from yoban.testing.memory_store import MemoryCloud


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
    first, second = await pair(rig)
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
    first, second = await pair(rig)
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


async def test_bug_a_reign_that_ended_before_it_was_recorded_cut_the_log_in_two(
    make_rig: MakeRig, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store was down for two changes of primary: nobody could tell any more where the second reign's log began."""
    monkeypatch.setattr(switchover, "ARCHIVE_DEADLINE", 0.3)
    rig = make_rig(instances=2)
    first, second = await pair(rig)
    assert (await backup(first)).state == "completed"
    await stored(first)
    cloud.stop()
    for asked, agent, other in (("a", second, first), ("b", first, second)):
        await rig.driver.write(other.context, f"before {asked}")
        rig.change(switchover=SwitchoverDocument(id=asked, target=agent.name))
        await until(f"{agent.name} reigns", lambda agent=agent: agent.parts.life.role == "primary")
        await first.ready()
        await second.ready()
    cloud.start()
    await rig.driver.write(first.context, "after")
    await stored(first)
    terms = await repository(cloud).terms.all()
    assert [(term.term, term.line) for term in terms] == [(1, "1"), (3, "3")]
    assert [fork.line for fork in forks_of(terms, "3")] == ["2", "3"]
    catalog = await repository(cloud).catalog()
    for window in (
        survey(catalog, rig.engine.log_source, rig.engine.positions).window,
        recoverable(history(catalog, rig.engine.log_source), rig.engine).window,
    ):
        assert window is not None
        assert (window.start, window.line) == (catalog.backups[0].end_time, "3")


async def test_bug_a_broken_replica_was_emptied_although_its_primary_did_not_answer(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad data may be the last there is."""
    monkeypatch.setattr(pace, "BACKOFF", (0.2,))
    monkeypatch.setattr(life, "DIAGNOSE_EVERY", 0.2)
    rig = make_rig(instances=2)
    first, second = await pair(rig)
    await rig.driver.write(first.context, "precious")
    replication = rig.engine.replication
    assert replication is not None
    real, broken, asked, answers = replication.prepare_follow, True, 0, False

    async def diagnose(ctx: InstanceContext) -> BrokenReplica | None:
        return BrokenReplica("the log that it needs is gone", rebuild=True) if broken else None

    async def prepare_follow(ctx: InstanceContext, upstream: Peer) -> BrokenReplica | None:
        nonlocal asked
        asked += 1
        if not answers:
            raise Unavailable("it does not answer", object=upstream.name)
        return await real(ctx, upstream)

    kept = second.context.data / "kept"
    kept.write_text("of the data that is broken")
    monkeypatch.setattr(replication, "prepare_follow", prepare_follow)
    monkeypatch.setattr(replication, "diagnose", diagnose)
    await until("its primary was asked again and again", lambda: asked >= 3)
    assert kept.exists()
    answers = True
    await until("it is copied anew", lambda: not kept.exists())
    broken = False
    await second.ready()
    assert await rig.driver.read(second.context) == {"precious"}


async def test_bug_what_the_lease_told_of_another_s_term_was_taken_for_our_own(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    real, told = rig.engine.server.configure, list[int]()
    reigns = agent.parts.tailer.reigns

    def told_of(term: int, promotion: Promotion | None, began: datetime | None = None) -> None:
        told.append(term)
        reigns(term, promotion, began)

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


async def test_a_replica_that_ended_is_not_refused_for_a_deadline_of_an_earlier_reign(make_rig: MakeRig) -> None:
    rig = make_rig(instances=2)
    _, second = await pair(rig)
    second.supervision.fence_at = SystemClock().boottime() - 1  # of an agent before this one
    await rig.runner.stop(second.context)
    second.supervision.died(-9)
    await until("it runs again", lambda: second.supervision.server)
    assert (second.supervision.fence_at, second.supervision.refused) == (None, 0)


async def test_a_primary_past_its_deadline_is_started_again_once_the_lease_is_renewed(make_rig: MakeRig) -> None:
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    rig.api.listening = False
    await until("its time is over", lambda: not agent.parts.lease.view().held)
    await rig.runner.stop(agent.context)
    agent.supervision.died(-9, "immediate")
    await until("it tries to take the Lease", agent.reasons)
    assert agent.supervision.server is None
    rig.api.listening = True
    await agent.ready()
    assert agent.supervision.refused == 0


async def test_bug_a_primary_was_started_under_a_lease_that_had_been_lost_meanwhile(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(instances=2)
    agent = rig.agent()
    agent.start()
    await agent.ready()
    real, call = rig.engine.server.configure, agent.supervision._call
    started: list[str] = []

    def taken(lease: dict[str, Any]) -> None:
        lease["spec"]["holderIdentity"] = "orders-2"
        lease["metadata"]["annotations"]["yoban.dev/last-holder"] = "orders-2"

    async def configure(ctx: InstanceContext, role: Role, *arguments: Any, running: bool) -> Configured:
        if role is Role.PRIMARY and not running:
            rig.api.edit(LEASE, NAMESPACE, f"{DATABASE}-primary", taken)
            await agent.parts.lease.refresh()
        return await real(ctx, role, *arguments, running=running)

    async def noted(verb: str, **fields: Any) -> dict[str, Any]:
        if verb == "start":
            started.append(fields["note"]["role"])
        return await call(verb, **fields)

    monkeypatch.setattr(rig.engine.server, "configure", configure)
    monkeypatch.setattr(agent.supervision, "_call", noted)
    await rig.runner.stop(agent.context)
    agent.supervision.died(-9)
    await until("it has seen who reigns", lambda: agent.status.lease.holder == "orders-2")
    assert Role.PRIMARY.value not in started


async def test_bug_the_lease_was_given_up_beside_a_server_whose_start_was_interrupted(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Pod's end broke a start off when the server ran already and nobody had learned of it."""
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    real = agent.supervision._call

    async def ended_meanwhile(verb: str, **fields: Any) -> dict[str, Any]:
        answer = await real(verb, **fields)
        if verb == "start":
            agent.supervision.pod_ends()
            await asyncio.Event().wait()
        return answer

    monkeypatch.setattr(agent.supervision, "_call", ended_meanwhile)
    await rig.runner.stop(agent.context)
    agent.supervision.died(-9)
    await agent.ended()
    assert agent.supervision.last_exit is not None
    assert agent.supervision.last_exit.mode == "clean"
    assert agent.supervision.gone()


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
    first, second = await pair(rig)
    # Its agent dies; its server goes on following, so that it looks fit.
    await second.end()
    rig.change(switchover=SwitchoverDocument(id="a", target="orders-2"))
    await until("it was handed over", lambda: first.supervision.last_exit)
    await first.ready()
    assert first.status.switchover.state == "failed"
    assert (await rig.lease())["spec"]["holderIdentity"] == "orders-1"
