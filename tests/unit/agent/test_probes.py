"""Readiness, as a table; liveness depends on nothing."""

from __future__ import annotations

import socket

import aiohttp
import pytest
from yoban.agent.decisions import Running
from yoban.agent.lease import LeaseView
from yoban.agent.observer import Observation
from yoban.agent.probes import Probes, usable
from yoban.plugins import Role, ServerStatus

HELD = LeaseView(known=True, held=True)
LOST = LeaseView(known=True)


def seen(
    role: Role, *, accepting: bool = True, written: float | None = 95.0, upstream: float | None = 95.0
) -> Observation:
    return Observation(ServerStatus(role, accepting), 100.0, written, upstream)


@pytest.mark.parametrize(
    ("running", "lease", "observation", "expected"),
    [
        (Running.PRIMARY, HELD, seen(Role.PRIMARY), True),
        (Running.PRIMARY, LOST, seen(Role.PRIMARY), False),
        (Running.PRIMARY, HELD, seen(Role.PRIMARY, written=None), False),
        (Running.PRIMARY, HELD, seen(Role.PRIMARY, written=60.0), False),
        (Running.PRIMARY, HELD, seen(Role.PRIMARY, accepting=False), False),
        (Running.PRIMARY, HELD, seen(Role.REPLICA), False),
        (Running.PRIMARY, HELD, Observation(), False),
        (Running.REPLICA, LOST, seen(Role.REPLICA), True),
        (Running.REPLICA, LOST, seen(Role.REPLICA, upstream=None), False),
        (Running.REPLICA, LOST, seen(Role.REPLICA, upstream=30.0), False),
        (Running.RECOVERY, HELD, seen(Role.RECOVERY), False),
        (Running.NOTHING, HELD, seen(Role.PRIMARY), False),
    ],
)
def test_readiness(running: Running, lease: LeaseView, observation: Observation, expected: bool) -> None:
    assert usable(running, lease, observation, 100.0) is expected


async def test_the_codes() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    answer = False
    probes = Probes("127.0.0.1", port, lambda: answer)
    await probes.start()
    try:
        async with aiohttp.ClientSession() as session:
            for path, ready, code in (
                ("livez", False, 200), ("startupz", False, 200), ("readyz", False, 503), ("readyz", True, 200),
            ):  # fmt: skip
                answer = ready
                async with session.get(f"http://127.0.0.1:{port}/{path}") as response:
                    assert response.status == code
                    assert await response.read() == b""
    finally:
        await probes.stop()
