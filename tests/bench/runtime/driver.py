"""The third process: makes and changes Cards, and sees by a watch of its own when they are Ready.

Uses nothing of Yoban. Times are `time.monotonic()` seconds of this process; a status counts from the moment when its event
was read. The watch outlives an API server that goes away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import msgspec

from tests.bench.machine import BenchError
from tests.bench.runtime.world import GROUP, PLURAL, World

CONCURRENCY = 16
T = TypeVar("T")


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    generation: int = 0
    resource_version: str = ""


class _Condition(msgspec.Struct, rename="camel", frozen=True):
    type: str
    status: str
    observed_generation: int = 0


class _Status(msgspec.Struct, rename="camel", frozen=True):
    observed_generation: int = 0
    conditions: tuple[_Condition, ...] = ()


class _Card(msgspec.Struct):
    metadata: _Metadata
    status: _Status = _Status()


class _Event(msgspec.Struct):
    type: str
    object: _Card


class _List(msgspec.Struct):
    metadata: _Metadata
    items: list[_Card]


_CARD, _LIST, _EVENT = (msgspec.json.Decoder(kind) for kind in (_Card, _List, _Event))


def name_of(number: int) -> str:
    """The name of the Card of that number."""
    return f"card-{number:05d}"


class Driver:
    """An asynchronous context manager. One namespace; `watch` must run before anything is awaited."""

    def __init__(self, world: World, namespace: str) -> None:
        base = world.api.url
        self._cards = f"{base}/apis/{GROUP}/v1/namespaces/{namespace}/{PLURAL}"
        self._maps = f"{base}/api/v1/namespaces/{namespace}/configmaps"
        self._trust = ssl.create_default_context(cafile=world.api.ca_file)
        self._token = world.api.token
        self._seen: dict[str, list[tuple[int, float]]] = {}
        self._news: asyncio.Event = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self.generations: dict[str, int] = {}
        """The generation that each Card has by the last answer of the API server."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._trust),
            headers={"Authorization": f"Bearer {self._token}", "User-Agent": "bench-driver"},
            timeout=aiohttp.ClientTimeout(total=60),
        )
        opened = asyncio.Event()
        self._watching = asyncio.create_task(self._watch(opened))
        waiting = asyncio.create_task(opened.wait())
        await asyncio.wait({waiting, self._watching}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not opened.is_set():
            await self.__aexit__(None, None, None)
            raise BenchError("the driver cannot watch the Cards")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._session.close()

    # -- writing

    async def create(self, numbers: Iterable[int]) -> dict[str, float]:
        """Make Cards as fast as the API server takes them; when each request was sent, by name."""
        sent: dict[str, float] = {}

        async def one(number: int) -> None:
            name = name_of(number)
            body = {
                "apiVersion": f"{GROUP}/v1",
                "kind": "Card",
                "metadata": {"name": name},
                "spec": {"text": f"the first text of {name}"},
            }
            sent[name] = time.monotonic()
            await self._write("POST", self._cards, body, "application/json", name)

        await _at_once(one, numbers)
        return sent

    async def change(self, name: str, text: str) -> float:
        """Change the spec of a Card; when the request was sent."""
        sent = time.monotonic()
        await self._write(
            "PATCH", f"{self._cards}/{name}", {"spec": {"text": text}}, "application/merge-patch+json", name
        )
        return sent

    async def change_all(self, names: Sequence[str], text: str) -> dict[str, float]:
        """As `change`, for many at once."""
        sent: dict[str, float] = {}

        async def one(name: str) -> None:
            sent[name] = await self.change(name, text)

        await _at_once(one, names)
        return sent

    async def alone(self, numbers: Iterable[int]) -> float:
        """Make Cards and do an operator's two writes for each, knowing beforehand which: seconds until all is stored.

        As many requests at once as driver and operator have together.
        """
        began = time.monotonic()

        async def one(number: int) -> None:
            await self.create([number])
            name = f"{name_of(number)}-card"
            metadata = {"name": name, "labels": {"app": "alone"}}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"text": name}}
            async with self._session.post(self._maps, json=body) as answer:
                if answer.status >= 300:
                    raise BenchError(f"POST {name}: {answer.status}")
            await self.report([number])

        await _at_once(one, numbers, 2 * CONCURRENCY)
        return time.monotonic() - began

    async def report(self, numbers: Iterable[int]) -> None:
        """Write the status of Cards, as an operator would."""

        async def one(number: int) -> None:
            name = name_of(number)
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            ready = {"type": "Ready", "status": "True", "reason": "CardWritten", "message": ""}
            conditions = [{**ready, "lastTransitionTime": stamp, "observedGeneration": 1}]
            body = {"status": {"observedGeneration": 1, "conditions": conditions}}
            await self._write("PATCH", f"{self._cards}/{name}/status", body, "application/merge-patch+json", name)

        await _at_once(one, numbers)

    async def touch(self, names: Sequence[str], mark: str) -> None:
        """Change an annotation: a pass for whoever looks at annotations, with nothing to do in it."""

        async def one(name: str) -> None:
            body = {"metadata": {"annotations": {"example.dev/touched": mark}}}
            await self._write("PATCH", f"{self._cards}/{name}", body, "application/merge-patch+json", name)

        await _at_once(one, names)

    async def _write(self, method: str, url: str, body: object, content_type: str, name: str) -> None:
        headers = {"Content-Type": content_type}
        async with self._session.request(method, url, data=json.dumps(body), headers=headers) as answer:
            text = await answer.read()
            if answer.status >= 300:
                raise BenchError(f"{method} {name}: {answer.status} {text[:300]!r}")
        self.generations[name] = _CARD.decode(text).metadata.generation

    async def empty(self) -> None:
        """Delete all Cards and ConfigMaps of the namespace."""
        for url in (self._cards, self._maps):
            async with self._session.delete(url, timeout=aiohttp.ClientTimeout(total=300)) as answer:
                if answer.status >= 300:
                    raise BenchError(f"emptying: {answer.status} {await answer.text()}")

    # -- seeing

    def seen(self, name: str, generation: int) -> float | None:
        """When the Card was first seen to be Ready at that generation or a later one."""
        return next((at for known, at in self._seen.get(name, ()) if known >= generation), None)

    async def ready(self, names: Iterable[str], deadline: float) -> float:
        """Wait until all are Ready at their present generation; when the last was seen. BenchError after `deadline` s."""
        left = set(names)
        last = 0.0
        try:
            async with asyncio.timeout(deadline):
                while left:
                    self._news.clear()
                    for name in list(left):
                        at = self.seen(name, self.generations[name])
                        if at is not None:
                            left.remove(name)
                            last = max(last, at)
                    if left:
                        await self._news.wait()
                        await asyncio.sleep(0.02)  # a batch of news, not each of thousands
        except TimeoutError as error:
            raise BenchError(f"{len(left)} Cards are not Ready after {deadline:g} s") from error
        return last

    async def _watch(self, opened: asyncio.Event) -> None:
        forever = aiohttp.ClientTimeout(total=None, sock_read=None)
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with self._session.get(self._cards, raise_for_status=True) as answer:
                    listed = _LIST.decode(await answer.read())
                for card in listed.items:
                    self._note(card)
                query = {"watch": "true", "resourceVersion": listed.metadata.resource_version}
                watch = self._session.get(self._cards, params=query, timeout=forever, raise_for_status=True)
                async with watch as answer:
                    opened.set()
                    await self._follow(answer.content.readany)
            await asyncio.sleep(0.05)

    async def _follow(self, read: Callable[[], Awaitable[bytes]]) -> None:
        rest = b""
        while data := await read():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                event = _EVENT.decode(line)
                if event.type in ("ADDED", "MODIFIED"):
                    self._note(event.object)
                elif event.type == "DELETED":
                    self._seen.pop(event.object.metadata.name, None)
                else:
                    return

    def _note(self, card: _Card) -> None:
        ready = [c.observed_generation for c in card.status.conditions if c.type == "Ready" and c.status == "True"]
        generation = min(card.status.observed_generation, *ready) if ready else 0
        known = self._seen.setdefault(card.metadata.name, [])
        if generation > (known[-1][0] if known else 0):
            known.append((generation, time.monotonic()))
            self._news.set()


async def _at_once(work: Callable[[T], Awaitable[None]], things: Iterable[T], at_once: int = CONCURRENCY) -> None:
    waiting = iter(things)

    async def worker() -> None:
        for thing in waiting:
            await work(thing)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(worker())
