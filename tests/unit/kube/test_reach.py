"""A server that is away: who waits is woken when it is back, and nobody is hammered meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from yoban.kube.backoff import Backoff, BackoffPolicy
from yoban.kube.client import ATTEMPTS, Client
from yoban.kube.errors import Timeout, TooManyRequests, Unreachable
from yoban.kube.reach import PROBE_TIMEOUT, SPREAD, Reach
from yoban.kube.resource import CONFIG_MAP
from yoban.kube.transport import Answer
from yoban.testing.apiserver import FakeApiServer
from yoban.testing.apistatus import status_answer

from tests.unit.kube.test_reflector import Watching, lists, made, watches

REFUSED = Unreachable("refused", sent=False)
OK = Answer(200, {}, b"ok")


class Script:
    """A transport whose probes are answered as told; the last answer stands. Notes when they came."""

    def __init__(self, *outcomes: Answer | Exception) -> None:
        self.outcomes = list(outcomes)
        self.at: list[float] = []

    async def request(self, method: str, target: str, **options: Any) -> Answer:
        assert (method, target) == ("GET", "/readyz")
        assert options["deadline"] <= PROBE_TIMEOUT
        self.at.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.001)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def stream(self, target: str, *, deadline: float) -> Any:
        raise AssertionError("nobody streams a probe")

    async def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def reaching(script: Script) -> AsyncIterator[Reach]:
    reach = Reach(script, random=lambda: 0.5)
    try:
        yield reach
    finally:
        await reach.close()


async def waits(reach: Reach, seconds: float) -> tuple[bool, float]:
    """Whether `pause` says that the server is back, and how long it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    return await reach.pause(seconds), loop.time() - began


@pytest.mark.parametrize("outage", [0.5, 3.0, 10.0, 300.0])
async def test_bug_an_outage_is_over_and_the_back_off_still_waited(
    server: FakeApiServer, client: Client, outage: float
) -> None:
    """Ten seconds without a server had grown the delay to another four; five minutes to half a minute."""
    async with Watching(server, client).run() as w:
        await asyncio.sleep(20)
        server.go_away()
        made(server, "a")
        await asyncio.sleep(outage)
        assert w.names() == []
        assert server.refused <= 6 + outage / 0.8 + 12, "a probe a second, and the reflector's own few"
        server.listening = True
        await asyncio.sleep(1.0 + SPREAD + 0.05)
        assert w.names() == ["ns/a"]
        assert len(lists(server)) == 1, "the version is as good as before"


async def test_many_watches_share_one_prober_and_are_woken_apart(server: FakeApiServer) -> None:
    draws = iter([n / 97 % 1 for n in range(1, 100_000, 13)])
    async with Client(server, random=lambda: next(draws)) as client, contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(Watching(server, client).run())
        await asyncio.sleep(20)
        server.go_away()
        await asyncio.sleep(120)
        assert server.refused <= 120 / 0.8 + 6 + 20 * 12
        probes, before = server.probes, len(watches(server))
        server.listening = True
        loop = asyncio.get_running_loop()
        began, times = loop.time(), []
        while len(watches(server)) < before + 20:
            times.append((len(watches(server)) - before, loop.time()))
            await asyncio.sleep(0.01)
            assert loop.time() - began < 1.3
        assert server.probes == probes + 1
        assert len({count for count, _ in times}) > 5, "not all in one instant"


@pytest.mark.parametrize("outcome", [OK, status_answer(503), Timeout("late"), TooManyRequests("busy")])
async def test_who_is_there_is_left_to_the_back_off_of_each_request(outcome: Answer | Exception) -> None:
    """A server that takes connections and breaks them, is busy, failing or slow: the whole delay is waited for."""
    async with reaching(script := Script(outcome)) as reach:
        assert await waits(reach, 30.0) == (False, pytest.approx(30.0))
        assert len(script.at) == 1
        assert not reach.away


@pytest.mark.parametrize("answer", [OK, status_answer(500), status_answer(429), status_answer(403)])
async def test_any_answer_ends_an_outage(answer: Answer) -> None:
    """A server that has just started calls itself not ready for a while, and serves requests meanwhile."""
    async with reaching(script := Script(REFUSED, REFUSED, answer)) as reach:
        back, seconds = await waits(reach, 30.0)
        assert back
        assert seconds < 1
        assert len(script.at) == 3


async def test_bug_who_waits_was_woken_in_the_order_of_addresses_in_memory() -> None:
    """A seed of the simulation, replayed, drew the same jitter for other waiters."""
    woken: list[int] = []

    async def wait(reach: Reach, number: int) -> None:
        await reach.pause(30.0)
        woken.append(number)

    draws = itertools.count()  # each is later than the one before
    reach = Reach(Script(REFUSED, REFUSED, OK), random=lambda: next(draws) / 1000)
    async with asyncio.TaskGroup() as tasks:
        for number in range(50):
            tasks.create_task(wait(reach, number))
    await reach.close()
    assert woken == list(range(50))


