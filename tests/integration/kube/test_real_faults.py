"""The whole machinery against a real kube-apiserver through the fault proxy.

No event is lost, no key is worked twice at once, nothing runs hot, and the number of calls is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest
from yoban.kube.apply import Applier
from yoban.kube.backoff import BackoffPolicy
from yoban.kube.client import Client
from yoban.kube.clock import SystemClock
from yoban.kube.conditions import Condition, Status, merge
from yoban.kube.config import load_config
from yoban.kube.election import Elector, LeaseTimings
from yoban.kube.finalizers import Finalizer
from yoban.kube.informer import Informer
from yoban.kube.lease import LeaseLock, LeaseLost
from yoban.kube.objects import Obj, ObjectKey, conditions_of, generation_of, key_of, resource_version_of
from yoban.kube.ratelimit import RateLimiter
from yoban.kube.reach import probes_total
from yoban.kube.reflector import ReflectorSettings
from yoban.kube.resource import CONFIG_MAP, LEASE
from yoban.kube.status import StatusWriter
from yoban.runtime import Controller, Manager, Result, intent_changed

from tests.integration.kube.conftest import WIDGET, widget

if TYPE_CHECKING:
    from deploy.lab.apiserver import LocalApiServer
    from deploy.lab.fault_rules import Fault
    from deploy.lab.proxy import FaultProxy

pytestmark = pytest.mark.server
# Delays so short that fifty faults in a row fit into a test; the true ones are tested on virtual time.
QUICK = ReflectorSettings(idle=3.0, backoff=BackoffPolicy(initial=0.05, cap=1.0))


@pytest.fixture
async def proxy(local_apiserver: LocalApiServer) -> AsyncIterator[FaultProxy]:
    from deploy.lab.proxy import FaultProxy

    async with FaultProxy(local_apiserver) as proxy:
        yield proxy


@pytest.fixture
async def faulty(proxy: FaultProxy) -> AsyncIterator[Client]:
    """A client whose every byte goes through the proxy."""
    async with Client.connect(await load_config(proxy.kubeconfig)) as client:
        yield client


class Operator:
    """Keeps a ConfigMap and a condition for each Widget, and notices what must not happen."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        settings: ReflectorSettings = QUICK,
        limiter: RateLimiter[ObjectKey] | None = None,
    ) -> None:
        self.manager = Manager(client, namespaces=[namespace], detect_mutation=True)
        self.widgets = self.manager.informer(WIDGET, settings=settings)
        self.maps = self.manager.informer(CONFIG_MAP, labels="widget", settings=settings)
        self.passes: Counter[ObjectKey] = Counter()
        self.cleaned: list[ObjectKey] = []
        self.looks = False
        """Whether each pass makes a request of its own, whatever the caches say."""
        self._client = client
        self._at_once: set[ObjectKey] = set()
        self._applier = Applier(client, "widget")
        self._status = StatusWriter(client, "widget-status")
        self._finalizer = Finalizer(client, WIDGET, "yoban.test/widget")
        self.controller = Controller("widget", self.reconcile, workers=4, deadline=30, limiter=limiter)
        self.controller.watches(self.widgets, predicate=intent_changed).owns(self.maps, WIDGET)
        self.manager.add(self.controller)

    async def reconcile(self, key: ObjectKey) -> Result | None:
        assert key not in self._at_once, "worked twice at once"
        self._at_once.add(key)
        self.passes[key] += 1
        try:
            await self._reconcile(key)
        finally:
            self._at_once.discard(key)
        return None

    async def _reconcile(self, key: ObjectKey) -> None:
        obj = self.widgets.get(key)
        if obj is None:
            return
        if self.looks:
            await self._client.get(WIDGET, key.name, key.namespace)

        async def clean() -> None:
            self.cleaned.append(key)

        step = await self._finalizer.handle(obj, clean)
        if not step.proceed:
            return
        wanted: Obj = {
            "metadata": {"namespace": key.namespace, "name": key.name, "labels": {"widget": key.name}},
            "data": {"size": str(obj["spec"]["size"])},
        }
        await self._applier.ensure(CONFIG_MAP, wanted, cached=self.maps.get(key), owner=obj)
        conditions = merge(
            conditions_of(obj),
            [Condition("Ready", Status.TRUE, "MapWritten")],
            known=["Ready"],
            generation=generation_of(obj),
            now=SystemClock().now(),
        )
        await self._status.write(WIDGET, obj, {"phase": "Up", "conditions": conditions})

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[Operator]:
        task = asyncio.create_task(self.manager.run())
        leading = asyncio.create_task(self.manager.leading.wait())
        try:
            async with asyncio.timeout(60):
                await asyncio.wait({task, leading}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            yield self
            assert not task.done()
            self.widgets.check_mutation()
            self.maps.check_mutation()
        finally:
            leading.cancel()
            self.manager.stop()
            await task


async def state(client: Client, namespace: str) -> dict[str, tuple[Any, Any]]:
    """name -> (size wanted, size in the ConfigMap), and whether status is up to date."""
    maps = {
        o["metadata"]["name"]: o["data"]["size"]
        for o in (await client.list(CONFIG_MAP, namespace, labels="widget")).items
    }
    widgets = (await client.list(WIDGET, namespace)).items
    return {
        o["metadata"]["name"]: (
            (str(o["spec"]["size"]), generation_of(o)),
            (
                maps.get(o["metadata"]["name"]),
                (conditions_of(o) or [{}])[0].get("observedGeneration"),
            ),
        )
        for o in widgets
    }


async def converged(client: Client, namespace: str, count: int, within: float = 60.0) -> None:
    found: dict[str, tuple[Any, Any]] = {}
    try:
        async with asyncio.timeout(within):
            while True:
                found = await state(client, namespace)
                if len(found) == count and all(wanted == so for wanted, so in found.values()):
                    return
                await asyncio.sleep(0.1)
    except TimeoutError:
        wrong = {name: pair for name, pair in found.items() if pair[0] != pair[1]}
        raise AssertionError(f"not converged within {within} s: {wrong or found}") from None


async def make(client: Client, namespace: str, count: int, size: int = 1) -> None:
    for number in range(count):
        await client.apply(WIDGET, widget(namespace, f"w{number}", size=size), field_manager="user")


def writes(proxy: FaultProxy) -> int:
    return sum(1 for r in proxy.requests if r.method in ("PATCH", "POST", "PUT", "DELETE"))


async def test_creation_makes_exactly_the_writes_needed_and_a_second_pass_none(
    real_client: Client, faulty: Client, proxy: FaultProxy, namespace: str
) -> None:
    await make(real_client, namespace, 10)
    async with Operator(faulty, namespace).run() as operator:
        await converged(real_client, namespace, 10)
        await asyncio.sleep(1)
        assert writes(proxy) == 30, "finalizer, ConfigMap and status for each"
        before = len(proxy.requests)
        for key in list(operator.passes):
            operator.controller.enqueue(key)
        await asyncio.sleep(1)
        assert len(proxy.requests) == before, "a pass with nothing to do makes no call"
    restarted = Operator(faulty, namespace)
    async with restarted.run():
        await asyncio.sleep(2)
        assert len(restarted.passes) == 10
        assert writes(proxy) == 30, "nor does a restart"


async def test_drift_and_deleted_children_are_mended(real_client: Client, faulty: Client, namespace: str) -> None:
    await make(real_client, namespace, 2)
    async with Operator(faulty, namespace).run():
        await converged(real_client, namespace, 2)
        await real_client.patch(CONFIG_MAP, "w0", namespace, {"data": {"size": "999"}})
        await real_client.delete(CONFIG_MAP, "w1", namespace)
        await asyncio.sleep(0.2)
        await converged(real_client, namespace, 2)


async def test_no_event_is_lost_whatever_the_watches_suffer(
    real_client: Client, faulty: Client, proxy: FaultProxy, namespace: str
) -> None:
    await make(real_client, namespace, 5)
    async with Operator(faulty, namespace).run() as operator:
        await converged(real_client, namespace, 5)
        faults: list[Callable[[], Fault]] = [
            lambda: proxy.end_watches("widgets.*watch=true", after=1, times=3, clean=False),
            lambda: proxy.end_watches("widgets.*watch=true", after=1, times=3, clean=True),
            lambda: proxy.expire("widgets.*watch=true", after=1, times=2),
            lambda: proxy.corrupt("widgets.*watch=true", after=1, times=2),
            lambda: proxy.silence("widgets.*watch=true", after=1),
            lambda: proxy.answer(410, "widgets.*watch=true", times=2),
            lambda: proxy.answer(429, "widgets.*watch=true", times=2, retry_after=1),
            lambda: proxy.answer(500, "widgets.*watch=true", times=2),
            lambda: proxy.answer(502, "widgets.*watch=true", times=2, html=True),
            lambda: proxy.drop("widgets.*watch=true", times=2),
        ]
        for size, make_fault in enumerate(faults, start=2):
            fault = make_fault()
            proxy.cut()  # a fault meets new watches only
            await make(real_client, namespace, 5, size=size)
            await converged(real_client, namespace, 5)
            assert fault.hits > 0, fault
            proxy.remove(fault)
            await make(real_client, namespace, 5, size=100 - size)
            await converged(real_client, namespace, 5)
        listed = await real_client.list(WIDGET, namespace)
        cached = {key_of(o): resource_version_of(o) for o in operator.widgets.store.objects()}
        assert cached == {key_of(o): resource_version_of(o) for o in listed.items}


async def test_a_deletion_that_nobody_saw_is_told(
    real_client: Client, faulty: Client, proxy: FaultProxy, namespace: str
) -> None:
    await make(real_client, namespace, 3)
    informer = Informer(faulty, WIDGET, namespaces=[namespace], settings=QUICK)
    task = asyncio.create_task(informer.run())
    await informer.wait_synced()
    proxy.pause()
    await real_client.delete(WIDGET, "w0", namespace)
    await real_client.delete(WIDGET, "w1", namespace)
    await real_client.apply(WIDGET, widget(namespace, "w1", size=7), field_manager="user")
    proxy.answer(410, "watch=true", times=1)
    proxy.cut()
    proxy.resume()
    async with asyncio.timeout(60):
        while sorted(str(key_of(o)) for o in informer.store) != [f"{namespace}/w1", f"{namespace}/w2"]:
            await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_writes_that_fail_are_done_in_the_end(
    real_client: Client, faulty: Client, proxy: FaultProxy, namespace: str
) -> None:
    await make(real_client, namespace, 5)
    path = f"namespaces/{namespace}/"
    faults = [
        proxy.answer(409, path, method="PATCH", times=3),
        proxy.answer(500, path, method="PATCH", times=5),
        proxy.answer(429, path, method="PATCH", times=5, retry_after=1),
        proxy.lose(path, method="PATCH", times=2),
        proxy.drop(path, method="PATCH", times=2),
    ]
    async with Operator(faulty, namespace).run():
        await converged(real_client, namespace, 5, within=60)
    assert all(fault.hits == fault.times for fault in faults)


async def test_a_finalizer_is_removed_only_after_clean_up(
    real_client: Client, faulty: Client, proxy: FaultProxy, namespace: str
) -> None:
    await make(real_client, namespace, 3)
    async with Operator(faulty, namespace).run() as operator:
        await converged(real_client, namespace, 3)
        lost = proxy.lose("widgets/w0", method="PATCH")
        conflict = proxy.answer(409, "widgets/w1", method="PATCH", times=1)
        for number in range(3):
            await real_client.delete(WIDGET, f"w{number}", namespace)
        async with asyncio.timeout(30):
            while (await real_client.list(WIDGET, namespace)).items:
                await asyncio.sleep(0.1)
        assert lost.hits == conflict.hits == 1
        assert {key.name for key in operator.cleaned} == {"w0", "w1", "w2"}


async def test_a_server_that_ends_every_watch_at_once_is_not_hammered(
    real_client: Client, faulty: Client, proxy: FaultProxy, namespace: str
) -> None:
    fault = proxy.end_watches("watch=true", after=0, times=None)
    async with Operator(faulty, namespace, ReflectorSettings()).run():
        await asyncio.sleep(8)
        assert fault.hits == len(proxy.matching("watch=true"))
        assert 4 <= fault.hits <= 16, "two kinds, from 0.8 s doubling"
        assert len(proxy.matching("resourceVersion=0")) == 2, "nothing says that the version is bad"


async def test_a_server_that_refuses_is_not_hammered_and_taken_up_again(
    real_client: Client, faulty: Client, proxy: FaultProxy, namespace: str
) -> None:
    await make(real_client, namespace, 2)
    async with Operator(faulty, namespace).run() as operator:
        await converged(real_client, namespace, 2)
        await proxy.refuse()
        proxy.cut()
        await make(real_client, namespace, 2, size=9)
        await asyncio.sleep(5)
        assert operator.widgets.check(max_silence=3) is not None, "a silent cache is visible"
        await proxy.listen()
        await converged(real_client, namespace, 2, within=60)


@pytest.mark.parametrize("how", ["refused", "closed"])
async def test_bug_an_outage_is_over_and_the_back_off_still_waited(
    real_client: Client, faulty: Client, proxy: FaultProxy, namespace: str, how: str
) -> None:
    """Whoever waits is woken: by themselves, watches and passes would come again after an hour.

    `closed`: something in front of the server accepts connections, and closes them when nobody is behind it.
    """
    never = ReflectorSettings(backoff=BackoffPolicy(initial=3600.0, cap=3600.0))
    await make(real_client, namespace, 3)
    limiter: RateLimiter[ObjectKey] = RateLimiter(initial=3600.0, cap=7200.0)
    async with Operator(faulty, namespace, never, limiter).run() as operator:
        await converged(real_client, namespace, 3)
        refused, passes = probes_total.value("refused"), operator.passes.total()
        fault = None
        if how == "refused":
            await proxy.refuse()
        else:
            fault = proxy.drop(times=None)
            proxy.cut()
        await make(real_client, namespace, 3, size=9)
        await real_client.delete(CONFIG_MAP, "w0", namespace)
        operator.looks = True
        for number in range(3):
            operator.controller.enqueue(ObjectKey(namespace, f"w{number}"))
        async with asyncio.timeout(60):
            while probes_total.value("refused") < refused + 6 or not operator.controller._stranded:
                await asyncio.sleep(0.05)
        assert faulty.reach.away
        seen = len(proxy.requests)
        assert operator.passes.total() - passes <= 3 * 2
        if fault is None:
            await proxy.listen()
        else:
            proxy.remove(fault)
        await converged(real_client, namespace, 3)
        assert not faulty.reach.away
        after = [r for r in proxy.requests[seen:] if r.status == 200]
        assert after[0].path == "/readyz", "a probe found it, and nothing came before"
        assert len([r for r in after if r.path == "/readyz"]) == 1
        assert not [r for r in after if "watch=true" not in r.path and "resourceVersion" in r.path], (
            "nothing was listed"
        )


async def test_a_hot_object_is_worked_on_few_times(
    real_client: Client, faulty: Client, proxy: FaultProxy, namespace: str
) -> None:
    await make(real_client, namespace, 1)
    async with Operator(faulty, namespace).run() as operator:
        await converged(real_client, namespace, 1)
        operator.passes.clear()
        for size in range(50):
            await real_client.patch(WIDGET, "w0", namespace, {"spec": {"size": size}})
        await converged(real_client, namespace, 1)
        assert sum(operator.passes.values()) <= 110, "at most one for a change and one for its child"


async def test_leader_election_through_a_cut(
    real_client: Client, faulty: Client, proxy: FaultProxy, namespace: str
) -> None:
    timings = LeaseTimings(duration=3, renew_deadline=2, retry=0.3, margin=0.5)

    def elector(client: Client, name: str) -> Elector:
        return Elector(LeaseLock(client, namespace, "l", name, duration=3, timeout=timings.request), timings)

    first, second = elector(faulty, "first"), elector(real_client, "second")
    await first.acquire()
    hold = asyncio.create_task(first.hold())
    await asyncio.sleep(1)
    assert not hold.done()
    loop = asyncio.get_running_loop()
    proxy.pause()
    started = loop.time()
    taking = asyncio.create_task(second.acquire())
    with pytest.raises(LeaseLost):
        await hold
    lost = loop.time()
    await taking
    taken = loop.time()
    assert lost < taken, "the old one stopped before the new one began"
    assert lost - started <= 3, "before the Lease could be taken"
    proxy.resume()
    lease = await real_client.get(LEASE, "l", namespace)
    assert lease["spec"]["holderIdentity"] == "second"
    assert lease["spec"]["leaseTransitions"] == 1
    assert lease["spec"]["renewTime"].endswith("Z")
    assert await second.release()
    third = elector(real_client, "third")
    started = loop.time()
    await third.acquire()
    assert loop.time() - started < 3, "a released Lease is taken before it would have run out"
