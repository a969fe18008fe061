"""One replica of the operator: a process with its link, clock, elector, watchdog and manager; started anew when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING

from yoban.errors import NotReady
from yoban.kube.client import Client
from yoban.kube.election import Elector, LeaseTimings
from yoban.kube.informer import Informer
from yoban.kube.lease import LeaseLock, LeaseLost
from yoban.kube.objects import Obj, ObjectKey
from yoban.kube.watchdog import Watchdog
from yoban.runtime import Manager
from yoban.testing.clock import LoopClock

from tests.simulation.external import Hand
from tests.simulation.operator import LEASE_KEY, Watched, operate
from tests.simulation.processes import Process

if TYPE_CHECKING:
    from tests.simulation.world import World


class OwnClock(LoopClock):
    """A clock that shows another time than everybody else's."""

    def __init__(self, random: Random) -> None:
        super().__init__(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=random.uniform(-1e7, 1e7)))
        self._offset = random.uniform(0.0, 1e5)

    def monotonic(self) -> float:
        return super().monotonic() + self._offset


class SimulatedWatchdog(Watchdog):
    """The watchdog's thread on virtual time.

    It acts while the loop is blocked, as a thread does. While the whole process stands still it stands still as well; when
    that goes on it is a matter of luck whether it, or the loop, has the first turn.
    """

    def __init__(self, replica: Replica) -> None:
        super().__init__(exit=lambda code: None)
        self._replica = replica
        self._timer: asyncio.TimerHandle | None = None
        self._bites = False

    def arm(self, deadline: float) -> None:
        self.disarm()
        loop = self._replica.world.loop
        self._timer = loop.later(max(0.0, deadline - self._replica.clock.boottime()), self._due)

    def disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._bites = False

    def close(self) -> None:
        self.disarm()

    def _due(self) -> None:
        if self._replica.process.frozen and self._replica.frozen_whole:
            self._bites = True
        else:
            self._replica.kill("watchdog")

    def thawed(self, random: Random) -> None:
        """The process goes on."""
        if self._bites:
            if random.random() < 0.5:
                self._replica.kill("watchdog")
            else:
                self._replica.world.loop.later(0.0, self._replica.kill, "watchdog")


class Replica:
    """One life of one replica.

    Attributes:
        ended: how it ended, "" while it lives.
    """

    def __init__(self, world: World, slot: int, life: int, on_end: Callable[[Replica], None]) -> None:
        options = world.options
        self.world = world
        self.slot = slot
        self.process = Process(f"r{slot}.{life}")
        self.frozen_whole = False
        self.random = Random(f"{world.seed} {self.process.name}")
        self.clock = OwnClock(self.random)
        self.link = world.network.link(self.process, slot, Random(f"{world.seed} {self.process.name} link"))
        self.ended = ""
        self.told: list[tuple[Informer, dict[ObjectKey, Obj]]] = []
        self.scopes: tuple[str | None, ...] = options.namespaces or (None,)
        self._on_end = on_end
        self._hand = Hand(world.external, self.process, Random(f"{world.seed} {self.process.name} hand"))
        self.watchdog = SimulatedWatchdog(self) if options.watchdog else None
        self.task = world.loop.spawn(self.process, self._main(), self.process.name)
        self.task.add_done_callback(self._done, context=world.kernel())

    async def _main(self) -> None:
        options, random, clock = self.world.options, self.random, self.clock
        client = Client(self.link, random=random.random)
        timings = LeaseTimings(*options.timings)
        identity = f"{self.process.name}-{random.randrange(1 << 32):08x}"
        self.lock = LeaseLock(
            client,
            *LEASE_KEY,
            identity,
            duration=int(timings.duration),
            timeout=timings.request,
            clock=clock,
        )
        elector = Elector(self.lock, timings, clock=clock, random=random.random, watchdog=self.watchdog)
        self.manager = Manager(
            client,
            namespaces=options.namespaces,
            elector=elector,
            sync_timeout=90.0,
            stop_timeout=20.0,
            detect_mutation=options.detect_mutation,
        )
        judge, process = self.world.judge, self.process
        watched = Watched(lambda key: judge.begins(process, key), lambda key, queue: judge.ends(process, key, queue))
        self.controller, informers = operate(
            client,
            self.manager,
            self._hand,
            watched,
            clock=clock,
            random=random,
            workers=options.workers,
            reflector=replace(options.reflector, consistent=options.consistent),
            confirm=options.confirm,
            look_again=options.look_again,
        )
        self.told = [(informer, judge.handler(process, informer)) for informer in informers]
        judge.enter(self)
        try:
            await self.manager.run()
        finally:
            await client.reach.close()

    def _done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self.ended:
            return
        self.ended = type(error).__name__ if error is not None else "stopped"
        if error is not None and not isinstance(error, LeaseLost | NotReady):
            self.world.judge.broken("ended", f"{self.process.name} ended by {error!r}")
        # Whatever is cancelled has had its turn by then.
        self.world.loop.later(0.0, self._bury)

    def _bury(self) -> None:
        left = [task.get_name() for task in self.process.alive()]
        if left:
            self.world.judge.broken("ended", f"{self.process.name} ended and left {left} running")
        self._go()

    def _go(self) -> None:
        if self.watchdog is not None:
            self.watchdog.close()
        self.world.loop.kill(self.process)
        self.link.abandon()
        self.world.trace(self.process.name, f"ended: {self.ended}")
        self._on_end(self)

    # -- what happens to it ------------------------------------------------------------------------------------------

    def kill(self, why: str = "killed") -> None:
        """It is gone at once; what it sent may still arrive."""
        if not self.ended:
            self.ended = why
            self._go()

    def freeze(self, *, whole: bool) -> None:
        """It stands still: as a whole, or its loop alone while its threads go on."""
        self.frozen_whole = whole
        self.world.loop.freeze(self.process)

    def thaw(self) -> None:
        """It goes on."""
        if self.process.frozen and not self.ended:
            self.world.loop.thaw(self.process)
            if self.watchdog is not None:
                self.watchdog.thawed(self.random)

    def stop(self) -> None:
        """SIGTERM."""
        manager = getattr(self, "manager", None)
        if manager is not None:
            self.world.loop.call_soon(manager.stop, context=self.world.kernel())

    def check_mutation(self) -> None:
        """Cached objects are as they came."""
        for informer, _ in self.told:
            informer.check_mutation()
