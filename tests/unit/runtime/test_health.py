"""The health server, over HTTP on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from yoban.runtime import HealthServer


@contextlib.asynccontextmanager
async def served(server: HealthServer) -> AsyncIterator[str]:
    task = asyncio.create_task(server.run())
    ready = asyncio.create_task(server.started())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        ready.cancel()
        task.result()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.stop()
        await task


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def test_live_ready_and_metrics() -> None:
    server = HealthServer("127.0.0.1", 0, metrics=lambda: (b"up 1\n", "text/plain"))
    async with served(server) as url:
        assert str(server.port) in server.name
        assert await get(f"{url}/livez") == (200, "ok\n")
        assert await get(f"{url}/healthz") == (200, "ok\n")
        assert await get(f"{url}/readyz") == (200, "ok\n")
        assert await get(f"{url}/metrics") == (200, "up 1\n")


async def test_a_failed_check_is_named_and_one_that_raises_has_failed() -> None:
    def bad() -> str | None:
        raise RuntimeError("a bug")

    server = HealthServer("127.0.0.1", 0, ready={"caches": lambda: "not synced", "fine": lambda: None}, live={"x": bad})
    async with served(server) as url:
        assert await get(f"{url}/readyz") == (503, "caches: not synced\n")
        status, text = await get(f"{url}/livez")
        assert status == 503
        assert "a bug" in text
        assert (await get(f"{url}/metrics"))[0] == 404


async def test_a_port_that_is_taken_is_an_error() -> None:
    server = HealthServer("127.0.0.1", 0)
    async with served(server):
        with pytest.raises(OSError, match="address already in use"):
            await HealthServer("127.0.0.1", server.port).run()


async def test_traces_are_shown_by_id_where_they_are_kept() -> None:
    server = HealthServer("127.0.0.1", 0, traces=lambda trace: f'{{"trace":"{trace}"}}\n'.encode())
    async with served(server) as url:
        status, text = await get(f"{url}/traces/00112233445566778899aabbccddeeff")
        assert status == 200
        assert "00112233445566778899aabbccddeeff" in text
