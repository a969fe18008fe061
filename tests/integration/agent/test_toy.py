"""Supervisor and agent with the toy engine, as real processes: who survives whom, and who is ended when."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable

import pytest
from harness import NAMESPACE, World, alive, descendants, until
from yoban.kube.resource import LEASE
from yoban.model.control import JobRequest
from yoban.model.instance import StoreDocument

pytestmark = pytest.mark.server


async def test_a_new_database_comes_up_and_tells_it(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.change(engine_config={"greeting": "hello"})
    pod = world.pod()
    pod.start()
    await until("it is ready", pod.ready)
    lease = await world.cluster.lease()
    assert lease["spec"]["holderIdentity"] == "orders-1"
    notes = lease["metadata"]["annotations"]
    assert notes["yoban.dev/initialized"] == world.document.incarnation
    assert notes["yoban.dev/term"] == "1"

    async def told() -> bool:
        return (await pod.status()).ready

    await until("the operator is told", told)
    status = await pod.status()
    assert (status.phase, status.data) == ("running", "ready")
    assert status.server is not None
    assert status.server.role == "primary"
    assert await until("the label is set", pod.label) == "primary"
    assert (pod.data / "store").read_text() == "hello"


async def test_the_server_survives_its_agent(make_world: Callable[..., World]) -> None:
    world = make_world()
    pod = world.pod()
    pod.start()
    await until("it is ready", pod.ready)
    server, agent = pod.server_pid, pod.agent_pid
    assert server
    assert agent
    os.kill(agent, signal.SIGKILL)
    await until("a new agent runs", lambda: pod.agent_pid not in (None, agent))
    await until("it is ready again", pod.ready)
    assert pod.server_pid == server
    assert alive(server)


async def test_a_frozen_agent_is_replaced(make_world: Callable[..., World]) -> None:
    world = make_world()
    pod = world.pod()
    pod.start()
    await until("it is ready", pod.ready)
    server, agent = pod.server_pid, pod.agent_pid
    assert server and agent
    os.kill(agent, signal.SIGSTOP)
    await until("a new agent runs", lambda: pod.agent_pid not in (None, agent))
    await until("it is ready again", pod.ready)
    assert pod.server_pid == server
    assert not alive(agent)


async def test_a_primary_ends_before_its_lease_can_be_taken(make_world: Callable[..., World]) -> None:
    """Invariant 1: with the API server gone the server ends before the record's duration is over."""
    world = make_world()
    pod = world.pod()
    pod.start()
    await until("it is ready", pod.ready)
    server = pod.server_pid
    assert server
    world.cluster.down = True
    cut = time.monotonic()
    await until("the server has ended", lambda: not alive(server))
    assert 8 < time.monotonic() - cut < world.document.lease.duration - 0.5
    assert not await pod.ready()
    world.cluster.down = False
    await until("it reigns again", pod.ready)
    assert pod.server_pid != server


async def test_a_primary_ends_at_its_deadline_without_any_agent(make_world: Callable[..., World]) -> None:
    world = make_world()
    pod = world.pod()
    # An agent that is frozen and not replaced in time: the deadline is the supervisor's own.
    pod.start(YOBAN_AGENT_FROZEN_SECONDS="60")
    await until("it is ready", pod.ready)
    server, agent = pod.server_pid, pod.agent_pid
    assert server and agent
    os.kill(agent, signal.SIGSTOP)
    stopped = time.monotonic()
    await until("the server has ended", lambda: not alive(server))
    assert time.monotonic() - stopped < world.document.lease.duration - 0.5
    assert pod.agent_pid == agent
    os.kill(agent, signal.SIGCONT)
    await until("it reigns again", pod.ready)


async def test_the_end_of_the_pod_stops_the_server_cleanly(make_world: Callable[..., World]) -> None:
    world = make_world()
    pod = world.pod()
    pod.start()
    await until("it is ready", pod.ready)
    below = descendants(pod.process.pid)  # type: ignore[union-attr]
    assert await pod.stop(20) == 0
    assert not any(alive(pid) for pid in below)
    lease = await world.cluster.lease()
    assert lease["spec"]["holderIdentity"] == ""
    assert lease["metadata"]["annotations"]["yoban.dev/last-holder"] == "orders-1"
    assert '"code": 0' in pod.log.read_text()

    # Its own restart takes the Lease at once, and makes no second database.
    (pod.data / "store").write_text("precious\n")
    pod.start()
    await until("it is ready again", pod.ready, 10)
    assert (pod.data / "store").read_text() == "precious\n"
    assert (await world.cluster.lease())["metadata"]["annotations"]["yoban.dev/term"] == "1"


