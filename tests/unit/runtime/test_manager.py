"""Rules 3.8: the manager's order, and 3.7: what it does with the Lease."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from yoban.errors import NotReady
from yoban.kube.client import Client
from yoban.kube.election import Elector
from yoban.kube.errors import Unreachable
from yoban.kube.events import Recorder
from yoban.kube.lease import LeaseLock, LeaseLost
from yoban.kube.resource import CONFIG_MAP, EVENT, LEASE, SECRET
from yoban.runtime import Controller, Function, Group, HealthServer, Manager, ObjectKey, Result, looplag
from yoban.runtime.looplag import LoopLag
from yoban.runtime.manager import exit_code
from yoban.testing.apiserver import FakeApiServer
from yoban.testing.apistatus import status_answer
from yoban.testing.clock import LoopClock


class Member:
    """Logs when it starts and ends; may be slow or stubborn."""

    def __init__(self, name: str, log: list[str], *, ends_in: float = 0.0) -> None:
        self.name = name
        self._log = log
        self._ends_in = ends_in
        self._stop = asyncio.Event()

    async def started(self) -> None:
        await asyncio.sleep(0.01)

    async def run(self) -> None:
        self._log.append(f"+{self.name}")
        try:
            await self._stop.wait()
            await asyncio.sleep(self._ends_in)
            self._log.append(f"-{self.name}")
        except asyncio.CancelledError:
            self._log.append(f"!{self.name}")
            raise

    async def stop(self) -> None:
        self._stop.set()


def elector(client: Client, clock: LoopClock, identity: str = "me") -> Elector:
    return Elector(LeaseLock(client, "ns", "l", identity, clock=clock), clock=clock, random=lambda: 0.5)


def holder(server: FakeApiServer) -> str:
    lease = server.find(LEASE, "ns", "l")
    return str(lease["spec"]["holderIdentity"]) if lease is not None else "nobody yet"


@contextlib.asynccontextmanager
async def running(manager: Manager) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(manager.run())
    await asyncio.sleep(1)
    try:
        yield task
    finally:
        manager.stop()
        await asyncio.gather(task, return_exceptions=True)


async def test_3_8_start_and_stop_are_in_order(server: FakeApiServer, client: Client, clock: LoopClock) -> None:
    log: list[str] = []
    manager = Manager(client, elector=elector(client, clock), recorder=Recorder(client, "yoban.test/x", "p"))

    async def warm() -> None:
        assert manager.check_caches() is None, "caches are filled before"
        assert not manager.leading.is_set()
        log.append("warm")

    for group in reversed(Group):
        manager.add(Function("warm", warm) if group is Group.WARMUP else Member(group.name, log), group)
    manager.informer(CONFIG_MAP)

    def note(request: Any) -> None:
        if request.resource == "configmaps" and request.verb == "list":
            log.append("list")
        if request.resource == "leases" and request.is_write:
            log.append("release" if not request.body["spec"]["holderIdentity"] else "lease")
        if request.resource == "events":
            log.append("event")

    server.faults.append(note)
    async with running(manager) as task:
        assert manager.leading.is_set()
        with pytest.raises(RuntimeError, match="started already"):
            manager.add(Member("late", log))
        with pytest.raises(RuntimeError, match="started already"):
            manager.informer(SECRET)
        regarding = server.put(CONFIG_MAP, {"metadata": {"namespace": "ns", "name": "a"}})
        assert manager.recorder is not None
        manager.stop()
        manager.recorder.event(regarding, "Bye", "n", action="Stop")
        await task
    lease = log.index("lease")
    assert log[:lease] == ["+HTTP", "+WEBHOOKS", "+CACHES", "list", "+OTHERS", "warm"]
    rest = [entry for entry in log[lease:] if entry not in ("lease", "event")]
    assert rest == ["+LEADER", "-OTHERS", "-LEADER", "-CACHES", "-WEBHOOKS", "-HTTP", "release"]
    assert holder(server) == ""
    assert [e["reason"] for e in server.objects(EVENT)] == ["Bye"], "the recorder is last"


async def test_3_8_standbys_serve_health_and_keep_caches_but_no_leader_work(
    server: FakeApiServer, client: Client, clock: LoopClock
) -> None:
    other = LeaseLock(client, "ns", "l", "other", clock=clock, duration=10_000)
    await other.try_take()
    log: list[str] = []
    health = HealthServer("127.0.0.1", 0)
    manager = Manager(client, elector=elector(client, clock), health=health)
    manager.add(Member("leader", log))
    informer = manager.informer(CONFIG_MAP)
    async with running(manager):
        await asyncio.sleep(60)
        assert log == []
        assert informer.has_synced
        assert health.port != 0
        assert health.ready["caches"]() is None
        assert health.live["lease"]() is None
    assert holder(server) == "other", "what is not ours is not released"


async def test_3_8_stop_is_bounded_and_a_stubborn_member_is_cancelled(
    server: FakeApiServer, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []
    manager = Manager(client, stop_timeout=30)
    manager.add(Member("slow", log, ends_in=10_000))
    loop = asyncio.get_running_loop()
    async with running(manager) as task:
        start = loop.time()
        manager.stop()
        await task
        assert loop.time() - start == pytest.approx(30, abs=2)
    assert log == ["+slow", "!slow"]
    assert "did not stop in time" in caplog.text


async def test_3_7_not_released_when_work_did_not_end_in_time(
    server: FakeApiServer, client: Client, clock: LoopClock, caplog: pytest.LogCaptureFixture
) -> None:
    """controller-runtime #1132."""
    manager = Manager(client, elector=elector(client, clock), stop_timeout=5)
    manager.add(Member("slow", [], ends_in=10_000))
    async with running(manager) as task:
        manager.stop()
        await task
    assert holder(server) == "me"
    assert "not released" in caplog.text


