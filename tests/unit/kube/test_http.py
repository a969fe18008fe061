"""HTTP/1.1 as bytes: answers in any number of pieces, cut short or wrong, and which connections are used again."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from yoban.kube.http import HIGH_WATER, KEEP_SECONDS, Broken, Connection, NotConnected, Pool

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FakeTransport(asyncio.Transport):
    """Remembers what was done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False
        self.reading = True

    def write(self, data: Any) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def asked(method: str = "GET") -> tuple[Connection, FakeTransport]:
    connection, transport = Connection(), FakeTransport()
    connection.connection_made(transport)
    assert connection.open
    connection.send(method, b"x")
    return connection, transport


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nretry-AFTER:  7 \r\n\r\n"
    b"3\r\nabc\r\nA;ext=1\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (CHUNKED, b"abc0123456789"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    ],
)
async def test_an_answer_may_come_in_any_pieces(answer: bytes, body: bytes, size: int) -> None:
    connection, _ = asked()
    for at in range(0, len(answer), size):
        connection.data_received(answer[at : at + size])
    assert await connection.head() == (204 if b"204" in answer else 200)
    if answer is CHUNKED:
        assert connection.headers["Retry-After"] == "7"
    assert await connection.body() == body
    assert connection.finish()
    assert connection.open


async def test_pieces_are_given_as_they_come_and_the_end_is_empty() -> None:
    connection, _ = asked()
    reading = asyncio.create_task(connection.read())
    connection.data_received(CHUNKED[:-30])
    assert await connection.head() == 200
    first = await reading
    connection.data_received(CHUNKED[-30:])
    assert first + await connection.read() == b"abc0123456789"
    assert await connection.read() == b""


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"H" * 70_000,
    ],
)
async def test_what_is_no_http_breaks_the_connection(answer: bytes) -> None:
    connection, transport = asked()
    connection.data_received(answer)
    with pytest.raises(Broken, match="no HTTP"):
        await connection.head()
        await connection.body()
    assert transport.closed
    assert not connection.finish()


@pytest.mark.parametrize("keep", [10, 40, 60, len(CHUNKED) - 20])
async def test_an_answer_that_is_cut_short_is_no_answer(keep: int) -> None:
    connection, _ = asked()
    connection.data_received(CHUNKED[:keep])
    connection.connection_lost(ConnectionResetError("reset"))
    with pytest.raises(Broken, match="reset") as caught:
        await connection.head()
        await connection.body()
    assert caught.value.begun
    assert not connection.open


async def test_a_body_without_a_length_ends_with_the_connection_unless_that_breaks() -> None:
    connection, _ = asked()
    connection.data_received(b"HTTP/1.1 200 OK\r\n\r\nwhole")
    connection.connection_lost(None)
    assert await connection.body() == b"whole"
    assert not connection.finish()
    connection, _ = asked()
    connection.data_received(b"HTTP/1.1 200 OK\r\n\r\nhalf")
    connection.connection_lost(OSError("gone"))
    assert await connection.read() == b"half"
    with pytest.raises(Broken):
        await connection.read()


async def test_more_than_was_asked_for_ends_the_connection() -> None:
    connection, transport = asked()
    connection.data_received(OK + b"HTTP/1.1 200 OK\r\n")
    assert await connection.body() == b"ok"
    assert transport.closed
    assert not connection.finish()


@pytest.mark.parametrize(("head", "kept"), [(b"Connection: close\r\n", False), (b"", True)])
async def test_a_connection_that_the_server_closes_is_not_kept(head: bytes, kept: bool) -> None:
    connection, transport = asked()
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + head + b"\r\n")
    assert await connection.body() == b""
    assert connection.finish() is kept
    assert transport.closed is not kept


async def test_what_nobody_reads_is_not_read_from_the_socket() -> None:
    connection, transport = asked()
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * (HIGH_WATER + 1))
    assert not transport.reading
    assert len(await connection.read()) == HIGH_WATER + 1
    assert transport.reading


# -- the pool, on real sockets


