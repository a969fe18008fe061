"""Passes that wrote come once more: what the watch never told is found."""

from __future__ import annotations

import asyncio

from yoban.kube.client import Client
from yoban.kube.informer import Informer
from yoban.kube.resource import CONFIG_MAP
from yoban.runtime import (
    ObjectKey,
    Result,
    Retryable,
)
from yoban.testing.apiserver import FakeApiServer

from tests.unit.runtime.controllers import KEY, controller, running


async def test_bug_what_a_pass_made_was_gone_before_the_cache_ever_showed_it(
    server: FakeApiServer, client: Client, informer: Informer
) -> None:
    """The watch is silent while it is made and deleted, and history is gone when it is resumed: no event tells, ever."""
    passes: list[float] = []
    loop = asyncio.get_running_loop()

    async def reconcile(key: ObjectKey) -> Result | None:
        passes.append(loop.time())
        if informer.get(key) is None:
            await client.apply(CONFIG_MAP, {"metadata": {"namespace": "ns", "name": key.name}}, field_manager="m")
        return None

    task = asyncio.create_task(informer.run())
    await informer.wait_synced()
    async with running(c := controller(reconcile)):
        await asyncio.sleep(1)
        with server.silence():
            c.enqueue(KEY)
            await asyncio.sleep(1)
            server.remove(CONFIG_MAP, "ns", "a")
            server.compact()
        await asyncio.sleep(95)
        assert server.find(CONFIG_MAP, "ns", "a") is not None
        before = len(server.writes())
        await asyncio.sleep(1000)
        assert len(server.writes()) == before, "a pass that finds all well ends it"
        assert len(passes) <= 4
        assert c._unconfirmed == {}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_bug_a_pass_in_between_took_the_place_of_the_one_that_confirms(client: Client) -> None:
    passes: list[float] = []
    loop = asyncio.get_running_loop()

    async def reconcile(key: ObjectKey) -> Result | None:
        passes.append(loop.time())
        if len(passes) == 1:
            await client.apply(CONFIG_MAP, {"metadata": {"namespace": "ns", "name": "x"}}, field_manager="m")
        return None

    async with running(c := controller(reconcile)):
        c.enqueue(KEY)
        await asyncio.sleep(10)
        c.enqueue(KEY)
        await asyncio.sleep(500)
    assert [round(at - passes[0]) for at in passes] == [0, 10, 90]


async def test_a_failed_pass_that_wrote_is_not_confirmed_before_its_back_off(client: Client) -> None:
    passes: list[float] = []
    loop = asyncio.get_running_loop()

    async def reconcile(key: ObjectKey) -> Result | None:
        passes.append(loop.time())
        await client.apply(CONFIG_MAP, {"metadata": {"namespace": "ns", "name": "x"}}, field_manager="m")
        raise Retryable("no", retry_after=300)

    async with running(c := controller(reconcile)):
        c.enqueue(KEY)
        await asyncio.sleep(500)
    assert [round(at - passes[0]) for at in passes] == [0, 300]
    passes.clear()
    async with running(c := controller(reconcile, confirm=None)):
        c.enqueue(KEY)
        await asyncio.sleep(100)
    assert len(passes) == 1
