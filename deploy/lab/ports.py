"""Free TCP ports on loopback.

Guarantees that nobody else is given a port of ours, in whatever process: it stays bound here, which keeps the kernel from
choosing it for others and hinders no server of ours. A server must listen with SO_REUSEADDR, as all that we run do.
"""

from __future__ import annotations

import socket
from collections import deque

RESERVED = 256
"""Ports kept at a time; the oldest are let go: a server of so long ago listens by now, or has ended."""
_reserved: deque[socket.socket] = deque()


def free_port(address: str = "127.0.0.1") -> int:
    """Reserve a port that nobody listens on at `address`, and return it. Each call gives another one.

    See socket(7): two sockets may share an address when both say SO_REUSEADDR and none listens; a port that is chosen by the
    kernel is never such a shared one.
    """
    reserved = socket.socket()
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind((address, 0))
    except OSError:
        reserved.close()
        raise
    _reserved.append(reserved)
    while len(_reserved) > RESERVED:
        _reserved.popleft().close()
    port: int = reserved.getsockname()[1]
    return port
