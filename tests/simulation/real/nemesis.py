"""What breaks in a real run, planned from the seed before it begins, and how it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from deploy.lab.apiserver import LocalApiServer
from deploy.lab.fault_rules import Action, Fault
from deploy.lab.proxy import FaultProxy

if TYPE_CHECKING:
    from tests.simulation.real.world import RealWorld

LEADER = -1
"""In the place of a slot: whoever holds the Lease then."""
LEASE_LOST = 8.0  # seconds without its Lease after which another replica leads
WRITES = "POST|PUT|PATCH|DELETE"
SERVER = ("restart", "crash", "compact", "stall")
"""Blows to the server, one at a time: each takes seconds."""
PROCESS = ("kill", "term")
PROXY = ("pause", "cut", "break", "lease")
RULES: dict[str, dict[str, object]] = {
    "delay": {"action": Action.DELAY, "watch": False},
    "drop": {"action": Action.DROP},
    "lose": {"action": Action.LOSE, "method": WRITES},
    "busy": {"action": Action.ANSWER, "status": 429, "retry_after": 1},
    "failed": {"action": Action.ANSWER, "status": 500},
    "page": {"action": Action.ANSWER, "status": 502, "html": True},
    "conflict": {"action": Action.ANSWER, "method": WRITES, "status": 409},
    "gone": {"action": Action.ANSWER, "status": 410, "watch": True},
    "expire": {"action": Action.EXPIRE, "watch": True},
    "corrupt": {"action": Action.CORRUPT, "watch": True},
    "end": {"action": Action.END, "watch": True},
    "cut_watch": {"action": Action.CUT, "watch": True},
    "silence": {"action": Action.SILENCE, "watch": True},
}
OF_WATCHES = ("gone", "expire", "corrupt", "end", "cut_watch", "silence")


@dataclass(frozen=True, slots=True)
class Blow:
    """One thing that breaks.

    Attributes:
        at: seconds from the beginning.
        slot: whose, or `LEADER`; of no account for blows to the server.
        seconds: how long it lasts, or how long a delay is.
        times: how many requests a rule acts on.
        after: after how many events it acts on a watch.
    """

    at: float
    kind: str
    slot: int
    seconds: float
    times: int
    after: int

    def __str__(self) -> str:
        whose = "the leader" if self.slot == LEADER else f"r{self.slot}"
        return f"{self.at:5.1f} s {self.kind} of {whose}, {self.seconds:.1f} s, {self.times} times, after {self.after}"


def plan(seed: int, replicas: int, duration: float, every: float) -> list[Blow]:
    """All blows of `seed`, in their order: one about each `every` seconds; for each 40 s one to the server, and later
    one that keeps the leader from its Lease and from nothing else, alone for as long as it lasts.
    """
    random = Random(f"{seed} plan")

    def blow(at: float, kind: str, longest: float) -> Blow:
        seconds = random.choice((random.uniform(0.1, 1.0), random.uniform(1.0, longest)))
        slot = random.randrange(replicas)
        if kind in (*PROCESS, *PROXY) and random.random() < 0.6:
            slot = LEADER  # what it suffers matters most
        return Blow(at, kind, slot, seconds, random.randint(1, 6), random.randint(0, 3))

    blows, at = [], random.expovariate(1 / every)
    kinds = (*PROCESS, *PROXY, *PROXY, "external", *RULES)
    while at < duration:
        blows.append(blow(at, random.choice(kinds), 9.0))
        at += random.expovariate(1 / every)
    shares = max(1, round(duration / 40))
    for share in range(shares):
        at = duration * (share + random.uniform(0.1, 0.3)) / shares
        blows.append(blow(at, random.choice(SERVER), 5.0))
        at = duration * (share + 0.65) / shares
        blows = [one for one in blows if one.kind in RULES or not at - 1.0 < one.at < at + LEASE_LOST]
        blows.append(replace(blow(at, "lease", LEASE_LOST), slot=LEADER))
    return sorted(blows, key=lambda blow: blow.at)


class RealNemesis:
    """Carries a plan out."""

    def __init__(self, world: RealWorld, api: LocalApiServer, proxies: Sequence[FaultProxy], blows: list[Blow]) -> None:
        self.struck = 0
        self._world = world
        self._api = api
        self._proxies = proxies
        self._blows = blows
        self._ends: set[asyncio.Task[None]] = set()
        self._server = asyncio.Lock()

    async def run(self, every: float) -> None:
        """Strike as planned."""
        start = self._world.loop.time()
        for blow in self._blows:
            await asyncio.sleep(max(0.0, start + blow.at - self._world.loop.time()))
            self._world.trace("nemesis", str(blow))
            task = asyncio.create_task(self._strike(blow), name=f"blow {blow.kind}")
            self._ends.add(task)
            task.add_done_callback(self._ends.discard)
            self.struck += 1

    async def _strike(self, blow: Blow) -> None:
        if blow.kind in SERVER:
            async with self._server:
                await self._strike_server(blow)
        elif blow.kind in PROCESS:
            slot = self._slot(blow)
            for replica in [one for one in self._world.living if one.slot == slot]:
                replica.kill() if blow.kind == "kill" else replica.stop()
        elif blow.kind in RULES:
            self._rule(blow)
        elif blow.kind == "external":
            self._world.external.failing = 0.5
            await asyncio.sleep(blow.seconds)
            self._world.external.failing = 0.0
        else:
            await self._strike_proxy(blow.kind, self._proxies[self._slot(blow)], blow.seconds)

    def _slot(self, blow: Blow) -> int:
        if blow.slot != LEADER:
            return blow.slot
        leader = self._world.leader()
        return leader.slot if leader is not None else 0

    async def _strike_proxy(self, kind: str, proxy: FaultProxy, seconds: float) -> None:
        if kind == "pause":
            proxy.pause()
            await asyncio.sleep(seconds)
            proxy.resume()
        elif kind == "cut":
            await proxy.refuse()
            await asyncio.sleep(seconds)
            await proxy.listen()
        elif kind == "lease":
            # All but the Lease can be had: who does not stop by itself has every means to go on.
            lost = proxy.drop("/leases/", times=None)
            await asyncio.sleep(max(seconds, LEASE_LOST))
            proxy.remove(lost)
        else:
            proxy.cut()

    def _rule(self, blow: Blow) -> None:
        proxy = self._proxies[blow.slot]
        more = {"seconds": min(blow.seconds, 3.0), "times": blow.times, "after": blow.after}
        proxy.add(Fault(**{**RULES[blow.kind], **more}))  # type: ignore[arg-type]
        if blow.kind in OF_WATCHES:
            proxy.cut()  # rules meet new watches only

    async def _strike_server(self, blow: Blow) -> None:
        api = self._api
        if blow.kind == "stall":
            api.freeze()
            await asyncio.sleep(blow.seconds)
            api.thaw()
            return
        await asyncio.to_thread(api.stop if blow.kind == "restart" else api.kill)
        await asyncio.sleep(blow.seconds)
        if blow.kind == "compact":
            await asyncio.to_thread(api.compact)
        await asyncio.to_thread(api.start)

    async def heal(self) -> None:
        """Everything works again when this returns, however far a blow has got."""
        for task in list(self._ends):
            if not self._server.locked() or task.get_name() not in {f"blow {kind}" for kind in SERVER}:
                task.cancel()
        await asyncio.gather(*self._ends, return_exceptions=True)
        self._world.external.failing = 0.0
        for proxy in self._proxies:
            proxy.clear()
            proxy.resume()
            proxy.cut()  # what a rule holds already it goes on holding
            await proxy.listen()
