"""Rules 3.3: store, indexers, delivery."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from yoban.errors import NotReady
from yoban.kube.client import Client
from yoban.kube.errors import Unreachable
from yoban.kube.informer import Handler, Informer, drop_bookkeeping
from yoban.kube.mutation import CacheMutated
from yoban.kube.objects import Obj, ObjectKey, labels_of, name_of, resource_version_of
from yoban.kube.resource import CONFIG_MAP, NODE
from yoban.kube.store import Store, by_label, by_owner_uid
from yoban.testing.apirequest import Request
from yoban.testing.apiserver import FakeApiServer
from yoban.testing.apistatus import status_answer
from yoban.testing.clock import LoopClock


class Heard:
    """A handler that remembers."""

    def __init__(self, informer: Informer | None = None) -> None:
        self.log: list[tuple[Any, ...]] = []
        self._informer = informer
        self.handler = Handler(self._add, self._update, self._delete)

    def _add(self, obj: Obj, initial: bool) -> None:
        if self._informer is not None:
            assert self._informer.get(ObjectKey("ns", name_of(obj))) is obj, "the store is changed first"
        self.log.append(("add", name_of(obj), initial))

    def _update(self, old: Obj, new: Obj) -> None:
        self.log.append(("update", name_of(new), resource_version_of(old) == resource_version_of(new)))

    def _delete(self, obj: Obj, stale: bool) -> None:
        if self._informer is not None:
            assert self._informer.get(ObjectKey("ns", name_of(obj))) is None
        self.log.append(("delete", name_of(obj), stale))


def made(server: FakeApiServer, name: str, namespace: str = "ns", **labels: str) -> Obj:
    return server.put(CONFIG_MAP, {"metadata": {"namespace": namespace, "name": name, "labels": labels}})


@contextlib.asynccontextmanager
async def running(informer: Informer) -> AsyncIterator[None]:
    task = asyncio.create_task(informer.run())
    try:
        await informer.wait_synced(30)
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_3_3_the_store_is_changed_before_handlers_hear(server: FakeApiServer, client: Client) -> None:
    informer = Informer(client, CONFIG_MAP)
    heard = Heard(informer)
    informer.add_handler(heard.handler)
    made(server, "a")
    async with running(informer):
        made(server, "b")
        made(server, "b", x="1")
        server.remove(CONFIG_MAP, "ns", "a")
        await asyncio.sleep(0.1)
    assert heard.log == [("add", "a", True), ("add", "b", False), ("update", "b", False), ("delete", "a", False)]


async def test_3_3_a_late_handler_gets_synthetic_adds_and_can_leave(server: FakeApiServer, client: Client) -> None:
    informer = Informer(client, CONFIG_MAP)
    made(server, "a")
    async with running(informer):
        heard = Heard()
        remove = informer.add_handler(heard.handler)
        assert heard.log == [("add", "a", True)]
        remove()
        remove()
        made(server, "b")
        await asyncio.sleep(0.1)
        assert heard.log == [("add", "a", True)]


async def test_3_3_has_synced_only_after_the_list_reached_the_handlers(server: FakeApiServer, client: Client) -> None:
    informer = Informer(client, CONFIG_MAP)
    synced_when_told = []
    informer.add_handler(
        Handler(lambda o, i: synced_when_told.append(informer.has_synced), lambda a, b: None, lambda o, s: None)
    )
    made(server, "a")
    assert not informer.has_synced
    async with running(informer):
        assert informer.has_synced
    assert synced_when_told == [False]


async def test_3_3_relist_of_the_unchanged_is_an_update_with_equal_version(
    server: FakeApiServer, client: Client
) -> None:
    informer = Informer(client, CONFIG_MAP)
    heard = Heard()
    made(server, "a")
    async with running(informer):
        informer.add_handler(heard.handler)
        heard.log.clear()
        await asyncio.sleep(2)
        server.expire_watches()
        await asyncio.sleep(5)
    assert heard.log == [("update", "a", True)]


async def test_3_2_8_replace_emits_deletes_for_vanished_keys(server: FakeApiServer, client: Client) -> None:
    informer = Informer(client, CONFIG_MAP)
    heard = Heard()
    made(server, "a")
    made(server, "b")
    async with running(informer):
        informer.add_handler(heard.handler)
        heard.log.clear()
        await asyncio.sleep(2)
        with server.silence():
            server.remove(CONFIG_MAP, "ns", "a")
        for watcher in server._watchers:
            watcher.muted = False
        server.expire_watches()
        await asyncio.sleep(5)
    assert ("delete", "a", True) in heard.log
    assert [entry[0] for entry in heard.log if entry[1] == "b"] == ["update"]


async def test_3_2_8_deleted_and_made_again_in_a_gap_is_a_delete_and_an_add(
    server: FakeApiServer, client: Client
) -> None:
    informer = Informer(client, CONFIG_MAP)
    heard = Heard()
    made(server, "a")
    async with running(informer):
        informer.add_handler(heard.handler)
        heard.log.clear()
        await asyncio.sleep(2)
        with server.silence():
            server.remove(CONFIG_MAP, "ns", "a")
            made(server, "a")
            server.compact()
        await asyncio.sleep(80)
    assert heard.log[:2] == [("delete", "a", True), ("add", "a", False)]


async def test_3_3_a_bad_handler_keeps_nobody_else_from_hearing(server: FakeApiServer, client: Client) -> None:
    informer = Informer(client, CONFIG_MAP)

    def bad(*_: object) -> None:
        raise RuntimeError("a bug")

    heard = Heard()
    informer.add_handler(Handler(bad, bad, bad))
    informer.add_handler(heard.handler)
    async with running(informer):
        made(server, "a")
        made(server, "a", x="1")
        server.remove(CONFIG_MAP, "ns", "a")
        await asyncio.sleep(0.1)
    assert [entry[0] for entry in heard.log] == ["add", "update", "delete"]


def test_3_3_an_index_drops_empty_sets_and_follows_updates() -> None:
    store = Store({"app": by_label("app"), "owner": by_owner_uid})

    def obj(name: str, app: str | None, owner: str | None = None) -> Obj:
        metadata: Obj = {"namespace": "ns", "name": name, "labels": {"app": app} if app else {}}
        if owner:
            metadata["ownerReferences"] = [{"uid": owner}]
        return {"metadata": metadata}

    store.put(obj("a", "x", "u1"))
    store.put(obj("b", "x"))
    assert {name_of(o) for o in store.by_index("app", "x")} == {"a", "b"}
    assert [name_of(o) for o in store.by_index("owner", "u1")] == ["a"]
    store.put(obj("a", "y"))
    assert [name_of(o) for o in store.by_index("app", "x")] == ["b"]
    store.remove(ObjectKey("ns", "b"))
    assert store.by_index("app", "x") == []
    assert store.index_values("app") == ["y"], "no empty set is kept"
    assert store.index_values("owner") == []
    assert store.remove(ObjectKey("ns", "b")) is None
    with pytest.raises(KeyError):
        store.by_index("nobody", "x")
    assert len(store) == 1
    assert ObjectKey("ns", "a") in store
    assert [name_of(o) for o in store] == ["a"]
    assert store.objects("other") == []


def test_3_3_an_indexer_added_later_indexes_what_is_there() -> None:
    store = Store()
    store.put({"metadata": {"namespace": "ns", "name": "a", "labels": {"app": "x"}}})
    index = by_label("app")
    store.add_indexer("app", index)
    store.add_indexer("app", index)
    assert len(store.by_index("app", "x")) == 1
    with pytest.raises(ValueError, match="already"):
        store.add_indexer("app", by_owner_uid)


async def test_3_3_the_mutation_detector_finds_who_changes_the_cache(server: FakeApiServer, client: Client) -> None:
    informer = Informer(client, CONFIG_MAP, detect_mutation=True)
    made(server, "a", app="x")
    async with running(informer):
        informer.check_mutation()
        obj = informer.get(ObjectKey("ns", "a"))
        assert obj is not None
        obj["metadata"]["labels"]["app"] = "y"
        with pytest.raises(CacheMutated, match="ns/a"):
            informer.check_mutation()


async def test_3_3_a_transform_runs_before_storing(server: FakeApiServer, client: Client) -> None:
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "keep": "1"}
    server.put(CONFIG_MAP, {"metadata": {"namespace": "ns", "name": "a", "annotations": annotations}})
    stored = server.find(CONFIG_MAP, "ns", "a")
    assert stored is not None
    assert "managedFields" in stored["metadata"]
    informer = Informer(client, CONFIG_MAP)

    def names_only(obj: Obj) -> Obj:
        return {"metadata": {k: obj["metadata"][k] for k in ("namespace", "name", "resourceVersion")}}

    small = Informer(client, CONFIG_MAP, transform=names_only)
    async with running(informer), running(small):
        cached = informer.get(ObjectKey("ns", "a"))
        assert cached is not None
        assert "managedFields" not in cached["metadata"]
        assert cached["metadata"]["annotations"] == {"keep": "1"}
        assert set(small.store.objects()[0]) == {"metadata"}
    assert drop_bookkeeping({}) == {}


async def test_3_3_selectors_are_the_servers_work(server: FakeApiServer, client: Client) -> None:
    informer = Informer(client, CONFIG_MAP, labels="app=x", fields="metadata.name!=c")
    made(server, "a", app="x")
    made(server, "b", app="y")
    made(server, "c", app="x")
    async with running(informer):
        assert [name_of(o) for o in informer.store.objects()] == ["a"]
        made(server, "b", app="x")
        made(server, "a", app="z")
        await asyncio.sleep(0.1)
        assert [name_of(o) for o in informer.store.objects()] == ["b"]


async def test_3_3_read_your_writes_waits_for_the_version(server: FakeApiServer, client: Client) -> None:
    informer = Informer(client, CONFIG_MAP)
    async with running(informer):
        written = await client.create(CONFIG_MAP, {"metadata": {"namespace": "ns", "name": "a"}})
        assert await informer.wait_seen(written)
        assert informer.get(ObjectKey("ns", "a")) is not None
        assert await informer.wait_seen(written), "also later"
        unseen = {"metadata": {"namespace": "ns", "name": "a", "resourceVersion": "999"}}
        started = asyncio.get_running_loop().time()
        assert not await informer.wait_seen(unseen, timeout=3)
        assert asyncio.get_running_loop().time() - started == pytest.approx(3)
        assert informer._waiting == {}
        for number in range(1200):  # the memory of versions is bounded
            made(server, "a", n=str(number))
        await asyncio.sleep(1)
        assert len(informer._recent_set) <= 1024


async def test_each_namespace_has_a_reflector_and_deletes_are_kept_apart(server: FakeApiServer, client: Client) -> None:
    informer = Informer(client, CONFIG_MAP, namespaces=["n1", "n2"])
    made(server, "a", "n1")
    made(server, "b", "n2")
    made(server, "c", "n3")
    async with running(informer):
        assert sorted(name_of(o) for o in informer.store.objects()) == ["a", "b"]
        assert {r.namespace for r in server.requests} == {"n1", "n2"}
        await asyncio.sleep(2)
        server.expire_watches()
        await asyncio.sleep(5)
        assert sorted(name_of(o) for o in informer.store.objects()) == ["a", "b"]
    cluster_wide = Informer(client, NODE, namespaces=["n1", "n2"])
    assert len(cluster_wide._reflectors) == 1


async def test_3_2_12_a_silent_cache_fails_readiness_and_shows_in_a_metric(
    server: FakeApiServer, client: Client, clock: LoopClock
) -> None:
    informer = Informer(client, CONFIG_MAP, clock=clock)
    assert "has not synced" in str(informer.check())
    async with running(informer):
        assert informer.check(300) is None
        server.fail(Unreachable("refused", sent=False), times=10_000)
        server.break_watches()
        await asyncio.sleep(301)
        assert "not heard from" in str(informer.check(300))
        server.faults.clear()
        await asyncio.sleep(60)
        assert informer.check(300) is None


async def test_3_6_cache_sync_has_a_limit_and_times_out_loudly(server: FakeApiServer, client: Client) -> None:
    informer = Informer(client, CONFIG_MAP)
    server.fail(status_answer(403, "Forbidden", "configmaps is forbidden"), times=1000)
    task = asyncio.create_task(informer.run())
    with pytest.raises(NotReady, match=r"not filled within 120 s .*forbidden.*permissions"):
        await informer.wait_synced()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_3_1_deletion_between_410_and_the_new_list_is_told(server: FakeApiServer, client: Client) -> None:
    """kopf 1.45.2: list a, b -> 410 -> list a gives no deletion of b."""
    made(server, "a")
    made(server, "b")
    informer = Informer(client, CONFIG_MAP)
    heard = Heard()

    def remove_before_list(request: Request) -> None:
        if request.verb == "list" and informer.has_synced:
            server.remove(CONFIG_MAP, "ns", "b")

    async with running(informer):
        informer.add_handler(heard.handler)
        server.faults.append(remove_before_list)
        await asyncio.sleep(2)
        server.expire_watches()
        await asyncio.sleep(5)
    assert ("delete", "b", True) in heard.log
    assert labels_of({"metadata": {}}) == {}
