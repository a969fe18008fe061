"""The fault proxy before a real API server: transparent without rules, exact with them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from deploy.lab.apiserver import LocalApiServer
from deploy.lab.proxy import FaultProxy
from deploy.lab.proxy_control import control

pytestmark = pytest.mark.server
MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
async def proxy(local_apiserver: LocalApiServer) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(local_apiserver) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: FaultProxy, local_apiserver: LocalApiServer) -> AsyncIterator[aiohttp.ClientSession]:
    context = ssl.create_default_context(cafile=proxy.ca_file)
    async with aiohttp.ClientSession(
        proxy.url,
        connector=aiohttp.TCPConnector(ssl=context),
        headers={"Authorization": f"Bearer {local_apiserver.token}"},
        timeout=aiohttp.ClientTimeout(total=30),
    ) as session:
        yield session
        names = [m["metadata"]["name"] for m in (await maps(session))["items"]]
        for name in names:
            if name.startswith("proxy-"):
                await (await session.delete(f"{MAPS}/{name}")).read()


async def maps(client: aiohttp.ClientSession) -> Any:
    async with client.get(MAPS) as answer:
        return await answer.json()


async def make(client: aiohttp.ClientSession, name: str) -> int:
    async with client.post(MAPS, json={"metadata": {"name": name}, "data": {"a": "b" * 100}}) as answer:
        await answer.read()
        return answer.status


@contextlib.asynccontextmanager
async def watch(client: aiohttp.ClientSession) -> AsyncIterator[aiohttp.ClientResponse]:
    version = (await maps(client))["metadata"]["resourceVersion"]
    async with client.get(MAPS, params={"watch": "1", "resourceVersion": version}) as stream:
        try:
            yield stream
        finally:
            stream.close()


async def test_passes_everything_without_rules(client: aiohttp.ClientSession, proxy: FaultProxy) -> None:
    async with watch(client) as stream:
        for number in range(20):
            assert await make(client, f"proxy-{number}") == 201
        seen = [json.loads(await stream.content.readline()) for _ in range(20)]
        assert [event["object"]["metadata"]["name"] for event in seen] == [f"proxy-{n}" for n in range(20)]
    record = await proxy.wait_request("watch=1")
    async with asyncio.timeout(10):
        while record.end is None:  # an abandoned idle watch ends at the API server too
            await asyncio.sleep(0.01)
    assert (record.status, record.events) == (200, 20)
    assert len(proxy.matching(MAPS, "POST")) == 20


async def test_kubectl_works_through_it(proxy: FaultProxy, local_apiserver: LocalApiServer) -> None:
    from deploy.lab.kubectl import kubectl

    output = await asyncio.to_thread(kubectl, proxy.kubeconfig, "get", "namespaces", "--output", "name")
    assert "namespace/default" in output
    assert proxy.matching("/namespaces")


@pytest.mark.parametrize("status", [409, 410, 429, 500])
async def test_answers_a_status_for_exactly_the_next_requests(
    client: aiohttp.ClientSession, proxy: FaultProxy, status: int
) -> None:
    rule = proxy.answer(status, MAPS, method="GET", times=2, retry_after=7 if status == 429 else None)
    seen = []
    for _ in range(3):
        async with client.get(MAPS) as answer:
            seen.append(answer.status)
            body = await answer.json()
            if answer.status == status:
                assert body["kind"] == "Status"
                assert body["code"] == status
                assert answer.headers.get("Retry-After") == ("7" if status == 429 else None)
    assert seen == [status, status, 200]
    await rule.wait(1)


async def test_answers_html_like_a_load_balancer(client: aiohttp.ClientSession, proxy: FaultProxy) -> None:
    proxy.answer(502, html=True)
    async with client.get(MAPS) as answer:
        assert (answer.status, answer.content_type) == (502, "text/html")
        assert "Bad Gateway" in await answer.text()


async def test_delays(client: aiohttp.ClientSession, proxy: FaultProxy) -> None:
    rule = proxy.delay(3.0, MAPS)
    begin = time.monotonic()
    delayed = asyncio.ensure_future(maps(client))
    await rule.wait(5)
    await maps(client)
    assert not delayed.done(), "the one after it is not delayed"
    await delayed
    assert time.monotonic() - begin >= 3.0


async def test_a_dropped_write_is_never_done(client: aiohttp.ClientSession, proxy: FaultProxy) -> None:
    proxy.drop(MAPS, method="POST")
    with pytest.raises(aiohttp.ClientConnectionError):
        await make(client, "proxy-dropped")
    assert "proxy-dropped" not in str(await maps(client))


async def test_a_lost_answer_hides_a_write_that_was_done(client: aiohttp.ClientSession, proxy: FaultProxy) -> None:
    proxy.lose(MAPS, method="POST")
    with pytest.raises(aiohttp.ClientConnectionError):
        await make(client, "proxy-lost")
    assert await make(client, "proxy-lost") == 409


@pytest.mark.parametrize("after", [0, 2])
async def test_ends_a_watch_cleanly_after_its_events(
    client: aiohttp.ClientSession, proxy: FaultProxy, after: int
) -> None:
    proxy.end_watches(after=after)
    async with watch(client) as stream:
        for number in range(3):
            await make(client, f"proxy-{number}")
        lines = [line async for line in stream.content]
        assert len(lines) == after
    async with watch(client) as stream:
        await make(client, "proxy-more")
        assert b"proxy-more" in await stream.content.readline()


async def test_cuts_a_watch(client: aiohttp.ClientSession, proxy: FaultProxy) -> None:
    proxy.end_watches(after=1, clean=False)
    async with watch(client) as stream:
        # Read already when it comes: a client that hears of the cut first forgets what came before it.
        line = asyncio.create_task(stream.content.readline())
        await make(client, "proxy-a")
        assert b"proxy-a" in await line
        with pytest.raises(aiohttp.ClientError):
            await stream.content.readline()


@pytest.mark.parametrize("after", [0, 1])
async def test_corrupts_one_line_of_a_watch(client: aiohttp.ClientSession, proxy: FaultProxy, after: int) -> None:
    proxy.corrupt(after=after)
    async with watch(client) as stream:
        for name in ("proxy-a", "proxy-b", "proxy-c"):
            await make(client, name)
        lines = [await stream.content.readline() for _ in range(3)]
        for number, line in enumerate(lines):
            if number == after:
                with pytest.raises(ValueError):
                    json.loads(line)
            else:
                json.loads(line)


async def test_expires_a_watch_with_an_error_event(client: aiohttp.ClientSession, proxy: FaultProxy) -> None:
    proxy.expire(after=1)
    async with watch(client) as stream:
        await make(client, "proxy-a")
        lines = [json.loads(line) async for line in stream.content]
        assert [line["type"] for line in lines] == ["ADDED", "ERROR"]
        assert lines[1]["object"]["code"] == 410


async def test_silence_keeps_the_connection_open(client: aiohttp.ClientSession, proxy: FaultProxy) -> None:
    proxy.silence("watch=1", after=1)
    proxy.silence(MAPS + "/absent")
    async with watch(client) as stream:
        await make(client, "proxy-a")
        await make(client, "proxy-b")
        assert b"proxy-a" in await stream.content.readline()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await stream.content.readline()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.get(MAPS + "/absent")


async def test_cut_pause_and_refuse_the_whole_connection(client: aiohttp.ClientSession, proxy: FaultProxy) -> None:
    async with watch(client) as stream:
        assert proxy.cut() >= 1
        with pytest.raises(aiohttp.ClientError):
            await stream.content.readline()
        proxy.pause()
        waiting = asyncio.ensure_future(maps(client))
        await proxy.wait_request(MAPS, method="GET", count=3)
        assert not (await asyncio.wait({waiting}, timeout=0.2))[0]
        proxy.resume()
        assert (await waiting)["kind"] == "ConfigMapList"
        await proxy.refuse()
        with pytest.raises(aiohttp.ClientConnectionError):
            await maps(client)
        await proxy.listen()
        await maps(client)


async def test_control_interface_adds_and_ends_rules(client: aiohttp.ClientSession, proxy: FaultProxy) -> None:
    async with control(proxy) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as remote:
        rule = {"action": "answer", "status": 500, "path": MAPS, "times": None}
        assert (await remote.post("/faults", json=rule)).status == 200
        assert (await client.get(MAPS)).status == 500
        listed = await (await remote.get("/faults")).json()
        assert [(r["action"], r["hits"]) for r in listed] == [("answer", 1)]
        assert (await remote.delete("/faults")).status == 200
        assert (await client.get(MAPS)).status == 200
        assert [r["status"] for r in await (await remote.get("/requests")).json()] == [500, 200]
        assert (await remote.post("/faults", json={"action": "answer", "stats": 1})).status == 400
        assert (await remote.post("/elsewhere")).status == 404
