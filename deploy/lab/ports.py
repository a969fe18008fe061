"""Free TCP ports on loopback. Guarantees that they were free a moment ago and not yet given out by this process."""

from __future__ import annotations

import socket

_given: set[int] = set()


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody listens on at `address`."""
    while True:
        with socket.socket() as probe:
            probe.bind((address, 0))
            port: int = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port
