"""JSON lines over a unix socket, without blocking and with bounded buffers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

LONGEST_LINE = 1 << 20
LONGEST_BACKLOG = 1 << 20


class Broken(Exception):
    """The other side is gone, or does not keep to the protocol."""


def listen(path: str) -> socket.socket:
    """Listen on `path`, which only our own user may open; what an earlier life left there is removed."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)
    try:
        server.bind(path)
    finally:
        os.umask(mask)
    server.listen(8)
    return server


class Connection:
    """One client: lines in, lines out."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._in = b""
        self._out = b""
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pid: int = struct.unpack("3i", raw)[0]

    @property
    def wants_write(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._out)

    def receive(self) -> Iterator[dict[str, Any]]:
        """Yield the messages that have come. Raises Broken at the end of the stream or for what is no message."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            raise Broken(str(error)) from error
        if not data:
            raise Broken("closed")
        self._in += data
        while (end := self._in.find(b"\n")) >= 0:
            line, self._in = self._in[:end], self._in[end + 1 :]
            try:
                message = json.loads(line)
            except ValueError as error:
                raise Broken("no JSON") from error
            if not isinstance(message, dict):
                raise Broken("no object")
            yield message
        if len(self._in) > LONGEST_LINE:
            raise Broken("line too long")

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message and send what goes now. Raises Broken when the other side does not read."""
        self._out += json.dumps(message).encode() + b"\n"
        self.flush()
        if len(self._out) > LONGEST_BACKLOG:
            raise Broken("does not read")

    def flush(self) -> None:
        """Send what goes now. Raises Broken."""
        try:
            while self._out:
                self._out = self._out[self.sock.send(self._out) :]
        except BlockingIOError:
            return
        except OSError as error:
            raise Broken(str(error)) from error
