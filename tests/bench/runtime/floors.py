"""What each layer costs on an idle server, one thing after the other: what no operator can be quicker than.

The bare way is a blocking connection of the standard library, with nothing around it: a request is written, its answer read.
Each row of the table adds a layer to one before. Nothing else runs, so these are floors, not what is seen under load.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from yoban.kube.client import Client
from yoban.kube.config import ClusterConfig, TokenFile
from yoban.kube.informer import Handler, Informer
from yoban.kube.objects import Obj, generation_of
from yoban.kube.resource import CONFIG_MAP, Resource

from tests.bench.figures import Series, short
from tests.bench.machine import BenchError, say
from tests.bench.runtime.contestants import Contestant, Operator
from tests.bench.runtime.driver import name_of
from tests.bench.runtime.world import GROUP, PLURAL, World
from tests.bench.verdict import markdown

CARD = Resource(GROUP, "v1", PLURAL, "Card")
APPLY, MERGE, PLAIN = "application/apply-patch+yaml", "application/merge-patch+json", "application/json"
WARM_UP = 40
DEADLINE = 30.0  # seconds for a single answer or event


@dataclass
class Row:
    """A layer: milliseconds of each time, and seconds of processor time that all of them took in this process."""

    name: str
    ms: list[float] = field(default_factory=list)
    cpu: float | None = None

    def cells(self) -> tuple[str, str, str, str]:
        """Of the table."""
        found = Series("ms", tuple(self.ms))
        cpu = "" if self.cpu is None else short(self.cpu / len(self.ms) * 1e6)
        return self.name, short(found.median), short(found.percentile(0.99)), cpu


class Bare:
    """A blocking connection to the API server. One request at a time."""

    def __init__(self, world: World, namespace: str) -> None:
        self.namespace = namespace
        host, _, port = world.api.url.removeprefix("https://").partition(":")
        trust = ssl.create_default_context(cafile=world.api.ca_file)
        self._connection = http.client.HTTPSConnection(host, int(port), timeout=DEADLINE, context=trust)
        self._token, self._admin = world.tokens[namespace].read_text().strip(), world.api.token
        self._stream: http.client.HTTPResponse | None = None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def ask(self, method: str, path: str, body: Obj | None = None, content: str = PLAIN) -> Obj:
        """The answer. BenchError for any but a success."""
        answer = self._send(method, path, body, content)
        found: Obj = json.loads(answer.read())
        return found

    def version(self, path: str) -> str:
        """The resource version of a collection now."""
        return str(self.ask("GET", path)["metadata"]["resourceVersion"])

    def start(self, path: str, version: str) -> None:
        """Watch from there on; `event` then reads. The connection can do nothing else from now on."""
        self._stream = self._send("GET", f"{path}?watch=true&resourceVersion={version}", None, PLAIN)

    def event(self) -> Obj:
        """The next object that the watch shows."""
        assert self._stream is not None
        found: Obj = json.loads(self._stream.readline())["object"]
        return found

    def _send(self, method: str, path: str, body: Obj | None, content: str) -> http.client.HTTPResponse:
        self._write(method, path, body, content)
        return self._read(f"{method} {path}")

    def _write(self, method: str, path: str, body: Obj | None, content: str) -> None:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content}
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)

    def _read(self, what: str) -> http.client.HTTPResponse:
        answer = self._connection.getresponse()
        if answer.status >= 300:
            raise BenchError(f"{what}: {answer.status} {answer.read()[:300]!r}")
        return answer

    # -- the bench's objects

    def make(self, number: int) -> Obj:
        """Make a Card."""
        body = {"apiVersion": f"{GROUP}/v1", "kind": "Card", "metadata": {"name": name_of(number)}}
        return self.ask("POST", CARD.path(self.namespace), {**body, "spec": {"text": "the first"}})

    def change(self, number: int, text: str) -> None:
        """Send the change of a Card's spec; `changed` reads the answer."""
        self._write("PATCH", CARD.path(self.namespace, name_of(number)), {"spec": {"text": text}}, MERGE)

    def changed(self) -> Obj:
        """The answer to `change`."""
        found: Obj = json.loads(self._read("a change").read())
        return found

    def empty(self) -> None:
        """Delete all Cards and ConfigMaps of the namespace, as an administrator."""
        self._token = self._admin
        for kind in (CARD, CONFIG_MAP):
            self.ask("DELETE", kind.path(self.namespace))


