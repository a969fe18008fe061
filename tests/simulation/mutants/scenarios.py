"""Short tests for variants that neither the simulation nor a test without fixtures of its own sees."""

from __future__ import annotations

from datetime import datetime

from yoban.kube import clock as clock_module
from yoban.kube.client import Client
from yoban.kube.lease import LeaseLock
from yoban.testing.apiserver import FakeApiServer
from yoban.testing.clock import LoopClock


def times_of_another_zone_are_written_in_utc() -> None:
    moment = datetime.fromisoformat("2026-03-01T12:00:00.000005+02:00")
    assert clock_module.rfc3339_micro(moment) == "2026-03-01T10:00:00.000005Z"


async def the_deadline_counts_from_the_sending(server: FakeApiServer, client: Client, clock: LoopClock) -> None:
    lock = LeaseLock(client, "ns", "l", "a", clock=clock)
    server.latency = 4.0
    await lock.fetch()
    sent = clock.boottime()
    await lock.take()
    assert lock.deadline == sent + lock.duration
