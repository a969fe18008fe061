"""The bytes of a watch, cut into lines and events.

Guarantees: a line may come in any number of pieces and be of any length up to the bound; at most the unfinished line is
kept. A line that is no event raises `BadAnswer`: it is never taken for one. Does not know what events mean.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import msgspec

from yoban.kube.errors import ApiError, BadAnswer, from_status
from yoban.kube.objects import Obj

MAX_LINE = 64 * 1024 * 1024  # bytes; etcd stores 1.5 MiB an object by default
TYPES = frozenset(("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"))


class IdleTimeout(Exception):
    """Nothing came for longer than the idle deadline: the connection may be dead. To be resumed, not to be reported."""


class LineSplitter:
    """Cuts a stream into lines.

    Args:
        max_line: largest length of a line in bytes.
    """

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._max_line = max_line
        self._pieces: list[bytes] = []
        self._length = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes, without their ends; empty lines are left out. `BadAnswer` above the bound."""
        *complete, rest = chunk.split(b"\n")
        if complete and self._pieces:
            self._pieces.append(complete[0])
            complete[0] = b"".join(self._pieces)
            self._pieces.clear()
            self._length = 0
        if rest:
            self._pieces.append(rest)
            self._length += len(rest)
        if self._length > self._max_line:
            raise BadAnswer(f"a line is longer than {self._max_line} bytes")
        return [line for line in complete if line.strip()]

    @property
    def unfinished(self) -> int:
        """Bytes of the line that has no end yet."""
        return self._length


class WatchEvent(msgspec.Struct, frozen=True):
    """One event: its type, and the object that still is bytes."""

    type: str
    object: msgspec.Raw

    def decode(self) -> Obj:
        """The object as a dict; `BadAnswer` when it is none."""
        try:
            return _OBJECT.decode(self.object)
        except msgspec.DecodeError as error:
            raise BadAnswer("a watch event holds no object", cause=str(error)) from error


_EVENT = msgspec.json.Decoder(WatchEvent)
_OBJECT: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])


def parse_event(line: bytes) -> WatchEvent:
    """The event in one line; `BadAnswer` when it is none (a proxy's page, a cut line, an unknown type)."""
    try:
        event = _EVENT.decode(line)
    except msgspec.DecodeError as error:
        raise BadAnswer("a watch line is no event", cause=f"{error}: {line[:80]!r}") from error
    if event.type not in TYPES:
        raise BadAnswer(f"a watch event has the unknown type {event.type!r}")
    return event


def error_of(event: WatchEvent) -> ApiError:
    """What an ERROR event means."""
    return from_status(event.decode())


class _Readable(Protocol):
    async def read(self) -> bytes: ...


class WatchStream:
    """The events of one watch in the order in which they come. Made by `Client.watch`; not to be read twice at once."""

    def __init__(self, source: _Readable, max_line: int = MAX_LINE) -> None:
        self._source = source
        self._splitter = LineSplitter(max_line)

    async def batch(self, idle: float) -> list[WatchEvent] | None:
        """The events that came together, at least one; None at the end of the stream.

        Raises `IdleTimeout` when no line came for `idle` seconds, `BadAnswer` for what is no event (a line that
        the end of the stream cut off included), `Unreachable` when the connection broke.
        """
        try:
            async with asyncio.timeout(idle):
                while True:
                    chunk = await self._source.read()
                    if not chunk:
                        if self._splitter.unfinished:
                            raise BadAnswer("the watch ended within a line")
                        return None
                    lines = self._splitter.feed(chunk)
                    if lines:
                        return [parse_event(line) for line in lines]
        except TimeoutError as error:
            raise IdleTimeout from error
