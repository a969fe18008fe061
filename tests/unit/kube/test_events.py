"""Rules 3.11: events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from yoban.kube.client import Client
from yoban.kube.errors import Unreachable
from yoban.kube.events import (
    CAPACITY,
    KIND_BURST,
    KIND_EVERY,
    OBJECT_BURST,
    OBJECT_EVERY,
    Recorder,
    events_total,
)
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


def some(server: FakeApiServer, count: int) -> list[Obj]:
    """So many objects that something can happen to."""
    return [server.put(CONFIG_MAP, {"metadata": {"namespace": "ns", "name": f"o{n}"}}) for n in range(count)]


def told(server: FakeApiServer) -> list[str]:
    """What people read, in the order of its telling, each with its count."""
    events = sorted(server.objects(EVENT), key=lambda event: int(event["metadata"]["resourceVersion"]))
    return [f"{event['note']} x{event.get('series', {}).get('count', 1)}" for event in events]


async def test_3_11_the_queue_is_bounded_and_drops_are_counted(server: FakeApiServer, recorder: Recorder) -> None:
    before = events_total.value("dropped")
    for obj in some(server, CAPACITY + 5):
        recorder.event(obj, "R", "n", action="A")
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


async def test_bug_a_second_replica_that_breaks_is_told_with_words_of_its_own(
    server: FakeApiServer, recorder: Recorder, regarding: Obj
) -> None:
    """Another note began no event of its own: its words were lost in the count of the first."""
    async with running(recorder):
        recorder.event(regarding, "ReplicaBroken", "db-2 cannot follow: its log is gone", action="A", warning=True)
        recorder.event(regarding, "ReplicaBroken", "db-3 cannot follow: it has a write", action="A", warning=True)
        await asyncio.sleep(1)
        recorder.event(regarding, "ReplicaBroken", "db-2 cannot follow: its log is gone", action="A", warning=True)
        await asyncio.sleep(1)
    assert sorted(told(server)) == ["db-2 cannot follow: its log is gone x2", "db-3 cannot follow: it has a write x1"]


async def test_3_11_a_note_that_never_says_the_same_is_no_stream(
    server: FakeApiServer, recorder: Recorder, regarding: Obj
) -> None:
    """Ten at once and one each ten minutes; what is between them is a count, and the words are the latest."""
    combined = events_total.value("combined")
    async with running(recorder):
        for number in range(1, 71):
            recorder.event(regarding, "Behind", f"{number} GB behind", action="A")
            await asyncio.sleep(60)
        assert len(server.writes()) in range(KIND_BURST + 6, KIND_BURST + 9), "in 70 minutes"
    lines = told(server)
    assert lines[:KIND_BURST] == [f"{n} GB behind x1" for n in range(1, KIND_BURST + 1)]
    assert lines[-1].startswith("70 GB behind ")
    assert sum(int(line.rpartition("x")[2]) for line in lines) == 70, "each is told or counted"
    assert events_total.value("combined") == combined + 70 - len(lines)


async def test_3_11_the_latest_words_are_told_when_their_turn_comes(
    server: FakeApiServer, recorder: Recorder, regarding: Obj
) -> None:
    async with running(recorder):
        for number in range(KIND_BURST + 5):
            recorder.event(regarding, "Behind", f"{number}", action="A")
        await asyncio.sleep(KIND_EVERY - 1)
        assert len(told(server)) == KIND_BURST
        assert recorder.held_back == 1
        await asyncio.sleep(2)
        assert told(server)[KIND_BURST:] == ["14 x5"]
        assert recorder.held_back == 0
        (event,) = [event for event in server.objects(EVENT) if event["note"] == "14"]
        assert event["eventTime"] <= event["series"]["lastObservedTime"]
        recorder.event(regarding, "Behind", "14", action="A")
        await asyncio.sleep(400)
        assert told(server)[KIND_BURST:] == ["14 x6"], "it is a series like any other"


async def test_3_11_events_about_one_object_are_bounded_and_warnings_go_first(
    server: FakeApiServer, recorder: Recorder, regarding: Obj
) -> None:
    """25 at once and one each five minutes, whatever their reasons; another object is not affected."""
    other = server.put(CONFIG_MAP, {"metadata": {"namespace": "ns", "name": "b"}})
    async with running(recorder):
        for number in range(OBJECT_BURST + 2):
            recorder.event(regarding, f"R{number}", f"{number}", action="A")
        recorder.event(regarding, "Broken", "broken", action="A", warning=True)
        recorder.event(other, "R0", "another object's", action="A")
        await asyncio.sleep(1)
        assert told(server) == [*(f"{n} x1" for n in range(OBJECT_BURST)), "another object's x1"]
        await asyncio.sleep(OBJECT_EVERY)
        assert told(server)[OBJECT_BURST + 1 :] == ["broken x1"]
        await asyncio.sleep(2 * OBJECT_EVERY)
        assert told(server)[OBJECT_BURST + 2 :] == ["25 x1", "26 x1"]


async def test_3_11_what_is_held_back_is_bounded_and_drops_are_counted(
    server: FakeApiServer, recorder: Recorder, regarding: Obj
) -> None:
    before = events_total.value("dropped")
    async with running(recorder):
        for number in range(OBJECT_BURST + CAPACITY + 5):
            recorder.event(regarding, f"R{number}", "n", action="A")
            await asyncio.sleep(0.001)
        assert recorder.held_back == CAPACITY
        assert events_total.value("dropped") == before + 5


async def test_3_11_a_busy_recorder_ends_its_series_too(
    server: FakeApiServer, recorder: Recorder, regarding: Obj
) -> None:
    """Events that keep coming are no reason to put off what is due: the map of series would grow."""
    async with running(recorder):
        recorder.event(regarding, "Once", "n", action="A")
        for _ in range(100):
            recorder.event(regarding, "Again", "n", action="A")
            await asyncio.sleep(5)
        assert recorder.open_series == 1


async def test_3_11_closing_tells_what_is_held_back(server: FakeApiServer, recorder: Recorder, regarding: Obj) -> None:
    async with running(recorder):
        for number in range(KIND_BURST + 5):
            recorder.event(regarding, "Behind", f"{number}", action="A")
        await asyncio.sleep(1)
    assert told(server)[KIND_BURST:] == ["14 x5"]


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


async def test_bug_one_event_that_could_not_be_written_was_the_last_one(
    server: FakeApiServer, recorder: Recorder, regarding: Obj, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever was no answer of the API server ended the recorder, without a word; then all events were dropped."""
    before = events_total.value("failed")
    async with running(recorder):
        server.fail(RuntimeError("what nobody thought of"), verb="create", times=1)
        recorder.event(regarding, "R1", "n", action="A")
        recorder.event(regarding, "R2", "n", action="A")
        await asyncio.sleep(1)
        server.fail(RuntimeError("what nobody thought of"), verb="patch", times=1)
        recorder.event(regarding, "R2", "n", action="A")
        recorder.event(regarding, "R3", "n", action="A")
        await asyncio.sleep(1)
        assert [e["reason"] for e in server.objects(EVENT)] == ["R2", "R3"]
    assert events_total.value("failed") == before + 2
    assert "what nobody thought of" in caplog.text
