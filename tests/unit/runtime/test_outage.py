"""Keys that found no API server come as soon as it is back."""

from __future__ import annotations

import asyncio

import pytest
from yoban.kube.client import Client
from yoban.kube.errors import Conflict, Unreachable
from yoban.kube.informer import Informer
from yoban.kube.ratelimit import RateLimiter, TokenBucket
from yoban.kube.resource import CONFIG_MAP
from yoban.runtime import (
    Controller,
    ObjectKey,
    Retryable,
)
from yoban.runtime.controller import LONGEST
from yoban.testing.apiserver import FakeApiServer

from tests.unit.runtime.controllers import KEY, controller, running


async def test_bug_a_key_waited_out_its_back_off_when_the_api_server_was_back(
    server: FakeApiServer, client: Client
) -> None:
    """What found no API server for a minute came a minute after it was back; and each pass tried four times."""
    server.put(CONFIG_MAP, {"metadata": {"namespace": "ns", "name": "a"}})
    informer = Informer(client, CONFIG_MAP)
    watching = asyncio.create_task(informer.run())
    await informer.wait_synced()
    loop = asyncio.get_running_loop()
    done: dict[str, list[float]] = {}

    async def reconcile(key: ObjectKey) -> None:
        try:
            await client.get(CONFIG_MAP, "a", "ns")
        except Unreachable as error:
            raise Retryable("cannot see to it") from error
        done.setdefault(key.name, []).append(loop.time())

    c = controller(reconcile, workers=4).watches(informer)
    async with running(c):
        await asyncio.sleep(30)
        done.clear()
        server.go_away()
        keys = [ObjectKey("ns", f"k{number}") for number in range(40)]
        for key in keys:
            c.enqueue(key)
        await asyncio.sleep(60)
        assert done == {}
        assert server.refused <= 60 / 0.8 + 40 * (2 * 4 + 60 / 5 + 2), "few calls while nobody is there"
        server.listening = True
        back = loop.time()
        await asyncio.sleep(2)
        assert {name: len(times) for name, times in done.items()} == {key.name: 1 for key in keys} | (
            {"a": 1} if "a" in done else {}
        )
        times = sorted(times[0] - back for times in done.values())
        assert times[-1] <= 1.0 + 0.5 + 0.1
        assert times[-1] - times[0] >= 0.3, "not all at once"
        await asyncio.sleep(300)
        assert all(len(done[key.name]) == 1 for key in keys), "once is enough"
        assert len(c.queue.limiter) == 0
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_a_key_that_failed_for_another_reason_keeps_its_own_back_off(
    server: FakeApiServer, client: Client
) -> None:
    informer = Informer(client, CONFIG_MAP)
    watching = asyncio.create_task(informer.run())
    await informer.wait_synced()
    calls = 0

    async def reconcile(key: ObjectKey) -> None:
        nonlocal calls
        calls += 1
        raise Retryable("the store is away", retry_after=100.0)

    async with running(c := controller(reconcile).watches(informer)):
        c.enqueue(KEY)
        await asyncio.sleep(1)
        server.go_away()
        await asyncio.sleep(10)
        server.listening = True
        await asyncio.sleep(10)
        assert calls == 1
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


@pytest.mark.parametrize("known", [True, False], ids=["away", "answers-others"])
async def test_bug_the_back_off_of_an_outage_was_still_there_for_the_first_failure_after_it(
    server: FakeApiServer, client: Client, known: bool
) -> None:
    """One Conflict after ten minutes without a server made a key wait for ten minutes more.

    Also when the probe was answered, and only this key's passes found nobody: then nothing says that it is over.
    """
    informer = Informer(client, CONFIG_MAP)
    watching = asyncio.create_task(informer.run())
    await informer.wait_synced()
    loop = asyncio.get_running_loop()
    finds_nobody = True
    failed: list[float] = []
    done: list[float] = []

    async def reconcile(key: ObjectKey) -> None:
        if finds_nobody:
            raise Unreachable("nobody")
        if len(failed) < 3:
            failed.append(loop.time())
            raise Conflict("somebody wrote in between")
        done.append(loop.time())

    bucket = TokenBucket(rate=0.001, burst=3)
    c = Controller("test", reconcile, limiter=RateLimiter(jitter=0.0, bucket=bucket)).watches(informer)
    async with running(c):
        if known:
            server.go_away()
        c.enqueue(KEY)
        await asyncio.sleep(600)
        assert client.reach.away is known
        finds_nobody = False
        server.listening = True
        over = loop.time()
        await asyncio.sleep(LONGEST + 2)
        assert failed[0] - over <= (2.0 if known else LONGEST)
        assert [time - failed[0] for time in done] == [pytest.approx(0.005 + 0.01 + 0.02)]
        assert len(c.queue.limiter) == len(c._lost) == 0
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_what_failed_for_another_reason_before_an_outage_is_not_forgiven(
    server: FakeApiServer, client: Client
) -> None:
    informer = Informer(client, CONFIG_MAP)
    watching = asyncio.create_task(informer.run())
    await informer.wait_synced()
    finds_nobody = False

    async def reconcile(key: ObjectKey) -> None:
        raise Unreachable("nobody") if finds_nobody else Retryable("no")

    async with running(c := controller(reconcile).watches(informer)):
        c.enqueue(KEY)
        await asyncio.sleep(3)
        failures = c.queue.limiter.failures(KEY)
        finds_nobody = True
        server.go_away()
        await asyncio.sleep(60)
        assert failures <= c.queue.limiter.failures(KEY) <= failures + 1
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
