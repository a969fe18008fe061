"""Whole agents: creation, restart, what is refused, settings; each against state that is looked at."""

from __future__ import annotations

import asyncio
import errno
import shutil
from dataclasses import replace

import msgspec
import pytest
from rig import (
    INCARNATION,
    MakeRig,
    fill,
    repository,
    role,
    stored,
    until,
)
from yoban.agent import ending, life, observer
from yoban.agent.marker import read_marker
from yoban.model.control import Problem
from yoban.model.instance import Marker
from yoban.plugins import InstanceContext, ServerStatus
from yoban.testing.memory_store import MemoryCloud


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


async def test_bug_what_a_server_said_was_wrong_with_it_was_told_to_nobody(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged pages, a replica that cannot apply, commits that no longer wait for replicas."""
    monkeypatch.setattr(observer, "LASTS", 0.5)
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    server = agent.instance.engine.server
    sound = server.status

    async def damaged(ctx: InstanceContext) -> ServerStatus:
        return replace(await sound(ctx), problem="damaged pages were read: 3 in database app")

    monkeypatch.setattr(server, "status", damaged)
    await until("it is told", lambda: "ServerProblem" in agent.reasons())
    (told,) = [problem for problem in agent.status.problems if problem.reason == "ServerProblem"]
    assert told.message == "damaged pages were read: 3 in database app"
    monkeypatch.setattr(server, "status", sound)
    await until("it is withdrawn", lambda: "ServerProblem" not in agent.reasons())


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


async def test_bug_an_engine_that_hung_at_a_look_ended_the_agent(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()

    async def hang(_: object) -> bool:
        await asyncio.Event().wait()
        return True

    with monkeypatch.context() as patch:
        patch.setattr(life, "CARE_DEADLINE", 0.05)
        patch.setattr(rig.engine.server, "initialized", hang)
        await rig.runner.stop(agent.context)
        agent.supervision.died(-9)
        await until("it is told", lambda: "DeadlineExceeded" in agent.reasons())
    await until("it runs again", lambda: agent.supervision.server)
    await agent.ready()
    assert not agent.status.problems


def broken(_: object) -> Marker | None:
    raise OSError(errno.EIO, "Input/output error", "yoban.json")


async def test_bug_a_volume_that_could_not_be_read_ended_the_agent(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(instances=2)
    agent = rig.agent(2)  # it waits for the founder: no step of its own withdraws the problem
    agent.start()
    await until("it waits", lambda: agent.status.phase == "waiting")
    with monkeypatch.context() as patch:
        patch.setattr(life, "read_marker", broken)
        await until("it is told", lambda: "InternalError" in agent.reasons())
        assert "Input/output error" in agent.status.message
    await until("it is told no more", lambda: "InternalError" not in agent.reasons())


async def test_a_pod_ends_whose_volume_cannot_be_read(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    monkeypatch.setattr(life, "read_marker", broken)
    agent.supervision.pod_ends()
    await agent.ended()
    assert agent.supervision.last_exit is not None
    assert agent.supervision.last_exit.mode == "clean"


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


@pytest.mark.parametrize(("role", "name"), [("primary", "RESTART_DEADLINE"), ("recovery", "RECOVERY_DEADLINE")])
async def test_bug_a_stop_that_an_agent_before_us_began_was_waited_for_without_end(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, role: str, name: str
) -> None:
    """One deadline is short; that of the other kind of server would last for longer than the test."""
    monkeypatch.setattr(ending, name, 0.5)
    rig = make_rig()
    agent = rig.agent()
    agent.start()
    await agent.ready()
    assert agent.supervision._status is not None
    agent.supervision._status |= {"mode": "clean", "note": {"role": role}}
    await agent.again()
    told: list[str] = []
    real = agent.instance.board.problem

    def problem(key: str, problem: Problem | None) -> None:
        told.append(problem.reason if problem is not None else "")
        real(key, problem)

    monkeypatch.setattr(agent.instance.board, "problem", problem)
    await until("it was ended", lambda: agent.supervision.last_exit)
    assert agent.supervision.last_exit is not None
    assert agent.supervision.last_exit.mode == "immediate"
    assert "StopOverdue" in told
    await agent.ready()
    assert not agent.reasons()
