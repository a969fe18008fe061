"""One run: processes of the operator, each behind a fault proxy of its own, a real API server, and a user who changes things.

Real time is no virtual time: a seed gives the same faults again, not the same run.

What is held (see `tests.simulation.judge`): `leader` by what each process writes down before it sends it: in each term one
process acts, and nobody acts in a term after somebody did in a later one; exempt is the instant after a standstill.
`overlap`, `handlers` and `queue` by each process for itself. `converged`, `quiet`, `ended` and `leaks` as there, nothing
external left among it. Memory stays below `MEMORY`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from yoban.kube.client import Client
from yoban.kube.config import load_config
from yoban.kube.errors import ApiError, NotFound
from yoban.kube.resource import CUSTOM_RESOURCE_DEFINITION, LEASE, NAMESPACE
from yoban.kube.watchdog import EXIT_CODE

from deploy.lab.apiserver import LocalApiServer
from deploy.lab.fault_rules import Action, Fault
from deploy.lab.proxy import FaultProxy
from tests.simulation.judge import Judge, Violation
from tests.simulation.operator import LEASE_KEY, WIDGET
from tests.simulation.people import User
from tests.simulation.real.folder import Folder
from tests.simulation.real.replica import CONFIRM, LOST, NOT_READY
from tests.simulation.real.seen import Seen

BOUND = 180.0
"""Seconds from the last fault until all is as it should be: see `tests.simulation.judge.BOUND`."""
QUIET = 10.0
INSTANT = 0.5
"""Seconds after a standstill in which an act is exempt: the machine may be busy."""
MEMORY = 250_000_000
_CRD: dict[str, Any] = {
    "metadata": {"name": f"{WIDGET.plural}.{WIDGET.group}"},
    "spec": {
        "group": WIDGET.group,
        "names": {"plural": WIDGET.plural, "kind": WIDGET.kind, "singular": "widget", "listKind": "WidgetList"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": WIDGET.version,
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


@dataclass
class Slot:
    """One replica's place: its proxy, and the process that lives there now."""

    number: int
    proxy: FaultProxy
    process: asyncio.subprocess.Process | None = None
    name: str = ""
    lives: int = 0
    expected: bool = False
    """Its end was brought about by us."""
    journals: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run was like."""

    seed: int
    acts: int
    terms: int
    lives: int
    strikes: int
    converged_in: float
    memory: int

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.acts} acts in {self.terms} terms, {self.lives} lives, {self.strikes} strikes,"
            f" converged in {self.converged_in:.0f} s, at most {self.memory / 1e6:.0f} MB"
        )


class World:
    """See the module. `run` it once."""

    KINDS = (
        "freeze", "kill", "term", "cut", "pause", "break", "end", "corrupt", "expire", "silence", "busy", "failed", "lose",
        "drop", "delay", "server", "compact", "external",
    )  # fmt: skip

    def __init__(
        self, api: LocalApiServer, client: Client, seed: int, replicas: int, root: Path, trace: Callable[[str], None]
    ) -> None:
        self._api = api
        self._client = client
        self._seed = seed
        self._random = Random(f"{seed} real")
        self._root = root
        self._tell = trace
        self.server = Seen(client)
        (root / "external").mkdir()
        self._external = Folder(root / "external")
        self._judge = Judge(asyncio.get_running_loop(), self.server, self._external)  # type: ignore[arg-type]
        self._replicas = replicas
        self._slots: list[Slot] = []
        self._closing = False
        self._thaws: list[tuple[str, float]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._strikes = 0
        self._memory = 0
        self._away = asyncio.Lock()  # held while the API server is away

    def trace(self, who: str, what: str) -> None:
        """Tell what happens."""
        self._tell(f"{who} {what}")

    # -- processes -----------------------------------------------------------------------------------------------------

    async def _inhabit(self, slot: Slot) -> None:
        """Keep a process alive in `slot`."""
        while not self._closing:
            slot.lives += 1
            slot.name = f"r{slot.number}.{slot.lives}"
            slot.expected = False
            journal = slot.journals[slot.name] = self._root / f"{slot.name}.journal"
            errors = self._root / f"{slot.name}.errors"
            with errors.open("wb") as output:
                slot.process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tests.simulation.real.replica",
                    slot.proxy.kubeconfig, self._root / "external", journal, slot.name, "2",
                    stdout=output, stderr=output, stdin=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
            code = await slot.process.wait()
            self.trace(slot.name, f"ended with {code}")
            allowed = {0, LOST, NOT_READY, EXIT_CODE, *((-signal.SIGKILL,) if slot.expected else ())}
            if code not in allowed:
                tail = errors.read_text(errors="replace")[-2000:]
                self._judge.broken("ended", f"{slot.name} ended with {code}: {tail}")
            if not self._closing:
                await asyncio.sleep(self._random.uniform(0.2, 2.0))

    def _signal(self, slot: Slot, number: int) -> None:
        if slot.process is not None and slot.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                slot.process.send_signal(number)

    def _later(self, seconds: float, work: Callable[[], Any]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            found = work()
            if asyncio.iscoroutine(found):
                await found

        task = asyncio.create_task(wait(), name="later")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- faults --------------------------------------------------------------------------------------------------------

    def _strike(self) -> None:
        """Do one thing to one replica, or to all; it is undone after a while."""
        random = self._random
        kind, slot = random.choice(self.KINDS), random.choice(self._slots)
        seconds = random.choice((random.uniform(0.1, 2), random.uniform(2, 12)))
        proxy = slot.proxy
        self._strikes += 1
        self.trace("nemesis", f"{kind} {slot.name} {seconds:.1f} s")
        rules: dict[str, Callable[[], Fault]] = {
            "end": lambda: proxy.end_watches(after=random.randrange(3)),
            "corrupt": lambda: proxy.corrupt(after=random.randrange(3)),
            "expire": lambda: proxy.expire(after=random.randrange(3)),
            "silence": lambda: proxy.add(Fault(Action.SILENCE, times=1, after=random.randrange(3), watch=True)),
            "busy": lambda: proxy.answer(429, times=10, retry_after=random.choice((None, 1))),
            "failed": lambda: proxy.answer(random.choice((500, 503)), times=10),
            "lose": lambda: proxy.lose(method="POST|PATCH|PUT|DELETE", times=3),
            "drop": lambda: proxy.drop(times=5),
            "delay": lambda: proxy.delay(random.uniform(0.2, 2.0), times=10),
        }
        if kind in rules:
            fault = rules[kind]()
            self._later(seconds, lambda: proxy.remove(fault))
        elif kind == "freeze":
            self._signal(slot, signal.SIGSTOP)
            self._later(seconds, lambda: self._thaw(slot))
        elif kind == "kill":
            slot.expected = True
            self._signal(slot, signal.SIGKILL)
        elif kind == "term":
            self._signal(slot, signal.SIGTERM)
        elif kind == "cut":
            self._later(0.0, proxy.refuse)
            self._later(seconds, proxy.listen)
        elif kind == "pause":
            proxy.pause()
            self._later(seconds, proxy.resume)
        elif kind == "break":
            proxy.cut(reset=random.random() < 0.5)
        elif kind == "external":
            self._external.fail(True)
            self._later(seconds, lambda: self._external.fail(False))
        elif kind == "compact":
            self._later(0.0, lambda: asyncio.to_thread(self._compact))
        elif kind == "server" and not self._away.locked():
            self._later(0.0, lambda: self._restart(hard=random.random() < 0.5))

    def _thaw(self, slot: Slot) -> None:
        self._thaws.append((slot.name, time.monotonic()))
        self._signal(slot, signal.SIGCONT)

    async def _restart(self, *, hard: bool) -> None:
        async with self._away:
            await asyncio.to_thread(self._api.kill if hard else self._api.stop)
            await asyncio.to_thread(self._api.start)

    def _compact(self) -> None:
        """Have etcd forget all history: watches that lag behind then get a real 410."""

        def ask(what: str, **body: Any) -> Any:
            url = f"http://127.0.0.1:{self._api._etcd_port}/v3/kv/{what}"
            with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=10) as answer:
                return json.load(answer)

        with contextlib.suppress(OSError):  # HTTPError too: somebody else compacted already
            ask("compaction", revision=ask("range", key="AA==")["header"]["revision"])

    # -- the story -----------------------------------------------------------------------------------------------------

    async def run(self, seconds: float) -> Summary:
        """Raises `Violation`."""
        async with AsyncExitStack() as stack:
            for number in range(self._replicas):
                self._slots.append(Slot(number, await stack.enter_async_context(FaultProxy(self._api))))
            homes = [asyncio.create_task(self._inhabit(slot), name=f"slot {slot.number}") for slot in self._slots]
            try:
                await self._break_for(seconds)
                await self._heal()
                converged_in = await self._converge()
                await self._rest()
                await self._stop(homes)
                return self._judged(converged_in)
            finally:
                self._closing = True
                for slot in self._slots:
                    slot.expected = True
                    self._signal(slot, signal.SIGKILL)
                for task in (*homes, *self._tasks):
                    task.cancel()
                await asyncio.gather(*homes, *self._tasks, return_exceptions=True)

    async def _break_for(self, seconds: float) -> None:
        user = User(self, self._random)  # type: ignore[arg-type]
        end = time.monotonic() + seconds
        strike_at = time.monotonic() + 5.0
        while time.monotonic() < end:
            with contextlib.suppress(ApiError):
                await self.server.collect_garbage()
                user.act()
                if self._random.random() < 0.2:
                    user.let_go()
                await self.server.carry_out()
            if time.monotonic() >= strike_at:
                self._strike()
                strike_at = time.monotonic() + self._random.expovariate(1 / 1.5)
            self._look()
            await asyncio.sleep(self._random.uniform(0.1, 0.6))
        await self._settled_tasks()
        await self.server.look()
        user.let_go()
        await self.server.carry_out()

    async def _settled_tasks(self) -> None:
        """Whatever was to be undone later is undone."""
        while self._tasks:
            await asyncio.wait(set(self._tasks), timeout=60.0)

    async def _heal(self) -> None:
        self.trace("world", "no more faults")
        for slot in self._slots:
            slot.proxy.clear()
            slot.proxy.resume()
            self._thaw(slot)
        self._external.fail(False)
        await asyncio.to_thread(self._api.start)

    async def _converge(self) -> float:
        started = time.monotonic()
        while True:
            await self.server.collect_garbage()
            await self.server.look()
            self._look()
            if not (lacks := self._judge.lacks()):
                return time.monotonic() - started
            if time.monotonic() - started > BOUND:
                raise Violation("converged", f"not within {BOUND:.0f} s: {lacks}", time.monotonic())
            await asyncio.sleep(1.0)

    async def _rest(self) -> None:
        """What wrote was confirmed, watches that went silent were resumed; then nobody writes."""
        end = time.monotonic() + BOUND
        while time.monotonic() - max((act[0] for act in self._acts()), default=0.0) < CONFIRM + QUIET:
            if time.monotonic() > end:
                raise Violation("quiet", f"somebody writes on: {self._acts()[-3:]}", time.monotonic())
            await asyncio.sleep(1.0)
        before = len(self._acts())
        await asyncio.sleep(QUIET)
        if (after := len(self._acts())) != before:
            what = self._acts()[before - after :]
            raise Violation("quiet", f"{after - before} writes on a converged world: {what}", time.monotonic())
        await self.server.look()
        if lacks := self._judge.lacks():
            raise Violation("converged", f"and then no more: {lacks}", time.monotonic())
        self._look()

    async def _stop(self, homes: list[asyncio.Task[None]]) -> None:
        self._closing = True
        for slot in self._slots:
            self._signal(slot, signal.SIGTERM)
        _, late = await asyncio.wait(homes, timeout=60.0)
        if late:
            raise Violation("leaks", f"{len(late)} replicas do not stop", time.monotonic())
        lease = await self._client.find(LEASE, LEASE_KEY[1], LEASE_KEY[0])
        if lease is not None and lease["spec"].get("holderIdentity"):
            raise Violation("leaks", "the Lease was not released by who stopped in order", time.monotonic())

    # -- judging -------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Raise what was noted so far."""
        for line in self._lines():
            if "broken" in line:
                self._judge.broken("process", f"{line['name']}: {line['broken']}")
        for slot in self._slots:
            if slot.process is not None and slot.process.returncode is None:
                with contextlib.suppress(OSError, IndexError, ValueError):
                    pages = int(Path(f"/proc/{slot.process.pid}/statm").read_text().split()[1])
                    self._memory = max(self._memory, pages * os.sysconf("SC_PAGE_SIZE"))
        if self._memory > MEMORY:
            self._judge.broken("memory", f"a replica has {self._memory} bytes resident")
        self._judge.check()

    def _lines(self) -> list[dict[str, Any]]:
        found = []
        for slot in self._slots:
            for name, journal in slot.journals.items():
                with contextlib.suppress(FileNotFoundError):
                    found += [{"name": name, **json.loads(line)} for line in journal.read_text().splitlines()]
        return found

    def _acts(self) -> list[tuple[float, str, int, str]]:
        """(time, process, term, what) of all acts, in their order."""
        return sorted(
            (line["at"], line["name"], line["term"], line["what"]) for line in self._lines() if "what" in line
        )

    def _judged(self, converged_in: float) -> Summary:
        """Never two leaders acting in the same term, nor an older one after a newer."""
        acts = self._acts()
        if message := two_leaders(acts, self._thaws):
            raise Violation("leader", message, time.monotonic())
        terms = {term for _, _, term, _ in acts}
        lives = sum(slot.lives for slot in self._slots)
        return Summary(self._seed, len(acts), len(terms), lives, self._strikes, converged_in, self._memory)


