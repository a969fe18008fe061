"""Broken reflectors, watches, informers and clients."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from yoban.kube import client as client_module
from yoban.kube import reach as reach_module
from yoban.kube import watch as watch_module
from yoban.kube.backoff import BackoffPolicy
from yoban.kube.client import Client
from yoban.kube.errors import Gone, NotFound
from yoban.kube.informer import Informer
from yoban.kube.objects import Obj, key_of
from yoban.kube.reach import Reach
from yoban.kube.reflector import Reflector
from yoban.kube.watch import WatchEvent, WatchStream

from tests.simulation.mutants.mutant import Mutant, replaced
from tests.simulation.weather import Weather

REFLECTOR = "tests.unit.kube.test_reflector"


def no_pause() -> Any:
    original = Reflector._after_failure

    def after_failure(self: Reflector, error: Exception) -> float:
        original(self, error)
        return 0.02  # virtual time would stand still for ever without one

    return replaced(Reflector, "_after_failure", after_failure)


def same_version_after_410() -> Any:
    original = Reflector._after_failure

    def after_failure(self: Reflector, error: Exception) -> float:
        must_list = self._must_list
        delay = original(self, error)
        if isinstance(error, Gone):
            self._must_list = must_list
            return max(delay, 1.0)
        return delay

    return replaced(Reflector, "_after_failure", after_failure)


def pages_as_events() -> Any:
    original = watch_module.parse_event

    def parse_event(line: bytes) -> WatchEvent:
        if line.startswith(b"<"):
            ghost = {"metadata": {"name": "html", "namespace": "a", "uid": "html", "resourceVersion": "1"}}
            return WatchEvent("ADDED", msgspec.Raw(msgspec.json.encode(ghost)))
        return original(line)

    return replaced(watch_module, "parse_event", parse_event)


def watch_from_nothing() -> Any:
    original = Client.watch

    async def no_list(self: Reflector) -> None:
        if not self.synced:
            self._sink.replace([], self.scope.namespace)
            self.synced = True
        self._version = "0"
        self._must_list = False

    @contextlib.asynccontextmanager
    async def watch(self: Client, *args: Any, **options: Any) -> AsyncIterator[WatchStream]:
        options["initial_events"] = options["resource_version"] == "0"
        async with original(self, *args, **options) as stream:
            yield stream

    stack = contextlib.ExitStack()
    stack.enter_context(replaced(Reflector, "_list", no_list))
    stack.enter_context(replaced(Client, "watch", watch))
    return stack


def greatest_version() -> Any:
    def resume_from(self: Reflector, version: str) -> None:
        self._version = self._list_version = max(self._version, version, key=lambda v: int(v or 0))

    return replaced(Reflector, "_resume_from", resume_from)


def waits_for_ever() -> Any:
    original = WatchStream.batch

    async def batch(self: WatchStream, idle: float) -> list[WatchEvent] | None:
        return await original(self, 1e9)

    return replaced(WatchStream, "batch", batch)


def absent_is_no_error() -> Any:
    original = Client.get

    async def get(self: Client, *args: Any, **options: Any) -> Obj:
        try:
            return await original(self, *args, **options)
        except NotFound as error:
            return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": error.status}

    return replaced(Client, "get", get)


def vanished_untold() -> Any:
    def replace(self: Informer, items: list[Obj], scope: str | None) -> None:
        initial = scope not in self._filled
        present = {key_of(item) for item in items}
        for item in items:
            self._put(self._transform(item), initial=initial)
        known = self.store.keys()
        for key in known:
            if key not in present and (scope is None or key.namespace == scope):
                self.store.remove(key)
        self._filled.add(scope)
        if len(self._filled) == len(self._reflectors):
            self._synced.set()

    return replaced(Informer, "replace", replace)


def successor_as_update() -> Any:
    def put(self: Informer, obj: Obj, *, initial: bool) -> None:
        old = self.store.put(obj)
        self._saw(obj)
        for handler in tuple(self._handlers):
            if old is None:
                handler.on_add(obj, initial)
            else:
                handler.on_update(old, obj)

    return replaced(Informer, "_put", put)


def parse_all_at_once() -> Any:
    return replaced(client_module, "PARSE_AT_ONCE", 10**9)


def return_untold() -> Any:
    return replaced(Reach, "answered", lambda self: None)


def probes_without_pause() -> Any:
    return replaced(reach_module, "REFUSED", BackoffPolicy(initial=0.001, cap=0.001))


STREAMS = Weather(stream_broken=0.05, stream_silent=0.05, slow=0.05)

MUTANTS = (
    Mutant("re-watch without pause", "1: reconnect with no pause", no_pause, ("rate",)),
    Mutant(
        "short watches without back-off",
        "1: reconnect with no pause",
        no_pause,
        test=(REFLECTOR, "test_3_2_5_a_server_that_ends_every_watch_at_once_is_not_hammered"),
    ),
    Mutant(
        "410 retried with the same version",
        "2: ERROR 410 is retried with the same version",
        same_version_after_410,
        ("converged", "caches", "quiet"),
        {"force": ("expire", "compact")},
    ),
    Mutant(
        "a line of HTML is an event",
        "3: HTML lines are yielded as events",
        pages_as_events,
        ("caches", "quiet", "converged"),
        {"weather": Weather(stream_page=0.2)},
    ),
    Mutant(
        "watch without a list, versions of initial events kept",
        "4: resumes from the last of the initial events",
        watch_from_nothing,
        ("caches", "converged", "quiet"),
        {"weather": STREAMS, "force": ("compact", "break", "mute")},
    ),
    Mutant(
        "the greatest version is resumed from",
        "4: resumes from the last of the initial events",
        greatest_version,
        test=(REFLECTOR, "test_3_2_3_versions_are_opaque_and_never_compared"),
    ),
    Mutant(
        "a silent watch is waited for for ever",
        "5: a silent server is waited for for ever",
        waits_for_ever,
        ("converged", "caches", "quiet"),
        {"force": ("mute",) * 5},
    ),
    Mutant(
        "a server that is away is probed without pause",
        "1: reconnect with no pause",
        probes_without_pause,
        test=("tests.unit.kube.test_reach", "test_suspicions_cost_no_more_than_a_probe_each_and_about_one_a_second"),
    ),
    Mutant(
        "the end of an outage is not told",
        "ours, fixed: the back-off outlived an outage",
        return_untold,
        test=(
            "tests.unit.runtime.test_outage",
            "test_bug_a_key_waited_out_its_back_off_when_the_api_server_was_back",
        ),
    ),
    Mutant("404 is no error", "6: a 404 raises nothing", absent_is_no_error, ("converged",)),
    Mutant(
        "what vanished is not told",
        "7: a deletion between 410 and the new list is not told",
        vanished_untold,
        ("caches", "handlers", "converged", "quiet"),
        {"force": ("expire", "mute", "compact")},
    ),
    Mutant(
        "a successor is an update of its predecessor",
        "7: a deletion between 410 and the new list is not told",
        successor_as_update,
        ("handlers",),
        {"force": ("expire", "mute", "compact")},
    ),
    Mutant(
        "a list is decoded in one go",
        "12: objects decoded in a way that blocks the loop",
        parse_all_at_once,
        test=("tests.unit.kube.test_client", "test_3_12_a_large_list_gives_the_loop_its_turn"),
    ),
)
