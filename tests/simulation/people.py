"""Who else is there: a user who changes things, the garbage collector, and the nemesis who breaks them."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import TYPE_CHECKING, Any

from yoban.kube.objects import Obj, is_deleting, key_of, resource_version_of
from yoban.kube.resource import CONFIG_MAP, Resource

from tests.simulation.operator import WIDGET, card_name

if TYPE_CHECKING:
    from tests.simulation.world import World

OTHERS_FINALIZER = "others.test/slow"


class User:
    """Creates, changes and deletes Widgets; tampers with what the operator made."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        self._names = [(ns, f"w{n}") for ns in ("a", "b") for n in range(random.choice((1, 2, 3)))]

    def act(self) -> None:
        """Do one thing."""
        random, server = self._random, self._world.server
        namespace, name = random.choice(self._names)
        widget = server.find(WIDGET, namespace, name)
        if widget is None:
            self._create(namespace, name)
            return
        what = random.choices(
            ("spec", "delete", "replace", "label", "tamper", "remove", "finalizer", "hot"), (30, 20, 5, 5, 10, 6, 4, 3)
        )[0]
        self._world.trace("user", f"{what} {namespace}/{name}")
        if what == "spec":
            self._patch(WIDGET, namespace, name, {"spec": {"value": random.randrange(100)}})
        elif what == "hot":
            for _ in range(10):
                self._patch(WIDGET, namespace, name, {"spec": {"value": random.randrange(100)}})
        elif what == "label":
            self._patch(WIDGET, namespace, name, {"metadata": {"labels": {"x": str(random.randrange(9))}}})
        elif what == "tamper":
            self._patch(CONFIG_MAP, namespace, card_name(name), {"data": {"value": "wrong"}})
        elif what == "remove":
            self._world.server.serve("DELETE", CONFIG_MAP.path(namespace, card_name(name)))
        elif what == "finalizer" and not is_deleting(widget):
            listed = [*(widget["metadata"].get("finalizers") or ()), OTHERS_FINALIZER]
            self._finalizers(widget, sorted(set(listed)))
        elif what in ("delete", "replace"):
            server.serve("DELETE", WIDGET.path(namespace, name))
            if what == "replace":
                self._create(namespace, name)

    def _create(self, namespace: str, name: str) -> None:
        self._world.trace("user", f"create {namespace}/{name}")
        metadata: dict[str, Any] = {"namespace": namespace, "name": name}
        if self._random.random() < 0.1:
            metadata["finalizers"] = [OTHERS_FINALIZER]
        body = {"apiVersion": WIDGET.api_version, "kind": WIDGET.kind, "metadata": metadata}
        body["spec"] = {"value": self._random.randrange(100)}
        self._world.server.serve("POST", WIDGET.path(namespace), json.dumps(body).encode(), "application/json")

    def _patch(self, resource: Resource, namespace: str, name: str, body: Any) -> None:
        path = resource.path(namespace, name)
        self._world.server.serve("PATCH", path, json.dumps(body).encode(), "application/merge-patch+json")

    def _finalizers(self, widget: Obj, listed: list[str]) -> None:
        # The patch replaces the list as a whole: with the version, lest it takes off what somebody else has put on since.
        metadata = {"finalizers": listed, "resourceVersion": resource_version_of(widget)}
        key = key_of(widget)
        self._patch(WIDGET, key.namespace, key.name, {"metadata": metadata})

    def let_go(self) -> None:
        """Take the other finalizer off whatever has it."""
        for widget in self._world.server.objects(WIDGET):
            listed = widget["metadata"].get("finalizers") or []
            if OTHERS_FINALIZER in listed:
                self._finalizers(widget, [name for name in listed if name != OTHERS_FINALIZER])

    async def run(self, every: float) -> None:
        """Act now and then."""
        while True:
            await asyncio.sleep(self._random.expovariate(1 / every))
            self.act()
            if self._random.random() < 0.2:
                self.let_go()


class Nemesis:
    """Breaks processes, the way between them, and the server; each seed with a choice of its own."""

    KINDS = (
        "freeze",
        "block",
        "kill",
        "term",
        "cut",
        "cut_in",
        "cut_out",
        "down",
        "compact",
        "expire",
        "end",
        "break",
        "mute",
        "lag",
        "external",
    )

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        kinds = [kind for kind in self.KINDS if random.random() < 0.5]
        self.kinds = [*kinds, *world.options.force] or ["kill"]

    async def run(self, every: float) -> None:
        """Strike now and then."""
        while True:
            await asyncio.sleep(self._random.expovariate(1 / every))
            self.strike(self._random.choice(self.kinds))

    def strike(self, kind: str) -> None:
        """Do one thing, and undo it after a while."""
        world, random = self._world, self._random
        replica = random.choice(world.living) if world.living else None
        seconds = random.choice((random.uniform(0.1, 3), random.uniform(3, 15), random.uniform(10, 45)))
        world.trace("nemesis", f"{kind} {replica.process.name if replica else ''} {seconds:.1f} s")
        server, network = world.server, world.network
        if replica is not None and kind in ("freeze", "block"):
            if not replica.process.frozen:
                replica.freeze(whole=kind == "freeze")
                world.loop.later(seconds, replica.thaw)
        elif replica is not None and kind == "kill":
            replica.kill()
        elif replica is not None and kind == "term":
            replica.stop()
        elif replica is not None and kind in ("cut", "cut_in", "cut_out"):
            if replica.link.cut_in or replica.link.cut_out:
                return  # what heals it now would end this cut too
            replica.link.cut_out |= kind != "cut_in"
            replica.link.cut_in |= kind != "cut_out"
            if seconds > 20:
                for feed in replica.link.feeds:
                    feed.mute()
            world.loop.later(seconds, replica.link.heal)
        elif kind == "down" and network.up:
            network.up, network.hangs = False, random.random() < 0.3
            server.break_watches()
            world.loop.later(seconds, self._up)
        elif kind == "compact":
            server.compact()
        elif kind == "expire":
            server.expire_watches()
        elif kind == "end":
            server.end_watches()
        elif kind == "break":
            server.break_watches()
        elif replica is not None and kind == "mute":
            for feed in replica.link.feeds:
                feed.mute()
        elif kind == "lag":
            server.lag = random.choice((1, 3, 10, 40))
            world.loop.later(seconds, self._caught_up)
        elif kind == "external":
            world.external.failing = random.choice((0.1, 0.5, 1.0))
            world.loop.later(seconds, self._external_works)

    def _up(self) -> None:
        self._world.network.up = True

    def _caught_up(self) -> None:
        self._world.server.lag = 0

    def _external_works(self) -> None:
        self._world.external.failing = 0.0
