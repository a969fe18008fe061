"""The small HTTP server as bytes on loopback: what is a request, what is refused, and what ends a connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from yoban.runtime import http
from yoban.runtime.http import LARGEST_HEAD, Answer, HttpServer, Request

Respond = Callable[[Request], Awaitable[Answer]]


async def echo(request: Request) -> Answer:
    if request.path == "/fails":
        raise RuntimeError("secret detail")
    if request.path == "/none":
        return Answer(204)
    told = f"{request.method} {request.path} {dict(request.query)} {request.headers.get('x-y', '-')} "
    return Answer(200, told.encode() + request.body)


@contextlib.asynccontextmanager
async def served(respond: Respond = echo, *, largest_body: int = 1000) -> AsyncIterator[int]:
    server = HttpServer(respond, largest_body=largest_body)
    port = await server.start("127.0.0.1", 0)
    try:
        yield port
    finally:
        await server.stop()
        await server.stop()


async def talk(port: int, said: bytes) -> bytes:
    """Say something and return all that is answered until the server ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(said)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def test_a_general_client_is_served_on_one_connection() -> None:
    async with served() as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        for method, path, data, expected in (
            ("GET", "/a?b=c&d=", None, "GET /a {'b': 'c', 'd': ''} v "),
            ("PUT", "/a", b"body", "PUT /a {} v body"),
            ("GET", "/a?x=%2Fy", None, "GET /a {'x': '/y'} v "),
        ):
            async with session.request(method, path, data=data, headers={"X-Y": "v"}) as response:
                assert (response.status, await response.text()) == (200, expected)
        async with session.get("/none") as response:
            assert (response.status, await response.read()) == (204, b"")
            assert "Content-Length" not in response.headers
        async with session.head("/a") as response:
            assert response.status == 200 and await response.read() == b""
            assert int(response.headers["Content-Length"]) > 0
        async with session.get("/fails") as response:
            assert response.status == 500
            assert "secret" not in await response.text()
        async with session.get("/a") as response:
            assert response.status == 200
        assert session.connector is not None
        assert sum(map(len, session.connector._conns.values())) == 1


async def test_two_requests_may_come_at_once() -> None:
    async with served() as port:
        one = b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n"
        two = b"POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
        answer = await talk(port, one + two)
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert answer.index(b"GET /1") < answer.index(b"POST /2 {} - abc")


async def test_a_caller_that_waits_for_leave_to_send_gets_it() -> None:
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        async with asyncio.timeout(10):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"ok")
            assert (await reader.read()).endswith(b"PUT /a {} - ok")
        writer.close()


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET a HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET /\x01 HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nA: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 2 * LARGEST_HEAD + b"\r\n\r\n", 431),
    ],
)
async def test_what_is_refused_ends_the_connection(said: bytes, status: int) -> None:
    asked: list[Request] = []

    async def never(request: Request) -> Answer:
        asked.append(request)
        return Answer()

    async with served(never) as port:
        answer = await talk(port, said)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Connection: close" in answer
    assert not asked


@pytest.mark.parametrize(
    ("wish", "keep"), [("1.1\r\nHost: x", True), ("1.1\r\nHost: x\r\nConnection: Close", False), ("1.0\r\nA: b", False)]
)
async def test_whether_the_connection_stays(wish: str, keep: bool) -> None:
    async with served() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(10):
            for _ in range(2):
                writer.write(f"GET / HTTP/{wish}\r\n\r\n".encode())
            writer.write_eof()
            assert (await reader.read()).count(b"HTTP/1.1 200 OK") == (2 if keep else 1)
        writer.close()


async def test_a_body_in_chunks_is_bounded_too() -> None:
    chunked = b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    async with served() as port:
        assert (await talk(port, chunked + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")).endswith(b"PUT / {} - abc")
        assert (await talk(port, chunked + b"3e9\r\n" + b"a" * 1001 + b"\r\n")).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab"])
async def test_who_stands_still_is_left(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(http, "REQUEST_SECONDS", 0.05)
    async with served() as port:
        assert await talk(port, said) == b""


async def test_who_goes_away_concerns_nobody_else() -> None:
    async with served() as port:
        for said in (b"", b"GET / HT", b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab"):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            writer.transport.abort()
        assert b"200 OK" in await talk(port, b"GET / HTTP/1.0\r\n\r\n")


async def test_at_the_stop_idle_connections_end_and_a_request_under_way_is_answered() -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> Answer:
        begun.set()
        await go.wait()
        return Answer(200, b"done")

    server = HttpServer(slow)
    port = await server.start("127.0.0.1", 0)
    reader, idle = await asyncio.open_connection("127.0.0.1", port)
    asking = asyncio.create_task(talk(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
    await begun.wait()
    stopping = asyncio.create_task(server.stop())
    async with asyncio.timeout(10):
        assert await reader.read() == b""
        go.set()
        assert (await asking).endswith(b"done")
        await stopping
    idle.close()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_at_the_stop_a_request_has_no_longer_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "STOP_SECONDS", 0.05)
    begun = asyncio.Event()

    async def forever(_: Request) -> Answer:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    server = HttpServer(forever)
    port = await server.start("127.0.0.1", 0)
    asking = asyncio.create_task(talk(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
    await begun.wait()
    async with asyncio.timeout(10):
        await server.stop()
        assert await asking == b""
