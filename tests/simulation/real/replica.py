"""One life of one replica, a process of its own: the operator of the simulation on a real API server.

Each act, at the moment of its sending, and each broken invariant goes as a line to a file that the judge reads. Times are of
CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from random import Random
from typing import Any

from yoban.errors import NotReady
from yoban.kube.client import Client
from yoban.kube.clock import SystemClock
from yoban.kube.config import load_config
from yoban.kube.election import Elector, LeaseTimings
from yoban.kube.informer import Handler, Informer
from yoban.kube.lease import LeaseLock, LeaseLost
from yoban.kube.objects import Obj, ObjectKey, key_of
from yoban.kube.transport import Answer, HttpTransport, Stream
from yoban.kube.watchdog import Watchdog
from yoban.kube.workqueue import WorkQueue
from yoban.runtime import Manager

from tests.simulation.judge import Judge
from tests.simulation.operator import LEASE_KEY, Watched, operate
from tests.simulation.processes import Process
from tests.simulation.real.folder import Folder

LOST, NOT_READY = 3, 4
"""Exit codes of an end that is allowed: the Lease was lost, or caches cannot be filled."""
CONFIRM = 15.0
"""Seconds until a pass that wrote is confirmed; shorter than usual, longer than any cut of a run."""


class Journal:
    """Lines of one life. A line is written at once: the process may be killed after it."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.lock: LeaseLock | None = None

    def act(self, what: str) -> None:
        """Something is changed now."""
        record = self.lock.record if self.lock is not None else None
        self._write(what=what, term=record.transitions if record is not None else -1)

    def broken(self, what: str) -> None:
        """An invariant does not hold."""
        self._write(broken=what)

    def _write(self, **fields: Any) -> None:
        os.write(self._file, json.dumps({"at": time.monotonic(), **fields}).encode() + b"\n")


class Telling:
    """A transport that tells of each write, but those on the Lease, before it is sent."""

    def __init__(self, inner: HttpTransport, journal: Journal) -> None:
        self._inner = inner
        self._journal = journal

    async def request(
        self, method: str, target: str, *, body: bytes | None = None, content_type: str | None = None, deadline: float
    ) -> Answer:
        """See `Transport.request`."""
        if method != "GET" and "/leases" not in target:
            self._journal.act(f"{method} {target}")
        return await self._inner.request(method, target, body=body, content_type=content_type, deadline=deadline)

    def stream(self, target: str, *, deadline: float) -> AbstractAsyncContextManager[Stream]:
        """See `Transport.stream`."""
        return self._inner.stream(target, deadline=deadline)

    async def close(self) -> None:
        """See `Transport.close`."""
        await self._inner.close()


async def live(kubeconfig: Path, folder: Path, journal: Journal, name: str, workers: int) -> None:
    """Work until SIGTERM. Raises what ends the process."""
    loop = asyncio.get_running_loop()
    clock, random = SystemClock(), Random()
    judge = Judge(loop, None, None)  # type: ignore[arg-type]  # only what one process can know is asked of it

    def look() -> None:
        for violation in judge.violations:
            journal.broken(str(violation))
        judge.violations.clear()

    client = Client(Telling(HttpTransport(await load_config(kubeconfig)), journal), random=random.random)
    timings = LeaseTimings(8.0, 5.0, 1.0, 1.5)
    lock = journal.lock = LeaseLock(
        client, *LEASE_KEY, name, duration=int(timings.duration), timeout=timings.request, clock=clock
    )
    elector = Elector(lock, timings, clock=clock, random=random.random, watchdog=Watchdog())
    manager = Manager(client, elector=elector, sync_timeout=60.0, stop_timeout=20.0, detect_mutation=True)
    process = Process(name)

    def begins(key: ObjectKey) -> None:
        judge.begins(process, key)
        look()

    def ends(key: ObjectKey, queue: WorkQueue[ObjectKey]) -> None:
        judge.ends(process, key, queue)
        look()

    hand: Any = Folder(folder, lambda uid: journal.act(f"external {uid}"))
    controller, informers = operate(
        client,
        manager,
        hand,
        Watched(begins, ends),
        clock=clock,
        random=random,
        workers=workers,
        consistent=False,
        look_again=None,
    )
    controller._confirm = CONFIRM
    _know_keys(informers[0], judge)
    for informer in informers:
        judge.handler(process, informer)
    async with client:
        await manager.run_until_signal()
    look()


def _know_keys(widgets: Informer, judge: Judge) -> None:
    def added(obj: Obj, initial: bool) -> None:
        judge._keys.add(key_of(obj))

    widgets.add_handler(Handler(added, lambda old, new: None, lambda obj, stale: None))


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.real.replica")
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("journal", type=Path)
    parser.add_argument("name")
    parser.add_argument("workers", type=int)
    arguments = parser.parse_args()
    journal = Journal(arguments.journal)
    try:
        asyncio.run(live(arguments.kubeconfig, arguments.folder, journal, arguments.name, arguments.workers))
    except LeaseLost:
        return LOST
    except NotReady:
        return NOT_READY
    return 0


if __name__ == "__main__":
    sys.exit(main())