def the_map(card: Obj, namespace: str) -> Obj:
    """What an operator applies for a Card."""
    owner = {"apiVersion": f"{GROUP}/v1", "kind": "Card", "name": card["metadata"]["name"], "controller": True}
    metadata: Obj = {"name": f"{card['metadata']['name']}-card", "namespace": namespace, "labels": {"app": "bench"}}
    metadata["ownerReferences"] = [{**owner, "uid": card["metadata"]["uid"], "blockOwnerDeletion": True}]
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"text": card["spec"]["text"]}}


def the_status(card: Obj, namespace: str) -> Obj:
    """The status that an operator applies for a Card."""
    generation = generation_of(card)
    ready = {"type": "Ready", "status": "True", "reason": "CardWritten", "message": ""}
    ready |= {"lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "Card",
        "metadata": {"name": card["metadata"]["name"], "namespace": namespace},
        "status": {"observedGeneration": generation, "conditions": [{**ready, "observedGeneration": generation}]},
    }


def measure(world: World, contestants: Sequence[Contestant], count: int) -> list[Row]:
    """All rows, each `count` times. The first contestant must be ours: its account is used for what needs no operator."""
    namespace = contestants[0].namespace
    with closing(Bare(world, namespace)) as bare, _emptied(bare):
        cards = [bare.make(number) for number in range(2 * (WARM_UP + count))]
        mark = world.audit.mark()
        direct, ours = asyncio.run(_requests(world, bare, cards))
        rows = [_of_the_server(world, namespace, mark), direct, ours]
        event, told = asyncio.run(_events(world, bare, count))
        rows += [event, told]
    floor = Row("**Floor of a change**: its event, then both writes, bare")
    floor.ms = [one + other for one, other in zip(event.ms, direct.ms, strict=True)]
    rows.append(floor)
    for contestant in contestants:
        rows.append(_whole(world, contestant, count))
        say(f"{contestant.name}: {rows[-1].cells()[1]} ms from a change to its status on an idle server")
    return rows


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    head = ("One after the other, nothing else running", "p50, ms", "p99, ms", "client's CPU, µs")
    return markdown([head, *(row.cells() for row in rows)])


@contextmanager
def _emptied(bare: Bare) -> Iterator[None]:
    try:
        yield
    finally:
        bare.empty()


class _Timer:
    """Times a block for a row, and the processor time of this thread in it; not while it warms up."""

    def __init__(self, row: Row, *, counts: bool) -> None:
        self._row, self._counts = row, counts

    def __enter__(self) -> None:
        self._used, self._began = time.thread_time(), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        took = time.perf_counter() - self._began
        if self._counts:
            self._row.ms.append(took * 1e3)
            self._row.cpu = (self._row.cpu or 0.0) + time.thread_time() - self._used


def _of_the_server(world: World, namespace: str, mark: int) -> Row:
    """The time that the API server itself says it took for the requests since."""
    took = [r.answered - r.received for r in world.audit.since(mark, world.user(namespace)) if r.verb == "patch"]
    pairs = [(one + other) * 1e3 for one, other in zip(took[::2], took[1::2], strict=True)]
    return Row(
        "**API server and etcd**: apply of a ConfigMap + apply of a status, by its audit log", pairs[2 * WARM_UP :]
    )


def _client(world: World, namespace: str) -> Client:
    config = ClusterConfig(
        server=world.api.url, credentials=TokenFile(world.tokens[namespace]), ca_file=world.api.ca_file
    )
    return Client.connect(config)