async def test_bug_one_probe_that_was_late_ended_the_looking_for_a_server_that_was_away() -> None:
    """A server that starts on a busy machine accepts connections long before it answers; it is asked less and less."""
    async with reaching(script := Script(REFUSED, *[Timeout("late")] * 5, OK)) as reach:
        back, seconds = await waits(reach, 60.0)
        assert back
        assert seconds > 10
        assert [later - sooner > 0.5 for sooner, later in zip(script.at[1:], script.at[2:], strict=False)] == [True] * 5


async def test_any_request_that_is_answered_says_that_it_is_back(server: FakeApiServer, client: Client) -> None:
    server.listening = False
    pause = asyncio.create_task(client.reach.pause(60.0))
    await asyncio.sleep(0.05)
    assert client.reach.away
    server.listening = True
    assert await client.find(CONFIG_MAP, "none", "ns") is None, "a 404 is an answer"
    async with asyncio.timeout(SPREAD + 0.01):
        assert await pause
    assert not client.reach.away


@pytest.mark.parametrize("answer", [status_answer(429, "TooManyRequests", retry_after=7), status_answer(503)])
async def test_3_2_6_who_is_told_to_wait_after_a_return_waits(
    server: FakeApiServer, client: Client, answer: Answer
) -> None:
    async with Watching(server, client).run() as w:
        await asyncio.sleep(20)
        server.go_away()
        await asyncio.sleep(60)
        server.fail(answer, times=2)
        before = len(server.requests)
        server.listening = True
        made(server, "a")
        await asyncio.sleep(1.3)
        assert len(server.requests) == before + 1
        await asyncio.sleep(25)
        assert w.names() == ["ns/a"], "delays start anew: it was a minute away"
        times = len(server.requests) - before
        assert times <= 4


async def test_suspicions_cost_no_more_than_a_probe_each_and_about_one_a_second(server: FakeApiServer) -> None:
    async with reaching(script := Script(OK)) as reach:
        for _ in range(1000):
            reach.suspect()
            await asyncio.sleep(0.01)
        assert 8 <= len(script.at) <= 16


async def test_a_server_that_comes_and_goes_is_asked_about_once_a_second(server: FakeApiServer, client: Client) -> None:
    async with Watching(server, client).run():
        await asyncio.sleep(20)
        before = len(server.requests)
        for _ in range(120):
            server.go_away()
            await asyncio.sleep(0.3)
            server.listening = True
            await asyncio.sleep(0.2)
        assert server.refused + server.probes <= 60 / 0.5 * 2
        assert len(server.requests) - before <= 60 / 0.5


async def test_a_call_is_not_repeated_while_nobody_is_there(server: FakeApiServer, client: Client) -> None:
    server.listening = False
    for number in range(3):
        before = server.refused
        with pytest.raises(Unreachable):
            await client.get(CONFIG_MAP, "a", "ns")
        calls = server.refused - before
        assert calls == ATTEMPTS if number == 0 else calls <= 2, "then it is known"
        client.reach.suspect()
        await asyncio.sleep(0.01)


async def test_close_ends_the_prober(server: FakeApiServer) -> None:
    client = Client(server)
    server.listening = False
    client.reach.suspect()
    await asyncio.sleep(5)
    await client.close()
    before = server.refused
    await asyncio.sleep(60)
    assert server.refused == before
    assert [task.get_name() for task in asyncio.all_tasks() if "probe" in task.get_name()] == []
    await client.close()


async def test_3_2_7_a_server_that_comes_and_goes_and_is_busy_in_between_is_backed_off_from(
    server: FakeApiServer, client: Client
) -> None:
    """Only failures to find anybody are forgiven."""
    async with Watching(server, client).run():
        await asyncio.sleep(20)
        server.fail(status_answer(429, "TooManyRequests"), times=10_000)
        before = len(server.requests)
        for _ in range(100):
            server.go_away()
            await asyncio.sleep(2)
            server.listening = True
            await asyncio.sleep(2)
        assert len(server.requests) - before <= 2 * 16, (
            "one after each delay that was waited for, and one after each return"
        )


def test_3_2_7_failures_are_forgiven_down_to_what_was_before() -> None:
    backoff = Backoff(BackoffPolicy(), random=lambda: 0.0)
    assert [backoff.next(0.0) for _ in range(3)] == [0.8, 1.6, 3.2]
    assert backoff.failures == 3
    backoff.forgive(1)
    assert backoff.next(1.0) == 1.6
    backoff.forgive(7)
    assert backoff.next(2.0) == 3.2