async def test_an_engine_without_a_log_ends_cleanly_where_there_is_an_archive(
    make_world: Callable[..., World], bucket: StoreDocument
) -> None:
    """Found on a cluster: the last look at the log was taken at none, and the Pod stayed until it was killed."""
    world = make_world()
    world.archive_to(bucket)
    pod = world.pod()
    pod.start()
    await until("it is ready", pod.ready)

    async def told() -> bool:
        return not (await pod.status()).archive.has_log

    await until("it says that there is no log", told)
    assert await pod.stop(20) == 0
    assert (await world.cluster.lease())["spec"]["holderIdentity"] == ""


async def test_the_end_of_the_pod_without_an_agent(make_world: Callable[..., World]) -> None:
    world = make_world()
    pod = world.pod()
    pod.start()
    await until("it is ready", pod.ready)
    agent = pod.agent_pid
    assert agent
    os.kill(agent, signal.SIGSTOP)
    started = time.monotonic()
    assert await pod.stop(30) == 0
    assert time.monotonic() - started < 20
    assert '"mode": "clean"' in pod.log.read_text()


async def test_orphans_are_reaped(make_world: Callable[..., World]) -> None:
    world = make_world()
    pod = world.pod()
    pod.start()
    await until("it is ready", pod.ready)
    assert pod.process is not None
    server = pod.server_pid
    # The toy's shell starts a sleep each half second: kill the shell, its orphan is ours.
    await until("the shell sleeps", lambda: descendants(server or 0))
    os.kill(server or 0, signal.SIGKILL)
    await until("another server runs", lambda: pod.server_pid not in (None, server))
    await until("it is ready", pod.ready)

    def zombies() -> list[int]:
        return [pid for pid in descendants(pod.process.pid) if not alive(pid)]  # type: ignore[union-attr]

    await until("no zombie is left", lambda: not zombies())


async def test_a_lost_volume_never_becomes_an_empty_database(make_world: Callable[..., World]) -> None:
    world = make_world()
    pod = world.pod()
    pod.start()
    await until("it is ready", pod.ready)
    await pod.stop()
    shutil.rmtree(pod.data.parent)
    pod.start()

    async def lost() -> bool:
        status = await pod.status()
        return any(problem.reason == "DataLost" for problem in status.problems)

    await until("the loss is told", lost)
    assert not pod.data.exists() or not any(pod.data.iterdir())
    assert not await pod.ready()


async def test_another_incarnations_volume_is_not_touched(make_world: Callable[..., World]) -> None:
    world = make_world()
    pod = world.pod()
    pod.start()
    await until("it is ready", pod.ready)
    await pod.stop()
    (pod.data / "store").write_text("theirs")
    world.make_lease()
    world.change(incarnation="ffffffffffff", uid="other")
    pod.start()

    async def told() -> bool:
        status = await pod.status()
        return any(problem.reason == "ForeignVolume" for problem in status.problems)

    await until("it is told", told)
    assert (pod.data / "store").read_text() == "theirs"


async def test_the_lease_made_anew_is_taken_without_a_restart(make_world: Callable[..., World]) -> None:
    world = make_world()
    pod = world.pod()
    pod.start()
    await until("it is ready", pod.ready)
    server = pod.server_pid
    world.cluster.api.remove(LEASE, NAMESPACE, "orders-primary")
    world.make_lease()

    async def again() -> bool:
        lease = await world.cluster.lease()
        notes = lease["metadata"].get("annotations") or {}
        return bool(notes.get("yoban.dev/initialized")) and lease["spec"].get("holderIdentity") == "orders-1"

    await until("it is held again", again)
    assert pod.server_pid == server


async def test_only_the_operators_certificate_may_ask_for_jobs(make_world: Callable[..., World]) -> None:
    world = make_world()
    pod = world.pod()
    pod.start()
    await until("it is ready", pod.ready)
    job = JobRequest(kind="backup", id="20260101T000000Z-abcdef")
    assert (await pod.call("PUT", "/v1/jobs/x", job, who="peer"))[0] == 403
    assert (await pod.call("GET", "/v1/status", who="peer"))[0] == 200
    assert (await pod.call("PUT", "/v1/jobs/x", job))[0] == 200
    assert (await pod.call("GET", "/v1/jobs/unknown"))[0] == 404


async def test_rejected_settings_keep_the_last_good_ones(make_world: Callable[..., World]) -> None:
    world = make_world()
    pod = world.pod()
    pod.start()
    await until("it is ready", pod.ready)
    world.change(settings={"colour": "red"})
    await until("it is applied", lambda: (pod.data / "settings").read_text() == "colour=red\n")
    world.change(settings={"colour": "green", "shape": "round"})

    async def told() -> bool:
        return "shape" in (await pod.status()).rejected

    await until("the rejection is told", told)
    assert (pod.data / "settings").read_text() == "colour=red\n"
    assert await pod.ready()