async def _requests(world: World, bare: Bare, cards: Sequence[Obj]) -> tuple[Row, Row]:
    """An operator's two requests for a Card: bare for every other Card, through our client for the rest."""
    direct, ours = Row("both requests, bare connection"), Row("both requests, `yoban.kube.client`")
    space, options = bare.namespace, "fieldManager=floor&force=true"
    async with _client(world, space) as client:
        for number, (card, other) in enumerate(zip(cards[::2], cards[1::2], strict=True)):
            counts = number >= WARM_UP
            name, wanted, status = card["metadata"]["name"], the_map(card, space), the_status(card, space)
            with _Timer(direct, counts=counts):
                bare.ask("PATCH", f"{CONFIG_MAP.path(space, f'{name}-card')}?{options}", wanted, APPLY)
                bare.ask("PATCH", f"{CARD.path(space, name, 'status')}?{options}", status, APPLY)
            wanted, status = the_map(other, space), the_status(other, space)
            with _Timer(ours, counts=counts):
                await client.apply(CONFIG_MAP, wanted, field_manager="floor")
                await client.apply_status(CARD, status, field_manager="floor")
    return direct, ours


async def _events(world: World, bare: Bare, count: int) -> tuple[Row, Row]:
    """A change until its event was read by a bare watch, and until a handler of an informer was told, in turns.

    The changes are sent over the bare connection in both cases, and their answers read afterwards.
    """
    direct = Row("a change sent → its event read, bare connections")
    ours = Row("a change sent → a handler told: decoded and stored by `yoban.kube`")
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[None]] = []

    def heard(old: Obj, new: Obj) -> None:
        if waiting:
            waiting.pop().set_result(None)

    async with _client(world, bare.namespace) as client:
        informer = Informer(client, CARD, namespaces=[bare.namespace])
        informer.add_handler(Handler(lambda obj, initial: None, heard, lambda obj, stale: None))
        running = asyncio.create_task(informer.run())
        try:
            await informer.wait_synced(DEADLINE)
            with closing(Bare(world, bare.namespace)) as watch:
                watch.start(CARD.path(bare.namespace), bare.version(CARD.path(bare.namespace)))
                for number in range(WARM_UP + count):
                    counts = number >= WARM_UP
                    with _Timer(direct, counts=counts):
                        bare.change(number, f"event {number}")
                        watch.event()
                    bare.changed()
                    await asyncio.sleep(0.002)  # the informer hears of it, too
                    waiting.append(told := loop.create_future())
                    with _Timer(ours, counts=counts):
                        bare.change(number, f"told {number}")
                        async with asyncio.timeout(DEADLINE):
                            await told
                    bare.changed()
                    watch.event()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    return direct, ours


def _whole(world: World, contestant: Contestant, count: int) -> Row:
    """From a change until its status is seen, with an operator as a process of its own."""
    row = Row(f"**A change sent → its status seen**, {contestant.name}")
    with closing(Bare(world, contestant.namespace)) as bare, _emptied(bare):
        for number in range(WARM_UP + count):
            bare.make(number)
        operator = Operator(contestant, world)
        try:
            end = time.monotonic() + 60
            while operator.synced() is None:
                if time.monotonic() > end:
                    raise BenchError(f"{contestant.name} opens no watch:\n{operator.problems()}")
                time.sleep(0.1)
            with closing(Bare(world, contestant.namespace)) as watch:
                _settled(bare)
                watch.start(CARD.path(bare.namespace), bare.version(CARD.path(bare.namespace)))
                for number in range(WARM_UP + count):
                    with _Timer(row, counts=number >= WARM_UP):
                        bare.change(number, f"whole {number}")
                        while not _is_ready(shown := watch.event()) or shown["spec"]["text"] != f"whole {number}":
                            continue  # the event of the change itself comes first
                    bare.changed()
        finally:
            operator.stop()
    row.cpu = None  # ours is the watcher's here
    return row


def _settled(bare: Bare) -> None:
    """Until all Cards are Ready, and a moment more."""
    end = time.monotonic() + 60
    while not all(map(_is_ready, bare.ask("GET", CARD.path(bare.namespace))["items"])):
        if time.monotonic() > end:
            raise BenchError("the Cards do not become Ready")
        time.sleep(0.2)
    time.sleep(1.0)


def _is_ready(card: Obj) -> bool:
    return bool((card.get("status") or {}).get("observedGeneration") == generation_of(card))