@contextlib.asynccontextmanager
async def pool_to(serve: Serve) -> AsyncIterator[Pool]:
    tasks: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def work() -> None:
            try:
                await serve(reader, writer)
            finally:
                writer.transport.abort()

        tasks.add(asyncio.get_running_loop().create_task(work()))

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = Pool(f"http://127.0.0.1:{port}/prefix/", None, server_hostname=None, headers={"User-Agent": "t"})
    try:
        yield pool
    finally:
        await pool.close()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ask(pool: Pool, method: str = "GET", body: bytes | None = None) -> bytes:
    connection = await pool.exchange(method, "/x", {"Authorization": "Bearer t"}, body)
    try:
        return await connection.body()
    finally:
        pool.release(connection)


async def test_a_request_is_written_whole_and_a_connection_used_again() -> None:
    heads: list[bytes] = []
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while head := await reader.readuntil(b"\r\n\r\n"):
            heads.append(head)
            if b"Content-Length: 4\r\n" in head:
                heads.append(await reader.readexactly(4))
            writer.write(OK)

    async with pool_to(serve) as pool:
        assert await ask(pool) == b"ok"
        assert await ask(pool, "POST", b"body") == b"ok"
        assert await ask(pool, "POST") == b"ok"
        assert connections == 1
        await asyncio.sleep(KEEP_SECONDS + 1)
        assert await ask(pool) == b"ok"
        assert connections == 2, "one that was idle for too long is not trusted"
    assert heads[0].startswith(b"GET /prefix/x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nUser-Agent: t\r\nAuthorization: Bearer t\r\n\r\n" in heads[0]
    assert b"Content-Length" not in heads[0]
    assert heads[2] == b"body"
    assert b"\r\nContent-Length: 0\r\n" in heads[3]


@pytest.mark.parametrize(("method", "repeated"), [("GET", True), ("PUT", True), ("PATCH", False), ("POST", False)])
async def test_what_an_idle_connections_end_swallowed_is_sent_again_if_it_may_be(method: str, repeated: bool) -> None:
    asked_for = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked_for
        for number in range(2):
            await reader.readuntil(b"\r\n\r\n")
            asked_for += 1
            if number == 1:
                return  # the second request on a connection finds it closed
            writer.write(OK)

    async with pool_to(serve) as pool:
        await ask(pool)
        if repeated:
            assert await ask(pool, method) == b"ok"
        else:
            with pytest.raises(Broken):
                await ask(pool, method)
    assert asked_for == (3 if repeated else 2)


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_bug_an_answer_that_is_no_http_was_taken_for_none_and_the_request_sent_again(method: str) -> None:
    asked_for = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked_for
        while await reader.readuntil(b"\r\n\r\n"):
            asked_for += 1
            writer.write(OK if asked_for == 1 else b"no such thing\r\n\r\n")

    async with pool_to(serve) as pool:
        assert await ask(pool) == b"ok"
        with pytest.raises(Broken, match="no HTTP") as caught:
            await ask(pool, method)
        assert caught.value.begun
    assert asked_for == 2


async def test_bug_the_end_of_a_connection_hid_why_it_was_closed() -> None:
    connection, _ = asked()
    connection.data_received(b"no such thing\r\n\r\n")
    connection.connection_lost(None)
    with pytest.raises(Broken, match="no HTTP: status line"):
        await connection.head()


async def test_bug_a_deletion_was_sent_again_whoever_had_the_name_by_then() -> None:
    deleted = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal deleted
        while head := await reader.readuntil(b"\r\n\r\n"):
            if head.startswith(b"DELETE"):
                deleted += 1
                return  # it was done, and the answer is lost
            writer.write(OK)

    async with pool_to(serve) as pool:
        assert await ask(pool) == b"ok"
        with pytest.raises(Broken):
            await ask(pool, "DELETE")
    assert deleted == 1


async def test_a_request_that_is_given_up_closes_its_connection() -> None:
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(OSError):
            await reader.read()
        left.set()

    async with pool_to(serve) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await ask(pool)
        async with asyncio.timeout(10):
            await left.wait()


class Mute:
    """A server whose connections can fall silent: those made so far, while others are answered."""

    def __init__(self) -> None:
        self.made = 0
        self.silent: set[int] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        number = self.made
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                if number not in self.silent:
                    writer.write(OK)


async def test_bug_after_a_timeout_the_next_request_was_sent_to_the_same_dead_server() -> None:
    """A node was gone without a word, and each of the idle connections to it cost another timeout, also the leader's."""
    server = Mute()
    async with pool_to(server.serve) as pool:
        await asyncio.gather(*(ask(pool) for _ in range(4)))
        assert server.made == 4
        server.silent = {1, 2, 3, 4}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await ask(pool)
        async with asyncio.timeout(1):
            assert await ask(pool) == b"ok"
        assert server.made == 5


async def test_a_connection_that_answered_after_the_request_that_was_given_up_is_kept() -> None:
    server = Mute()
    async with pool_to(server.serve) as pool:
        await asyncio.gather(ask(pool), ask(pool))
        server.silent = {2}  # of those that are idle the last one is used first
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                asking = asyncio.create_task(ask(pool))
                await asyncio.sleep(0.1)
                assert await ask(pool) == b"ok"
                await asking
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert await ask(pool) == b"ok"
        assert server.made == 2


async def test_no_header_makes_a_second_line() -> None:
    pool = Pool("https://example.dev", None, server_hostname=None, headers={})
    with pytest.raises(ValueError, match="more than one line"):
        await pool.exchange("GET", "/", {"Authorization": "Bearer a\r\nX: y"}, None)
    with pytest.raises(ValueError, match="no address"):
        Pool("nowhere", None, server_hostname=None, headers={})


async def test_nobody_there_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pool_to(lambda _r, _w: asyncio.sleep(0)) as pool:
        pass
    with pytest.raises(NotConnected, match="ConnectionRefusedError"):
        await ask(pool)

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror("unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    pool = Pool("http://nobody.invalid:1", None, server_hostname=None, headers={})
    with pytest.raises(NotConnected, match="gaierror: unknown"):
        await ask(pool)


async def test_a_name_with_several_addresses_is_tried_at_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.read()

    async with pool_to(serve) as pool:
        known = await pool._addresses()
        dead = (*known[0][:4], ("127.0.0.1", 1))

        async def addresses() -> list[Any]:
            return [dead, *known]

        monkeypatch.setattr(pool, "_addresses", addresses)
        assert await ask(pool) == b"ok"


async def test_bug_an_address_of_a_family_that_the_machine_has_not_hid_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the error was none of those that callers know: the elector ended by it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.read()

    made = socket.socket

    def refused(family: int = -1, *arguments: int, **options: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return made(family, *arguments, **options)

    async with pool_to(serve) as pool:
        known = await pool._addresses()
        other = (socket.AF_INET6, *known[0][1:4], ("::1", 1))

        async def addresses() -> list[Any]:
            return [other, *known]

        monkeypatch.setattr(pool, "_addresses", addresses)
        monkeypatch.setattr("yoban.kube.http.socket.socket", refused)
        assert await ask(pool) == b"ok"

    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    pool = Pool("http://127.0.0.1:1", None, server_hostname=None, headers={})
    monkeypatch.setattr("yoban.kube.http.socket.socket", none_left)
    with pytest.raises(NotConnected, match="Too many open files"):
        await ask(pool)


async def test_bug_what_was_given_up_does_not_arrive_later() -> None:
    """What a leader had on its way when it ended was sent for minutes more, and came in during its successor's term."""
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        pool = Pool(f"http://127.0.0.1:{listener.getsockname()[1]}", None, server_hostname=None, headers={})
        asking = asyncio.create_task(pool.exchange("PUT", "/late", {}, b"x" * (8 << 20)))
        server, _ = await loop.sock_accept(listener)
        with server:
            server.setblocking(False)
            assert await loop.sock_recv(server, 3) == b"PUT"
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await pool.close()
            with pytest.raises(ConnectionResetError):
                while await loop.sock_recv(server, 1 << 20):
                    pass
