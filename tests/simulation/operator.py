"""The operator under test: a small kind that owns a ConfigMap, has a status, and something external to clean up.

Everything in it is the real code of `yoban.kube` and `yoban.runtime`, used as docs/runtime.md says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from yoban.kube.apply import Applier
from yoban.kube.client import Client
from yoban.kube.clock import Clock
from yoban.kube.conditions import Condition, Status, merge
from yoban.kube.finalizers import Finalizer
from yoban.kube.informer import Informer
from yoban.kube.objects import Obj, ObjectKey, conditions_of, generation_of, key_of, uid_of
from yoban.kube.ratelimit import RateLimiter, TokenBucket
from yoban.kube.reflector import ReflectorSettings
from yoban.kube.resource import CONFIG_MAP, Resource
from yoban.kube.status import StatusWriter
from yoban.kube.workqueue import WorkQueue
from yoban.runtime import Controller, Manager, Result, intent_changed

from tests.simulation.external import Hand

WIDGET = Resource("simulation.yoban.test", "v1", "widgets", "Widget")
FINALIZER = "simulation.yoban.test/external"
CARD_LABEL = "simulation"
LEASE_KEY = ("operator", "widgets")


def card_name(widget: str) -> str:
    """The name of the ConfigMap of a Widget."""
    return f"{widget}-card"


def card(widget: Obj) -> Obj:
    """The ConfigMap that a Widget asks for."""
    key = key_of(widget)
    return {
        "metadata": {"namespace": key.namespace, "name": card_name(key.name), "labels": {CARD_LABEL: "card"}},
        "data": {"value": str(widget["spec"]["value"])},
    }


@dataclass(frozen=True, slots=True)
class Watched:
    """Told of each pass.

    Attributes:
        begins: at its start.
        ends: at its end, whatever came of it.
    """

    begins: Callable[[ObjectKey], None]
    ends: Callable[[ObjectKey, WorkQueue[ObjectKey]], None]


def operate(
    client: Client,
    manager: Manager,
    hand: Hand,
    watched: Watched,
    *,
    clock: Clock,
    random: Random,
    workers: int,
    reflector: ReflectorSettings,
    confirm: float,
    look_again: float | None,
) -> tuple[Controller, list[Informer]]:
    """Add everything to `manager`; the controller and its caches."""
    options = {"settings": reflector, "clock": clock, "random": random.random}
    widgets = manager.informer(WIDGET, **options)
    cards = manager.informer(CONFIG_MAP, labels=CARD_LABEL, **options)
    applier, status = Applier(client, "widget"), StatusWriter(client, "widget-status")
    finalizer = Finalizer(client, WIDGET, FINALIZER)

    async def report(widget: Obj, condition: Condition) -> None:
        generation = generation_of(widget)
        conditions = merge(conditions_of(widget), [condition], known=["Ready"], generation=generation, now=clock.now())
        await status.write(WIDGET, widget, {"conditions": conditions, "observedGeneration": generation})

    async def work(key: ObjectKey) -> Result | None:
        widget = widgets.get(key)
        if widget is None:
            return None
        uid = uid_of(widget)

        async def failed(error: Exception) -> None:
            await report(widget, Condition("Ready", Status.FALSE, "CleanUpFailed"))

        step = await finalizer.handle(widget, lambda: hand.clean(uid), on_failure=failed)
        if not step.proceed:
            return None
        await hand.ensure(uid, generation_of(widget), widget["spec"]["value"])
        wanted = card(widget)
        await applier.ensure(CONFIG_MAP, wanted, cached=cards.get(key_of(wanted)), owner=widget)
        await report(widget, Condition("Ready", Status.TRUE, "CardWritten"))
        return Result(requeue_after=look_again) if look_again is not None else None

    async def reconcile(key: ObjectKey) -> Result | None:
        watched.begins(key)
        try:
            return await work(key)
        finally:
            watched.ends(key, controller.queue)

    limiter: RateLimiter[ObjectKey] = RateLimiter(cap=16.0, bucket=TokenBucket(), random=random.random)
    controller = Controller("widget", reconcile, workers=workers, deadline=40.0, limiter=limiter, confirm=confirm)
    controller.watches(widgets, predicate=intent_changed).owns(cards, WIDGET)
    manager.add(controller)
    return controller, [widgets, cards]
