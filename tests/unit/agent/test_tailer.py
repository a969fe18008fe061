"""When the next round of storing the tail is due."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from yoban.agent import tailer
from yoban.agent.notice import Notice
from yoban.agent.tailer import Tailer


class Shipped:
    """What a shipper tells of what it stored."""

    def __init__(self) -> None:
        self.progress = Notice()
        self.names: set[str] = set()

    def is_stored(self, name: str) -> bool:
        return name in self.names

    def store(self, name: str) -> None:
        self.names.add(name)
        self.progress.ring()


async def test_the_mark_follows_as_soon_as_what_it_waited_for_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tailer, "SHORTEST_PAUSE", 0.0)
    shipped = Shipped()
    tails = Tailer(cast(Any, None), cast(Any, shipped))
    tails._behind = "second"
    pause = asyncio.create_task(tails._pause(3600.0))
    shipped.store("first")
    for _ in range(10):
        await asyncio.sleep(0)
    assert not pause.done()
    shipped.store("second")
    async with asyncio.timeout(10):
        await pause


async def test_who_waits_for_nothing_pauses_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tailer, "SHORTEST_PAUSE", 0.0)
    shipped = Shipped()
    tails = Tailer(cast(Any, None), cast(Any, shipped))
    loop = asyncio.get_running_loop()
    began = loop.time()
    pause = asyncio.create_task(tails._pause(0.2))
    await asyncio.sleep(0)
    shipped.store("first")
    async with asyncio.timeout(10):
        await pause
    assert loop.time() - began >= 0.2