def two_leaders(acts: list[tuple[float, str, int, str]], thaws: list[tuple[str, float]]) -> str:
    """What is wrong with who acted in which term, "" for nothing. Pure.

    Args:
        acts: (time, process, term, what) in their order.
        thaws: (process, time) at which one went on after a standstill.
    """
    leaders: dict[int, str] = {}
    newest = -1
    for at, name, term, what in acts:
        if any(who == name and 0 <= at - since <= INSTANT for who, since in thaws):
            continue
        first = leaders.setdefault(term, name)
        if first != name:
            return f"{name} and {first} both act in term {term}: {what}"
        if term < newest:
            return f"{name} acts in term {term} ({what}), after somebody acted in term {newest}"
        newest = max(newest, term)
    return ""


@asynccontextmanager
async def _prepared() -> AsyncIterator[tuple[LocalApiServer, Client]]:
    with LocalApiServer() as api:
        async with Client.connect(await load_config(api.kubeconfig)) as client:
            for name in ("a", "b", LEASE_KEY[0]):
                await client.create(NAMESPACE, {"metadata": {"name": name}})
            await client.apply(CUSTOM_RESOURCE_DEFINITION, _CRD)
            async with asyncio.timeout(30):
                while True:
                    with contextlib.suppress(NotFound):
                        await client.list(WIDGET)
                        break
                    await asyncio.sleep(0.1)
            yield api, client


async def run(
    seed: int, *, seconds: float, replicas: int = 2, trace: Callable[[str], None] = lambda line: None
) -> Summary:
    """One run, on an API server of its own. Raises `Violation`."""
    with tempfile.TemporaryDirectory(prefix="yoban-real-") as folder:
        async with _prepared() as (api, client):
            return await World(api, client, seed, replicas, Path(folder), trace).run(seconds)
