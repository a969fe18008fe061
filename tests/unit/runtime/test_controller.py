"""Rules 3.6: the controller loop, and where its keys come from."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise

import pytest
from yoban.errors import DeadlineExceeded
from yoban.kube.client import Client
from yoban.kube.errors import TooManyRequests
from yoban.kube.informer import Informer
from yoban.kube.objects import Obj, owner_reference
from yoban.kube.resource import CONFIG_MAP, SECRET, Resource
from yoban.runtime import (
    INITIAL,
    NORMAL,
    URGENT,
    Controller,
    ObjectKey,
    Result,
    Retryable,
    Terminal,
    by_label,
    intent_changed,
    itself,
    owner_of,
    users_of,
)
from yoban.runtime.controller import OUTCOMES, reconciles_total
from yoban.telemetry.context import reconcile_id
from yoban.testing.apiserver import FakeApiServer

from tests.unit.runtime.controllers import KEY, controller, running

WIDGET = Resource("kube.yoban.test", "v1", "widgets", "Widget")


def counts() -> dict[str, float]:
    return {outcome: reconciles_total.value("test", outcome) for outcome in OUTCOMES}


def difference(before: dict[str, float]) -> dict[str, float]:
    return {outcome: value - before[outcome] for outcome, value in counts().items() if value != before[outcome]}


async def test_3_6_success_forgets(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[ObjectKey] = []

    async def reconcile(key: ObjectKey) -> Result | None:
        calls.append(key)
        if len(calls) < 3:
            raise Retryable("not yet")
        return None

    c = controller(reconcile)
    before = counts()
    async with running(c):
        c.enqueue(KEY)
        await asyncio.sleep(1)
        assert len(c.queue.limiter) == 0
        await asyncio.sleep(100)
    assert calls == [KEY] * 3
    assert difference(before) == {"error": 2, "success": 1}


async def test_3_6_errors_are_retried_with_growing_delays() -> None:
    times: list[float] = []

    async def reconcile(key: ObjectKey) -> Result | None:
        times.append(asyncio.get_running_loop().time())
        raise RuntimeError("a bug")

    c = controller(reconcile)
    async with running(c):
        c.enqueue(KEY)
        await asyncio.sleep(10)
    gaps = [b - a for a, b in pairwise(times)]
    assert gaps == [pytest.approx(0.005 * 2**n) for n in range(len(gaps))]
    assert len(gaps) >= 9


async def test_3_6_requeue_after_forgets_and_comes_back() -> None:
    times: list[float] = []

    async def reconcile(key: ObjectKey) -> Result | None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            raise Retryable("first")
        return Result(requeue_after=60)

    c = controller(reconcile)
    before = counts()
    async with running(c):
        c.enqueue(KEY)
        await asyncio.sleep(1)
        assert len(c.queue.limiter) == 0, "else the counters grow and later failures wait long"
        await asyncio.sleep(125)
    assert [b - a for a, b in pairwise(times[1:])] == [pytest.approx(60)] * 2
    assert difference(before) == {"error": 1, "requeue_after": 3}


async def test_3_6_an_error_makes_requeue_after_be_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    async def reconcile(key: ObjectKey) -> Result | None:
        calls.append(asyncio.get_running_loop().time())
        return Result(requeue_after=3600, error=Retryable("half done")) if len(calls) == 1 else None

    c = controller(reconcile)
    async with running(c):
        c.enqueue(KEY)
        await asyncio.sleep(1)
    assert len(calls) == 2
    assert "requeue_after is ignored" in caplog.text


async def test_3_6_a_terminal_error_is_not_retried(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    async def reconcile(key: ObjectKey) -> Result | None:
        calls.append(key)
        raise Terminal("cannot work", object="Widget ns/a", fix="change it")

    c = controller(reconcile)
    before = counts()
    async with running(c):
        c.enqueue(KEY)
        await asyncio.sleep(5000)
        assert len(calls) == 1
        c.enqueue(KEY)
        await asyncio.sleep(1)
        assert len(calls) == 2, "a change is tried again"
    assert difference(before) == {"terminal": 2}
    assert "cannot work; change it" in caplog.text


async def test_3_6_what_the_server_asked_for_is_waited() -> None:
    times: list[float] = []

    async def reconcile(key: ObjectKey) -> Result | None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            raise TooManyRequests("busy", retry_after=30.0)
        return None

    c = controller(reconcile)
    async with running(c):
        c.enqueue(KEY)
        await asyncio.sleep(60)
    assert times[1] - times[0] == pytest.approx(30)


async def test_3_6_a_cancellation_always_goes_through() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def reconcile(key: ObjectKey) -> Result | None:
        begun.set()
        try:
            await asyncio.sleep(1e9)
        finally:
            ended.set()
        return None

    c = controller(reconcile, deadline=None)
    task = asyncio.create_task(c.run())
    c.enqueue(KEY)
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert c.queue.processing == 0, "done is called in finally"


async def test_3_6_a_cancellation_from_within_does_not_lose_a_worker() -> None:
    calls = []

    async def reconcile(key: ObjectKey) -> Result | None:
        calls.append(key)
        if len(calls) == 1:
            inner = asyncio.create_task(asyncio.sleep(1))
            inner.cancel()
            await inner
        return None

    c = controller(reconcile, workers=1)
    before = counts()
    async with running(c):
        c.enqueue(KEY)
        await asyncio.sleep(1)
    assert len(calls) == 2
    assert difference(before) == {"error": 1, "success": 1}


async def test_3_6_a_reconcile_has_a_deadline(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    async def reconcile(key: ObjectKey) -> Result | None:
        calls.append(key)
        if len(calls) == 1:
            await asyncio.sleep(1e9)
        if len(calls) == 2:
            raise TimeoutError("of something else")
        return None

    c = controller(reconcile, deadline=10.0)
    async with running(c):
        c.enqueue(KEY)
        await asyncio.sleep(20)
    assert len(calls) == 3
    assert DeadlineExceeded("no result within 10 s", object="ns/a").message in caplog.text
    assert "of something else" in caplog.text


async def test_3_6_a_reconcile_id_is_there_in_every_line() -> None:
    ids = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            ids.append(reconcile_id.get())

    logger = logging.getLogger("reconcile.test")
    logger.addHandler(Keep())
    logger.setLevel(logging.INFO)

    async def reconcile(key: ObjectKey) -> Result | None:
        logger.info("one")
        await asyncio.sleep(0.1)
        logger.info("two")
        return None

    c = controller(reconcile)
    async with running(c):
        c.enqueue(KEY)
        c.enqueue(ObjectKey("ns", "b"))
        await asyncio.sleep(1)
    assert len(ids) == 4
    assert len(set(ids)) == 2
    assert all(ids)
    assert reconcile_id.get() == ""


def test_3_6_all_metric_label_sets_are_there_from_the_start() -> None:
    async def make() -> None:
        Controller("fresh", lambda key: asyncio.sleep(0))  # type: ignore[arg-type,return-value]

    from yoban.testing.clock import VirtualClockLoop

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(make())
    exported = {
        o.attributes["outcome"] for o in reconciles_total._observe(None) if o.attributes["controller"] == "fresh"
    }  # type: ignore[arg-type,index]
    assert exported == set(OUTCOMES)


async def test_3_6_n_workers_and_never_one_key_twice() -> None:
    at_once: dict[ObjectKey, int] = {}
    most = 0

    async def reconcile(key: ObjectKey) -> Result | None:
        nonlocal most
        at_once[key] = at_once.get(key, 0) + 1
        assert at_once[key] == 1
        most = max(most, sum(at_once.values()))
        await asyncio.sleep(1)
        at_once[key] -= 1
        return None

    c = controller(reconcile, workers=3)
    async with running(c):
        for _ in range(3):
            for number in range(10):
                c.enqueue(ObjectKey("ns", str(number)))
            await asyncio.sleep(0.5)
        await asyncio.sleep(30)
    assert most == 3
    with pytest.raises(ValueError, match="worker"):
        controller(reconcile, workers=0)


async def test_3_5_result_priority_overrides_and_retries_keep_it() -> None:
    priorities: list[int] = []

    async def reconcile(key: ObjectKey) -> Result | None:
        priorities.append(0)
        if len(priorities) == 1:
            raise Retryable("x")
        return Result(requeue_after=1, priority=INITIAL) if len(priorities) == 2 else None

    c = controller(reconcile, workers=1)
    seen: list[int] = []
    original = c.queue.add

    def add(key: ObjectKey, *, priority: int = NORMAL, after: float = 0.0) -> None:
        seen.append(priority)
        original(key, priority=priority, after=after)

    c.queue.add = add  # type: ignore[method-assign]
    async with running(c):
        c.enqueue(KEY, priority=URGENT)
        await asyncio.sleep(5)
    assert seen == [URGENT, URGENT, INITIAL]
    with pytest.raises(ValueError, match="seconds"):
        Result(requeue_after=-1)


async def test_3_8_stop_finishes_what_is_in_hand_and_takes_no_more() -> None:
    done: list[str] = []

    async def reconcile(key: ObjectKey) -> Result | None:
        await asyncio.sleep(5)
        done.append(key.name)
        return None

    c = controller(reconcile, workers=1)
    task = asyncio.create_task(c.run())
    for name in "abc":
        c.enqueue(ObjectKey("ns", name))
    await asyncio.sleep(1)
    await c.stop()
    await task
    assert done == ["a"]


# -- sources --------------------------------------------------------------------------------------------------------


def obj(name: str, version: str = "1", **metadata: object) -> Obj:
    return {"metadata": {"namespace": "ns", "name": name, "uid": name, "resourceVersion": version, **metadata}}


async def nothing(key: ObjectKey) -> Result | None:
    return None


async def test_3_5_the_first_list_is_behind_real_changes(
    server: FakeApiServer, client: Client, informer: Informer
) -> None:
    c = controller(nothing).watches(informer)
    c.listen()
    for name in "abc":
        server.put(CONFIG_MAP, {"metadata": {"namespace": "ns", "name": name}})
    task = asyncio.create_task(informer.run())
    await informer.wait_synced()
    server.edit(CONFIG_MAP, "ns", "c", lambda o: o.update(data={"x": "1"}))
    await asyncio.sleep(0.1)
    first, second = await c.queue.get(), await c.queue.get()
    assert first == (ObjectKey("ns", "c"), NORMAL)
    assert second == (ObjectKey("ns", "a"), INITIAL)
    assert c.informers == (informer,)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_3_3_a_relist_of_the_unchanged_goes_last(informer: Informer) -> None:
    c = controller(nothing).watches(informer, priority=URGENT)
    c.listen()
    informer.change(obj("a"))
    await c.queue.get()
    informer.change(obj("a"))
    c.queue.done(ObjectKey("ns", "a"))
    assert (await c.queue.get()).priority == INITIAL


async def test_3_6_other_kinds_map_by_owner(informer: Informer) -> None:
    c = controller(nothing).owns(informer, WIDGET, priority=URGENT)
    c.listen()
    owner = {"apiVersion": "kube.yoban.test/v1beta9", "kind": "Widget", "metadata": {"name": "w", "uid": "u"}}
    other = {"apiVersion": "other.test/v1", "kind": "Widget", "metadata": {"name": "no", "uid": "v"}}
    plain = {**owner_reference(owner), "name": "plain", "controller": False}
    informer.change(obj("a", ownerReferences=[owner_reference(owner), owner_reference(other), plain]))
    informer.change(obj("b"))
    assert await c.queue.get() == (ObjectKey("ns", "w"), URGENT)
    assert len(c.queue) == 0
    any_owner = owner_of(WIDGET, controller_only=False)
    assert [k.name for k in any_owner(obj("a", ownerReferences=[owner_reference(owner), plain]))] == ["w", "plain"]
    cluster = Resource("kube.yoban.test", "v1", "widgets", "Widget", namespaced=False)
    assert list(owner_of(cluster)(obj("a", ownerReferences=[owner_reference(owner)]))) == [ObjectKey("", "w")]


async def test_3_6_an_owner_that_changes_leaves_nobody_behind(informer: Informer) -> None:
    c = controller(nothing).watches(informer, by_label("owner"))
    c.listen()
    informer.change(obj("a", labels={"owner": "one"}))
    informer.change(obj("a", "2", labels={"owner": "two"}))
    informer.change(obj("b"))
    assert {(await c.queue.get()).key.name for _ in range(len(c.queue))} == {"one", "two"}


async def test_3_6_other_kinds_map_by_index(client: Client, informer: Informer) -> None:
    users = Informer(client, SECRET, indexers={"map": lambda o: [f"ns/{o['metadata']['labels']['map']}"]})
    users.change(obj("u1", labels={"map": "a"}))
    users.change(obj("u2", labels={"map": "b"}))
    c = controller(nothing).watches(informer, users_of(users.store, "map"))
    c.listen()
    informer.change(obj("a"))
    assert (await c.queue.get()).key == ObjectKey("ns", "u1")
    assert len(c.queue) == 0
    by_value = users_of(users.store, "map", lambda o: "ns/b")
    assert list(by_value(obj("x"))) == [ObjectKey("ns", "u2")]


async def test_3_10_a_status_write_of_our_own_wakes_nobody(informer: Informer) -> None:
    c = controller(nothing).watches(informer, predicate=intent_changed)
    c.listen()
    base = obj("a", generation=1)
    informer.change(base)
    item = await c.queue.get()
    c.queue.done(item.key)
    informer.change({**obj("a", "2", generation=1), "status": {"phase": "Up"}})
    assert len(c.queue) == 0
    for number, change in enumerate(
        (
            {"generation": 2},
            {"generation": 2, "labels": {"a": "b"}},
            {"generation": 2, "labels": {"a": "b"}, "annotations": {"a": "b"}},
            {"generation": 2, "labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": ["f"]},
            {
                "generation": 2,
                "labels": {"a": "b"},
                "annotations": {"a": "b"},
                "finalizers": ["f"],
                "deletionTimestamp": "t",
            },
        )
    ):
        informer.change(obj("a", str(number + 3), **change))
        assert len(c.queue) == 1, change
        item = await c.queue.get()
        c.queue.done(item.key)
    informer.delete(obj("a", "9"))
    assert len(c.queue) == 1, "a deletion always counts"


async def test_priority_may_depend_on_the_change(informer: Informer) -> None:
    c = controller(nothing).watches(
        informer, itself, priority=lambda old, new: URGENT if new["metadata"].get("labels") else NORMAL
    )
    c.listen()
    informer.change(obj("a"))
    informer.change(obj("b", labels={"lost": "1"}))
    assert await c.queue.get() == (ObjectKey("ns", "b"), URGENT)
    assert await c.queue.get() == (ObjectKey("ns", "a"), NORMAL)


async def test_spans_say_which_object_and_how_it_ended() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from yoban.runtime import controller as module

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    kept, module._tracer = module._tracer, provider.get_tracer("test")
    outcomes = [None, Retryable("no")]

    async def reconcile(key: ObjectKey) -> Result | None:
        error = outcomes.pop()
        if error is not None:
            raise error
        return None

    c = controller(reconcile)
    try:
        async with running(c):
            c.enqueue(KEY)
            await asyncio.sleep(1)
    finally:
        module._tracer = kept
    first, second = exporter.get_finished_spans()
    assert first.attributes is not None
    assert first.attributes["yoban.object"] == "ns/a"
    assert first.attributes["yoban.outcome"] == "error"
    assert not first.status.is_ok
    assert second.attributes is not None
    assert second.attributes["yoban.outcome"] == "success"


async def test_bug_the_queue_of_a_standby_grew_by_every_key_that_came_and_went(informer: Informer) -> None:
    c = controller(nothing).watches(informer)
    for number in range(100):
        informer.change(obj(f"n{number}"))
        informer.delete(obj(f"n{number}", "2"))
    informer.change(obj("a"))
    assert len(c.queue) == 0, "nobody works on it yet"
    async with running(c):
        await asyncio.sleep(1)
        informer.change(obj("b"))
        assert len(c.queue) == 1
    informer.change(obj("c"))
    assert len(c.queue) == 0, "nor any more"
