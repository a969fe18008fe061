"""Rules 3.11: events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from yoban.kube.client import Client
from yoban.kube.errors import Unreachable
from yoban.kube.events import CAPACITY, Recorder, events_total
from yoban.kube.objects import Obj
from yoban.kube.resource import CONFIG_MAP, EVENT
from yoban.testing.apiserver import FakeApiServer
from yoban.testing.apistatus import status_answer
from yoban.testing.clock import LoopClock


@pytest.fixture
def regarding(server: FakeApiServer) -> Obj:
    return server.put(CONFIG_MAP, {"metadata": {"namespace": "ns", "name": "a"}})


@pytest.fixture
async def recorder(client: Client, clock: LoopClock) -> Recorder:
    return Recorder(client, "yoban.test/operator", "pod-1", clock=clock, random=lambda: 0.5)


@contextlib.asynccontextmanager
async def running(recorder: Recorder) -> AsyncIterator[None]:
    task = asyncio.create_task(recorder.run())
    yield
    recorder.close()
    async with asyncio.timeout(60):
        await task


async def test_3_11_an_event_has_reason_action_and_reporter(
    server: FakeApiServer, recorder: Recorder, regarding: Obj
) -> None:
    async with running(recorder):
        recorder.event(regarding, "Moved", "it moved", action="Move", warning=True, related=regarding)
        await asyncio.sleep(0.1)
    event = server.objects(EVENT)[0]
    assert event["metadata"]["namespace"] == "ns"
    assert event["reason"] == "Moved"
    assert event["action"] == "Move"
    assert event["type"] == "Warning"
    assert event["note"] == "it moved"
    assert event["reportingController"] == "yoban.test/operator"
    assert event["reportingInstance"] == "pod-1"
    assert event["regarding"]["uid"] == regarding["metadata"]["uid"] == event["related"]["uid"]
    assert event["regarding"]["kind"] == "ConfigMap"
    assert event["eventTime"].endswith("Z")


async def test_3_11_the_queue_is_bounded_and_drops_are_counted(
    server: FakeApiServer, recorder: Recorder, regarding: Obj
) -> None:
    before = events_total.value("dropped")
    for number in range(CAPACITY + 5):
        recorder.event(regarding, f"R{number}", "n", action="A")
    assert events_total.value("dropped") == before + 5
    async with running(recorder):
        await asyncio.sleep(0.1)
    assert len(server.objects(EVENT)) == CAPACITY


async def test_3_11_equal_events_become_a_series(server: FakeApiServer, recorder: Recorder, regarding: Obj) -> None:
    async with running(recorder):
        for _ in range(10):
            recorder.event(regarding, "Again", "n", action="A")
            await asyncio.sleep(10)
        recorder.event(regarding, "Other", "n", action="A")
        await asyncio.sleep(1)
        assert len(server.writes()) == 3, "the first, the start of its series, and the other"
        await asyncio.sleep(400)
        series = {e["reason"]: e.get("series", {}).get("count") for e in server.objects(EVENT)}
        assert series == {"Again": 10, "Other": None}, "finished after 6 minutes"
        assert recorder.open_series == 0
        recorder.event(regarding, "Again", "n", action="A")
        await asyncio.sleep(1)
        assert len(server.objects(EVENT)) == 3, "a new series"


async def test_3_11_a_lasting_series_is_refreshed_every_30_minutes(
    server: FakeApiServer, recorder: Recorder, regarding: Obj
) -> None:
    async with running(recorder):
        for _ in range(120):
            recorder.event(regarding, "Again", "n", action="A")
            await asyncio.sleep(60)
        assert 5 <= len(server.writes()) <= 6


async def test_3_11_an_unreachable_server_is_tried_12_times_10_seconds_apart(
    server: FakeApiServer, recorder: Recorder, regarding: Obj
) -> None:
    before = events_total.value("failed")
    server.fail(Unreachable("lost"), verb="create", times=1000)
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with running(recorder):
        recorder.event(regarding, "R", "n", action="A")
        while events_total.value("failed") == before:
            await asyncio.sleep(1)
        assert 110 <= loop.time() - start <= 170
        assert len(server.writes()) == 12
        server.faults.clear()
        recorder.event(regarding, "R2", "n", action="A")
        await asyncio.sleep(1)
        assert [e["reason"] for e in server.objects(EVENT)] == ["R2"]


@pytest.mark.parametrize("code", [403, 404, 422, 500])
async def test_3_11_an_answer_is_final(server: FakeApiServer, recorder: Recorder, regarding: Obj, code: int) -> None:
    server.fail(status_answer(code), verb="create", times=1000)
    async with running(recorder):
        recorder.event(regarding, "R", "n", action="A")
        await asyncio.sleep(200)
        assert len(server.writes()) == 1


async def test_3_11_a_series_whose_event_expired_is_let_go(
    server: FakeApiServer, recorder: Recorder, regarding: Obj
) -> None:
    async with running(recorder):
        recorder.event(regarding, "R", "n", action="A")
        await asyncio.sleep(1)
        event = server.objects(EVENT)[0]
        server.remove(EVENT, "ns", event["metadata"]["name"])
        recorder.event(regarding, "R", "n", action="A")
        await asyncio.sleep(1)
        assert server.objects(EVENT) == []


async def test_3_11_closing_writes_what_is_queued_but_does_not_wait_for_a_dead_server(
    server: FakeApiServer, recorder: Recorder, regarding: Obj
) -> None:
    server.fail(Unreachable("lost"), verb="create", times=1000)
    for number in range(5):
        recorder.event(regarding, f"R{number}", "n", action="A")
    task = asyncio.create_task(recorder.run())
    await asyncio.sleep(15)
    loop = asyncio.get_running_loop()
    start = loop.time()
    recorder.close()
    await task
    assert loop.time() - start < 1