async def test_3_7_the_lease_is_renewed_while_work_ends_and_released_after(
    server: FakeApiServer, client: Client, clock: LoopClock
) -> None:
    manager = Manager(client, elector=elector(client, clock), stop_timeout=60)
    log: list[str] = []
    manager.add(Member("slow", log, ends_in=40))
    async with running(manager) as task:
        manager.stop()
        await asyncio.sleep(39)
        assert holder(server) == "me"
        assert not await LeaseLock(client, "ns", "l", "other", clock=clock).try_take()
        await task
    assert log == ["+slow", "-slow"]
    assert holder(server) == ""


async def test_3_7_loss_of_the_lease_ends_everything_at_once_and_is_not_released(
    server: FakeApiServer, client: Client, clock: LoopClock
) -> None:
    manager = Manager(client, elector=elector(client, clock), stop_timeout=60)
    log: list[str] = []
    manager.add(Member("leader", log, ends_in=50))
    loop = asyncio.get_running_loop()
    async with running(manager) as task:
        server.edit(LEASE, "ns", "l", lambda o: o["spec"].update(holderIdentity="thief"))
        start = loop.time()
        with pytest.raises(LeaseLost) as caught:
            await task
        assert loop.time() - start < 4, "no time for grace"
    assert log == ["+leader", "!leader"]
    assert holder(server) == "thief"
    assert exit_code(caught.value) == 2
    assert exit_code(RuntimeError()) == 1
    assert exit_code(None) == 0


async def test_3_7_loss_while_stopping_cancels_the_leader_work_and_is_an_error(
    server: FakeApiServer, client: Client, clock: LoopClock
) -> None:
    manager = Manager(client, elector=elector(client, clock), stop_timeout=600)
    log: list[str] = []
    manager.add(Member("leader", log, ends_in=500))
    async with running(manager) as task:
        manager.stop()
        await asyncio.sleep(10)
        server.edit(LEASE, "ns", "l", lambda o: o["spec"].update(holderIdentity="thief"))
        with pytest.raises(LeaseLost):
            async with asyncio.timeout(5):
                await task
    assert log == ["+leader", "!leader"]


async def test_3_8_a_member_that_fails_ends_the_process_in_order(
    server: FakeApiServer, client: Client, clock: LoopClock
) -> None:
    log: list[str] = []

    async def fail() -> None:
        await asyncio.sleep(10)
        raise OSError("disk gone")

    manager = Manager(client, elector=elector(client, clock))
    manager.add(Member("leader", log))
    manager.add(Function("failing", fail), Group.OTHERS)
    with pytest.raises(OSError, match="disk gone"):
        await manager.run()
    assert log == ["+leader", "-leader"]
    assert holder(server) == ""


async def test_3_8_a_member_that_fails_at_the_start(client: Client) -> None:
    log: list[str] = []

    class Broken(Member):
        async def run(self) -> None:
            raise OSError("port taken")

        async def started(self) -> None:
            await asyncio.sleep(1e9)

    manager = Manager(client)
    manager.add(Broken("http", log), Group.HTTP)
    manager.add(Member("leader", log))
    with pytest.raises(OSError, match="port taken"):
        await manager.run()


