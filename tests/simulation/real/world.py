"""One run in real time: a real kube-apiserver and etcd, replicas behind fault proxies, and the simulation's story and judge.

What is real: the server, its storage, watch cache and 410s, every connection with TLS, time. What is not: the replicas
share one process and its event loop, so a replica that stands still is one whose proxy lets nothing through, and its
watchdog is a timer. Processes that are frozen as such are the simulation's.

A seed fixes the plan of blows, what people do, and what each replica draws. Real time is not in its hand: the same seed
meets another interleaving each time, so a failure may need several runs to come again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from yoban.kube.backoff import BackoffPolicy
from yoban.kube.client import Client
from yoban.kube.config import load_config
from yoban.kube.errors import NotFound
from yoban.kube.reflector import ReflectorSettings
from yoban.kube.resource import CUSTOM_RESOURCE_DEFINITION, LEASE, NAMESPACE

from deploy.lab.apiserver import LocalApiServer
from deploy.lab.proxy import FaultProxy
from tests.simulation.judge import Violation
from tests.simulation.network import Trace
from tests.simulation.operator import LEASE_KEY, WIDGET
from tests.simulation.people import OTHERS_FINALIZER
from tests.simulation.processes import Processes
from tests.simulation.real.mirror import Mirror
from tests.simulation.real.nemesis import SERVER, Blow, RealNemesis, plan
from tests.simulation.real.way import RealNetwork, Way
from tests.simulation.replica import Replica
from tests.simulation.weather import CALM
from tests.simulation.world import Options, World, silent

BOUND = 60.0  # seconds of real time, on a machine that has other work
QUIET = 8.0
STRIKE_EVERY = 1.2
MEMORY = 64 * 1024 * 1024  # bytes that the process may have grown by, proxies and mirror included
NAMESPACES = ("a", "b")


def options_of(seed: int, duration: float) -> Options:
    """What `seed` draws; all times are as short as fits a loaded machine."""
    random = Random(f"{seed} real options")
    return Options(
        replicas=random.choice((2, 3)),
        workers=random.choice((1, 2, 4)),
        namespaces=random.choice((None, NAMESPACES)),
        timings=(6.0, 4.0, 0.5, 1.0),
        consistent=random.random() < 0.3,
        look_again=None,
        watchdog=random.random() < 0.5,
        duration=duration,
        user_every=0.7,
        strike_every=STRIKE_EVERY,
        weather=CALM,
        detect_mutation=True,
        reflector=ReflectorSettings(idle=5.0, backoff=BackoffPolicy(initial=0.2, cap=3.0)),
        confirm=5.0,
    )


class RealTimeLoop(Processes):
    """Processes on real time; `freeze` is not to be had."""


class RealWorld(World):
    """See the module."""

    bound = BOUND
    quiet = QUIET

    def __init__(
        self,
        seed: int,
        options: Options,
        loop: Processes,
        trace: Trace,
        api: LocalApiServer,
        direct: Client,
        ways: list[Way],
    ) -> None:
        self._api, self._direct, self._ways = api, direct, ways
        self.blows: list[Blow] = plan(seed, options.replicas, options.duration, options.strike_every)
        super().__init__(seed, options, loop, trace)
        self.judge.on_told = self.server.learn
        self.memory = 0
        self._memory_at_first = resident()

    def _make_server(self) -> Mirror:  # type: ignore[override]
        return Mirror(lambda: sum(way.watches for way in self._ways))

    def _make_network(self) -> RealNetwork:  # type: ignore[override]
        return RealNetwork(self._ways, self.server, self.trace)

    def _make_nemesis(self) -> RealNemesis:  # type: ignore[override]
        self.nemesis = RealNemesis(self, self._api, [way.proxy for way in self._ways], self.blows)
        return self.nemesis

    def leader(self) -> Replica | None:
        """Who holds the Lease, None for nobody that lives."""
        lease = self.server.find(LEASE, *LEASE_KEY)
        holder = lease["spec"].get("holderIdentity") if lease is not None else ""
        return next(
            (one for one in self.living if holder and getattr(one, "lock", None) and one.lock.identity == holder), None
        )

    async def _heal(self) -> None:
        await self.nemesis.heal()
        self.trace("world", "no more faults")
        self.healed_at = self.loop.time()
        await self._let_go()

    async def _let_go(self) -> None:
        """People take their finalizer off; who saw an old version is refused, and looks again."""
        await self.server.sent()
        while any(OTHERS_FINALIZER in (o["metadata"].get("finalizers") or ()) for o in self.server.objects(WIDGET)):
            if self.loop.time() - self.healed_at > self.bound:
                raise Violation("converged", "people cannot take their finalizers off", self.loop.time())
            self.user.let_go()
            await self.server.sent()
            await asyncio.sleep(0.2)

    async def _still(self) -> None:
        before = await self.server.versions(self._direct)
        await super()._still()
        after = await self.server.versions(self._direct)
        if before != after:
            changed = sorted(set(before.items()) ^ set(after.items()))
            raise Violation("quiet", f"versions moved on a converged world: {changed}", self.loop.time())
        if after != self.server.mirrored():
            wrong = sorted(set(after.items()) ^ set(self.server.mirrored().items()))
            raise Violation("caches", f"the judge's own picture is wrong: {wrong}", self.loop.time())
        self.memory = resident() - self._memory_at_first
        if self.memory > MEMORY:
            raise Violation("queue", f"the process has grown by {self.memory >> 20} MiB", self.loop.time())

    async def run(self) -> None:
        """Raises `Violation`."""
        followers = [
            asyncio.create_task(self.server.follow(self._direct), name="mirror"),
            asyncio.create_task(self.server.send(self._direct), name="people"),
        ]
        try:
            await super().run()
        finally:
            for task in followers:
                task.cancel()
            await asyncio.gather(*followers, return_exceptions=True)

    async def bury(self) -> None:
        """Nothing is left running."""
        if hasattr(self, "nemesis"):
            await self.nemesis.heal()
        self._closing = True
        for replica in list(self.living):
            replica.kill("the end")
        await asyncio.sleep(0)
        await asyncio.gather(*self.network.closing, return_exceptions=True)


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class RealOutcome:
    """What became of a run; times in real seconds, memory in bytes."""

    seed: int
    violation: Violation | None
    seconds: float
    converged_in: float
    blows: int
    server_blows: int
    expired: int
    requests: int
    acts: int
    reconciles: int
    lives: int
    terms: int
    memory: int

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.violation or 'ok'}; {self.seconds:.0f} s, converged in {self.converged_in:.1f} s after "
            f"{self.blows} faults; {self.expired} times 410 of the server itself; {self.requests} requests, {self.acts} acts "
            f"in {self.terms} terms, {self.reconciles} passes, {self.lives} lives, {self.memory >> 20} MiB grown"
        )


def again(seed: int, duration: float) -> str:
    """How to run it again."""
    return f"python -m tests.simulation real --first {seed} --duration {duration:g} --trace"


async def install(client: Client) -> None:
    """The kind and the namespaces. Raises `ApiError`."""
    integer, anything = {"type": "integer"}, {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    conditions = {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    condition = {**anything, "required": ["type"], "properties": {"type": {"type": "string"}}}
    status = {"observedGeneration": integer, "conditions": {**conditions, "items": condition}}
    schema = {
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": {"value": integer}},
            "status": {"type": "object", "properties": status},
        },
    }
    version = {"name": WIDGET.version, "served": True, "storage": True, "subresources": {"status": {}}}
    names = {"plural": WIDGET.plural, "kind": WIDGET.kind, "singular": "widget", "listKind": "WidgetList"}
    spec = {
        "group": WIDGET.group,
        "names": names,
        "scope": "Namespaced",
        "versions": [{**version, "schema": {"openAPIV3Schema": schema}}],
    }
    metadata = {"name": f"{WIDGET.plural}.{WIDGET.group}"}
    await client.apply(CUSTOM_RESOURCE_DEFINITION, {"metadata": metadata, "spec": spec})
    for name in (*NAMESPACES, LEASE_KEY[0]):
        await client.apply(NAMESPACE, {"metadata": {"name": name}})
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(NotFound):
                await client.list(WIDGET)
                return
            await asyncio.sleep(0.1)  # a new kind is served a moment after it is accepted: nothing tells when


async def _story(
    seed: int, options: Options, loop: Processes, trace: Trace, api: LocalApiServer
) -> tuple[RealWorld, Violation | None]:
    async with contextlib.AsyncExitStack() as stack:
        direct = await stack.enter_async_context(Client.connect(await load_config(api.kubeconfig)))
        await install(direct)
        ways = []
        for _ in range(options.replicas):
            proxy = await stack.enter_async_context(FaultProxy(api))
            ways.append(Way(proxy, await load_config(proxy.kubeconfig)))
        world = RealWorld(seed, options, loop, trace, api, direct, ways)
        for blow in world.blows:
            trace("plan", str(blow))
        try:
            await world.run()
        except Violation as violation:
            return world, violation
        finally:
            await world.bury()
        return world, None


def run_real(
    seed: int,
    duration: float,
    *,
    trace: Callable[[str, str], None] | None = None,
    change: dict[str, object] | None = None,
) -> RealOutcome:
    """Run `seed` with faults for `duration` seconds, on a server of its own. Raises `LabUnavailable`, `LabError`."""
    options = replace(options_of(seed, duration), **(change or {}))  # type: ignore[arg-type]
    loop = RealTimeLoop()
    start = time.monotonic()

    def timed(who: str, what: str) -> None:
        if trace is not None:
            trace(f"{time.monotonic() - start:8.3f} {who}", what)

    with LocalApiServer() as api, silent(trace is not None), asyncio.Runner(loop_factory=lambda: loop) as runner:
        world, violation = runner.run(_story(seed, options, loop, timed, api))
    return RealOutcome(
        seed=seed,
        violation=violation,
        seconds=time.monotonic() - start,
        converged_in=world.converged_in,
        blows=world.nemesis.struck,
        server_blows=sum(1 for blow in world.blows if blow.kind in SERVER),
        expired=world.network.expired,
        requests=world.network.requests,
        acts=world.judge.acts,
        reconciles=world.judge.reconciles,
        lives=world.lives,
        terms=world.judge.terms,
        memory=world.memory,
    )
