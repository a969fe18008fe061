"""Broken queues, controllers, finalizers and writers: bugs that were ours, or that the rules were written against."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from yoban.kube import workqueue as queue_module
from yoban.kube.finalizers import Finalizer, Step
from yoban.kube.informer import Informer
from yoban.kube.objects import Obj, ObjectKey, is_deleting, key_of
from yoban.kube.resource import Resource
from yoban.kube.status import StatusWriter
from yoban.kube.workqueue import NORMAL, WorkQueue, _Dirty
from yoban.runtime.controller import Controller
from yoban.runtime.sources import Mapping, Predicate, Priority, enqueue, itself

from tests.simulation.mutants.mutant import Mutant, replaced
from tests.simulation.weather import Weather


def twice_at_once() -> Any:
    def add_now(self: WorkQueue[Any], key: Any, priority: int) -> None:
        if key not in self._dirty:
            entry = self._dirty[key] = _Dirty(priority)
            self._make_ready(key, entry)
            self._wake_one()

    def done(self: WorkQueue[Any], key: Any) -> None:
        self._processing.pop(key, None)

    stack = _Both(replaced(WorkQueue, "_add_now", add_now), replaced(WorkQueue, "done", done))
    return stack


class _Both:
    def __init__(self, *managers: Any) -> None:
        self._managers = managers

    def __enter__(self) -> None:
        for manager in self._managers:
            manager.__enter__()

    def __exit__(self, *_: object) -> None:
        for manager in reversed(self._managers):
            manager.__exit__(None, None, None)


def lost_while_in_hand() -> Any:
    original = WorkQueue._add_now

    def add_now(self: WorkQueue[Any], key: Any, priority: int) -> None:
        if key not in self._processing:
            original(self, key, priority)

    return replaced(WorkQueue, "_add_now", add_now)


def stale_entries_kept() -> Any:
    return replaced(queue_module, "SLACK", 10**9)


def standby_queues() -> Any:
    def watches(
        self: Controller,
        informer: Informer,
        mapping: Mapping = itself,
        *,
        predicate: Predicate | None = None,
        priority: Priority = NORMAL,
    ) -> Controller:
        informer.add_handler(enqueue(self.queue, mapping, predicate=predicate, priority=priority))
        self._informers.append(informer)
        return self

    return replaced(Controller, "watches", watches)


def unconfirmed() -> Any:
    return replaced(Controller, "_confirm_later", lambda self, key, wrote, *, ended: None)


def confirmation_lost() -> Any:
    def confirm_later(self: Controller, key: ObjectKey, wrote: bool, *, ended: bool) -> None:
        if wrote and self._confirm is not None:
            self.queue.add(key, after=self._confirm)

    return replaced(Controller, "_confirm_later", confirm_later)


def removed_in_any_case() -> Any:
    async def handle(
        self: Finalizer,
        obj: Obj,
        cleanup: Callable[[], Awaitable[None]],
        *,
        on_failure: Callable[[Exception], Awaitable[None]] | None = None,
    ) -> Step:
        if not is_deleting(obj):
            return Step.ADDED if await self.add(obj) else Step.PRESENT
        if not self.is_on(obj):
            return Step.LEAVING
        try:
            await cleanup()
        finally:
            await self.remove(obj)
        return Step.CLEANED

    return replaced(Finalizer, "handle", handle)


def heartbeat() -> Any:
    async def write(self: StatusWriter, resource: Resource, cached: Obj, status: dict[str, Any]) -> bool:
        key = key_of(cached)
        obj = {"metadata": {"namespace": key.namespace, "name": key.name}, "status": status}
        await self._client.apply_status(resource, obj, field_manager=self.field_manager)
        return True

    return replaced(StatusWriter, "write", write)


CONFIRMATION = "tests.unit.runtime.test_confirmation"

MUTANTS = (
    Mutant("a key is worked on twice at once", "rule 3.4: the workqueue", twice_at_once, ("overlap",)),
    Mutant(
        "what is added while in hand is lost",
        "rule 3.4: the workqueue",
        lost_while_in_hand,
        test=("tests.unit.kube.test_workqueue", "test_3_4_a_key_is_never_worked_twice_at_once_and_no_update_is_lost"),
    ),
    Mutant(
        "stale entries of heaps are kept",
        "ours, fixed: memory by passes",
        stale_entries_kept,
        ("queue",),
        {"look_again": 3600.0, "user_every": 0.5, "weather": Weather()},
    ),
    Mutant("a standby fills its queue", "ours, fixed: memory by keys", standby_queues, ("queue",), {"replicas": 2}),
    Mutant(
        "a pass that wrote is not confirmed",
        "ours, fixed: made and deleted unseen, or overwritten late",
        unconfirmed,
        test=(CONFIRMATION, "test_bug_what_a_pass_made_was_gone_before_the_cache_ever_showed_it"),
    ),
    Mutant(
        "a pass in between takes the confirmation's place",
        "ours, fixed: made and deleted unseen, or overwritten late",
        confirmation_lost,
        test=(CONFIRMATION, "test_bug_a_pass_in_between_took_the_place_of_the_one_that_confirms"),
    ),
    Mutant(
        "the finalizer goes when the clean-up failed",
        "rule 3.9: finalizers",
        removed_in_any_case,
        ("finalizer",),
        {"force": ("external",) * 5},
    ),
    Mutant(
        "status is written whether it changed or not", "rule 3.10: writes", heartbeat, ("quiet",), {"look_again": 20.0}
    ),
)