async def test_3_6_a_cache_that_does_not_fill_ends_the_process_loudly(server: FakeApiServer, client: Client) -> None:
    server.fail(status_answer(403, "Forbidden", "configmaps is forbidden"), times=10_000)
    manager = Manager(client, sync_timeout=120)
    informer = manager.informer(CONFIG_MAP)
    assert manager.informer(CONFIG_MAP) is informer
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.raises(NotReady, match="forbidden"):
        await manager.run()
    assert loop.time() - start == pytest.approx(120, abs=2)
    assert "has not synced" in str(manager.check_caches())


async def test_3_8_stop_before_the_caches_are_filled(server: FakeApiServer, client: Client) -> None:
    server.fail(Unreachable("x"), times=10_000)
    manager = Manager(client)
    manager.informer(CONFIG_MAP)
    async with running(manager) as task:
        manager.stop()
        async with asyncio.timeout(5):
            await task


async def test_3_8_stop_asked_before_the_run(client: Client) -> None:
    manager = Manager(client)
    manager.stop()
    async with asyncio.timeout(5):
        await manager.run()


async def test_caches_of_a_controller_made_elsewhere_are_waited_for(server: FakeApiServer, client: Client) -> None:
    seen: list[ObjectKey] = []

    async def reconcile(key: ObjectKey) -> Result | None:
        assert all(i.has_synced for i in controller.informers)
        seen.append(key)
        return None

    server.put(CONFIG_MAP, {"metadata": {"namespace": "ns", "name": "a"}})
    manager = Manager(client)
    controller = Controller("c", reconcile)
    controller.watches(manager.informer(CONFIG_MAP, indexers={"x": lambda o: []}))
    manager.informer(CONFIG_MAP, indexers={"y": lambda o: ["1"]})
    manager.add(controller)
    manager.check("anything", lambda: None)
    async with running(manager):
        assert seen == [ObjectKey("ns", "a")]
        assert len(manager.informer(CONFIG_MAP).store.by_index("y", "1")) == 1


async def test_bug_a_recorder_that_failed_was_not_spoken_of(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Recorder):
        async def run(self) -> None:
            raise RuntimeError("what nobody thought of")

    manager = Manager(client, recorder=Broken(client, "yoban.test/x", "p"))
    async with running(manager):
        pass
    assert "event recorder failed" in caplog.text
    assert "what nobody thought of" in caplog.text


async def test_3_8_sigterm_stops_in_order(client: Client) -> None:
    log: list[str] = []
    manager = Manager(client)
    manager.add(Member("leader", log))
    task = asyncio.create_task(manager.run_until_signal())
    await asyncio.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    await task
    assert log == ["+leader", "-leader"]


async def test_3_12_a_blocked_loop_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    lag = LoopLag(warn=0.5)
    task = asyncio.create_task(lag.run())
    await asyncio.sleep(3.5)
    assert lag.worst == pytest.approx(0)
    asyncio.get_running_loop()._virtual.time += 2.0  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    assert lag.worst == pytest.approx(2.0)
    assert "blocked for 2.00 s" in caplog.text
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    asyncio.get_running_loop()._virtual.time += 9.0  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    assert lag.worst == pytest.approx(2.0), "it listens no more"


async def test_watching_for_a_blocked_loop_needs_no_timer() -> None:
    """A process that rests is not woken for it: each wake-up costs processor time."""
    loop = asyncio.get_running_loop()
    first, second = LoopLag(), LoopLag()
    tasks = [asyncio.create_task(lag.run()) for lag in (first, second)]
    await asyncio.sleep(0)
    assert not loop._scheduled  # type: ignore[attr-defined]
    loop._virtual.time += 0.3  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    assert first.worst == second.worst == pytest.approx(0.3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_loop_without_a_selector_is_looked_at_by_a_timer(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(looplag.asyncio, "get_running_loop", lambda: SimpleNamespace(time=loop.time))
    lag = LoopLag(warn=0.5, tick=1.0)
    task = asyncio.create_task(lag.run())
    await asyncio.sleep(3.5)
    assert lag.worst == pytest.approx(0)
    loop._virtual.time += 2.0  # type: ignore[attr-defined]
    await asyncio.sleep(0.1)
    assert lag.worst == pytest.approx(1.5), "it was due half a second later"
    assert "blocked for 1.50 s" in caplog.text
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
