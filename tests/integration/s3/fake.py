"""A server that speaks just enough S3 to be odd: it records requests and answers what a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from yoban.plugins import ObjectStore, StoreConfig
from yoban_s3.provider import S3Provider

KEYS = {"accessKeyId": "a", "secretAccessKey": "very-secret"}
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class Fake:
    """Answers by `answer`; `seen` has what came."""

    answer: Answer
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.method, request.path, dict(request.query), headers, await request.read()))
        return await self.answer(request)


def failure(status: int, code: str) -> web.Response:
    text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>words</Message></Error>'
    return web.Response(status=status, text=text, content_type="application/xml")


@asynccontextmanager
async def serving(answer: Answer, credentials: Mapping[str, str] = KEYS) -> AsyncIterator[tuple[Fake, ObjectStore]]:
    """A server and a store on it."""
    fake = Fake(answer)
    app = web.Application(client_max_size=1 << 27)
    app.router.add_route("*", "/{key:.*}", fake.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    fake.url = f"http://127.0.0.1:{port}"
    config = StoreConfig(bucket="bucket", endpoint=fake.url, credentials=credentials)
    try:
        async with S3Provider().open(config) as store:
            yield fake, store
    finally:
        await runner.cleanup()
