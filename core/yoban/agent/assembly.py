"""Puts the parts of an agent together that need no listener of ours: what works, and who tells whom.

Guarantees: everything here works on what it is handed (the supervisor's socket, the API server's client, the engine, the
stores), so that tests assemble whole agents in one process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from yoban.agent.backupjob import BackupJob
from yoban.agent.fencing import Fencing
from yoban.agent.instance import Instance
from yoban.agent.labels import RoleLabel
from yoban.agent.lease import PrimaryLease
from yoban.agent.life import Life
from yoban.agent.notice import Notice
from yoban.agent.observer import Observer
from yoban.agent.probes import usable
from yoban.agent.restorer import Restorer
from yoban.agent.shipper import Shipper
from yoban.agent.shipping import Shipping
from yoban.agent.supervision import Supervision
from yoban.agent.tailer import Tailer
from yoban.errors import YobanError
from yoban.kube.client import Client
from yoban.telemetry import remember_secret

log = logging.getLogger("yoban.agent")
READY_EVERY = 0.5
BEAT_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one agent. `work` are the tasks that must run while `life.run` does."""

    instance: Instance
    lease: PrimaryLease
    observer: Observer
    shipper: Shipper
    tailer: Tailer
    shipping: Shipping
    restorer: Restorer
    life: Life
    backups: BackupJob
    label: RoleLabel

    def ready(self) -> bool:
        """Whether the server is really usable in its role. Costs nothing."""
        now = self.instance.clock.monotonic()
        return self.life.cared and usable(self.life.running, self.lease.view(), self.observer.last, now)

    def work(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return the tasks; each runs for ever but for the release of what an agent before us left."""
        instance = self.instance
        wake = (
            instance.supervision.changed,
            instance.configurations.changed,
            self.lease.changed,
            self.observer.changed,
        )
        return (
            self.lease.run(),
            beat(instance.supervision, self.lease),
            self.observer.run(),
            self.shipper.run(),
            self.tailer.run(),
            self.label.run(),
            self._abandon(),
            self._readiness(),
            _secrets(instance),
            *(_forward(notice, instance.wake) for notice in wake),
        )

    async def _readiness(self) -> None:
        """Tell readiness on the board, too."""
        told = False
        while True:
            now = self.ready()
            if now != told:
                log.info("ready" if now else "not ready")
                told = now
            self.instance.board.set(ready=now)
            await asyncio.sleep(READY_EVERY)

    async def _abandon(self) -> None:
        """Once, when the server answers: what an agent before us began and cannot end."""
        if self.instance.supervision.server is None:
            return
        while not self.observer.last.accepting:
            await self.observer.changed.wait(self.observer.changed.serial, 5.0)
        try:
            await self.backups.abandon()
        except Exception as error:
            log.warning(
                "an earlier backup could not be released: %s", error, exc_info=not isinstance(error, YobanError)
            )


def assemble(instance: Instance, client: Client) -> Parts:
    """Make the parts of an agent whose supervisor is known and whose document has come."""
    environment, supervision = instance.environment, instance.supervision
    fencing = Fencing(supervision)
    lease = PrimaryLease(
        client,
        instance.document.namespace,
        instance.document.lease,
        environment.instance,
        environment.pod_uid or supervision.life,
        on_fence=fencing.tell,
        clock=instance.clock,
    )
    observer = Observer(instance)
    shipper = Shipper(instance)
    tailer = Tailer(instance, shipper)
    shipping = Shipping(instance, shipper)
    restorer = Restorer(instance, fencing)
    life = Life(instance, lease, observer, tailer, restorer)
    backups = BackupJob(instance, shipper, shipping, lambda: lease.view().term)
    label = RoleLabel(client, instance.document.namespace, environment.pod, lambda: life.role, instance.board.changed)
    return Parts(instance, lease, observer, shipper, tailer, shipping, restorer, life, backups, label)


async def beat(supervision: Supervision, lease: PrimaryLease | None) -> None:
    """Heart-beat for ever; without a Lease nothing is said of the deadline."""
    while True:
        if lease is None:
            await supervision.alive()
        else:
            await lease.tell()
        await asyncio.sleep(BEAT_EVERY)


async def _forward(source: Notice, target: Notice) -> None:
    seen = source.serial
    while True:
        fresh = await source.wait(seen, 3600.0)
        if fresh != seen:
            seen = fresh
            target.ring()


async def _secrets(instance: Instance) -> None:
    """Have every secret that we hold masked in logs and spans."""
    while True:
        seen = instance.configurations.changed.serial
        configuration = instance.configuration
        for password in configuration.passwords.values():
            remember_secret(password)
        for store in (configuration.store, configuration.source):
            for value in (store.credentials if store is not None else {}).values():
                remember_secret(value)
        await instance.configurations.changed.wait(seen, 3600.0)
