"""HTTP/1.1 on asyncio streams, as much as a proxy needs that wants to break it on purpose.

Guarantees that bytes are passed on unchanged unless asked otherwise. No HTTP/2, no trailers, no pipelining.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

LIMIT = 16 * 1024 * 1024
"""Longest line and buffered request body, in bytes."""


class Broken(ConnectionError):
    """The other side closed in the middle of a message, or sent what is no HTTP."""


@dataclass
class Head:
    """The first line and headers of a message. Header names keep their case; lookups ignore it."""

    first: str
    headers: list[tuple[str, str]] = field(default_factory=list)

    def get(self, name: str, default: str = "") -> str:
        """The first value of a header."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), default)

    def without(self, *names: str) -> Head:
        """A copy lacking these headers."""
        unwanted = {name.lower() for name in names}
        return Head(self.first, [(key, value) for key, value in self.headers if key.lower() not in unwanted])

    def encoded(self) -> bytes:
        """As bytes on the wire, with the empty line."""
        lines = [self.first, *(f"{key}: {value}" for key, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    @property
    def method(self) -> str:
        """Of a request."""
        return self.first.split(" ", 2)[0]

    @property
    def target(self) -> str:
        """Path and query of a request."""
        return self.first.split(" ", 2)[1]

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.first.split(" ", 2)[1])

    @property
    def is_watch(self) -> bool:
        """Whether a request asks for a stream of events."""
        query = parse_qs(urlsplit(self.target).query)
        return query.get("watch", ["0"])[0].lower() in ("1", "true")

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return self.get("Transfer-Encoding").lower() == "chunked"


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next message's head, `None` when the connection ended in between; raises `Broken` otherwise."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise Broken("the connection ended inside a head") from error
    except asyncio.LimitOverrunError as error:
        raise Broken("a head without end") from error
    lines = raw.decode("latin-1").split("\r\n")[:-2]
    if lines[0].count(" ") < 1:
        raise Broken(f"no HTTP: {lines[0][:80]!r}")
    pairs = [line.partition(":") for line in lines[1:]]
    return Head(lines[0], [(key, value.strip()) for key, _, value in pairs])


async def read_chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The data of a chunked body, chunk by chunk. Raises `Broken` when it ends early."""
    try:
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            data = await reader.readexactly(size + 2)
            if size == 0:
                return
            yield data[:-2]
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise Broken("a chunked body ended early") from error


async def read_sized(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    """A body of `size` bytes in pieces. Raises `Broken` when it ends early."""
    while size:
        data = await reader.read(min(size, 65536))
        if not data:
            raise Broken("a body ended early")
        size -= len(data)
        yield data


async def read_body(reader: asyncio.StreamReader, head: Head) -> bytes:
    """The whole body of a request."""
    source = read_chunks(reader) if head.chunked else read_sized(reader, int(head.get("Content-Length", "0")))
    body = bytearray()
    async for data in source:
        body += data
        if len(body) > LIMIT:
            raise Broken("a request body above the proxy's limit")
    return bytes(body)


def chunk(data: bytes) -> bytes:
    """One chunk; of empty data the one that ends a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a stream with their newline, whatever the chunks' borders; an unfinished one comes last."""
    rest = b""
    async for data in chunks:
        rest += data
        *complete, rest = rest.split(b"\n")
        for line in complete:
            yield line + b"\n"
    if rest:
        yield rest
