from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import msgspec
import pytest
from yoban.errors import AccessDenied, InvalidInput, NotFound, NotReady, Unavailable
from yoban.kube.objects import ObjectKey
from yoban.model.control import Push
from yoban.model.instance import InstanceDocument, LeaseDocument, Member, StoreDocument
from yoban.plugins import ObjectStore, RecoveryTarget, StoreConfig, TargetType
from yoban.reconcilers.observers import Tasks
from yoban.reconcilers.stores import OPEN, store_config
from yoban.repository.layout import Layout
from yoban.testing.memory_store import MemoryProvider, MemoryStore

from tests.unit.reconcilers.watch.world import CREDENTIALS, NS, GuardedProvider, World, primary, replica

ORDERS = ObjectKey(NS, "orders")


def push(generation: int = 1, revision: int = 0, **more: object) -> Push:
    document = InstanceDocument(
        generation=generation,
        revision=revision,
        namespace=NS,
        database="orders",
        uid="u",
        incarnation="0123456789ab",
        engine="logless",
        version="2",
        members=[],
        lease=LeaseDocument(name="orders-primary"),
    )
    return Push(document=document, **more)  # type: ignore[arg-type]


async def known(world: World) -> StoreDocument:
    await world.until(lambda: world.shared.object_stores.get(ObjectKey(NS, "s3")))
    return await world.shared.stores.document(NS, "s3")


# -- tasks -----------------------------------------------------------------------------------------------------------


async def test_a_task_that_fails_takes_nobody_with_it(caplog: pytest.LogCaptureFixture):
    tasks: Tasks[str] = Tasks("work")

    async def broken() -> None:
        raise RuntimeError("boom")

    forever = asyncio.Event()

    async def waits() -> None:
        await forever.wait()

    assert tasks.start("a", broken) and tasks.start("b", waits)
    assert not tasks.start("b", waits)
    await asyncio.sleep(0.01)
    assert "a" not in tasks and "b" in tasks and len(tasks) == 1
    assert "work a failed" in caplog.text
    tasks.cancel("absent")
    await tasks.close()
    assert len(tasks) == 0 and not tasks.start("c", waits)


async def test_a_key_is_free_while_its_old_task_still_ends():
    tasks: Tasks[str] = Tasks("work")
    ended = []

    async def slow(number: int) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(5)
            ended.append(number)

    tasks.start("a", lambda: slow(1))
    await asyncio.sleep(0)
    tasks.cancel("a")
    assert tasks.start("a", lambda: slow(2))
    await asyncio.sleep(0)
    await tasks.close()
    assert sorted(ended) == [1, 2]


# -- agents ----------------------------------------------------------------------------------------------------------


async def test_listeners_hear_of_changes_and_not_of_repetitions(world: World):
    heard: list[ObjectKey] = []
    world.shared.observatory.subscribe(heard.append)
    world.observe(n1=primary())
    await world.until(lambda: heard)
    await world.rest(300)
    assert heard == [ORDERS]
    calls = world.agent("orders-1").calls
    assert calls < 30, "an idle agent is polled, not hammered"
    world.agent("orders-1").say(message="something new")
    await world.until(lambda: len(heard) == 2)
    world.agent("orders-1").say()
    await world.rest(60)
    assert len(heard) == 2


async def test_a_slow_agent_delays_nobody(world: World):
    heard: list[ObjectKey] = []
    world.shared.observatory.subscribe(heard.append)
    world.observe("slow", n1=primary())
    world.agent("slow-1").up = False
    world.observe("quick", n1=primary())
    await world.until(lambda: ObjectKey(NS, "quick") in heard, 2)


async def test_a_document_is_brought_to_all_and_once(world: World):
    world.observe(n1=primary(), n2=replica())
    world.shared.observatory.push(ORDERS, push())
    world.shared.observatory.push(ORDERS, push())
    agents = [world.agent("orders-1"), world.agent("orders-2")]
    await world.until(lambda: all(len(agent.pushed) == 1 for agent in agents))
    for agent in agents:
        agent.say(generation=1)
    await world.rest(120)
    assert [len(agent.pushed) for agent in agents] == [1, 1]
    world.shared.observatory.push(ORDERS, push(store=StoreDocument(provider="memory", bucket="b")))
    await world.until(lambda: all(len(agent.pushed) == 2 for agent in agents))


async def test_an_agent_that_was_away_gets_the_latest_document(world: World):
    world.observe(n1=primary(), n2=replica())
    world.agent("orders-2").up = False
    for revision in range(3):
        world.shared.observatory.push(ORDERS, push(revision=revision))
        await world.rest(3)
    world.agent("orders-2").up = True
    await world.until(lambda: world.agent("orders-2").pushed)
    assert [one.document.revision for one in world.agent("orders-2").pushed] == [2]


async def test_an_agent_that_came_back_with_an_old_document_gets_the_new_one(world: World):
    world.observe(n1=primary())
    agent = world.agent("orders-1")
    agent.say(generation=1)
    world.shared.observatory.push(ORDERS, push())
    await world.until(lambda: len(agent.pushed) == 1)
    agent.say(generation=0)
    await world.until(lambda: len(agent.pushed) >= 2)


async def test_a_document_that_is_refused_is_not_brought_again_and_again(world: World):
    world.observe(n1=primary())
    agent = world.agent("orders-1")

    async def refuse(member: Member, credentials: object, what: Push) -> bool:
        agent.pushed.append(what)
        raise AccessDenied("not you")

    world.agents.push = refuse  # type: ignore[method-assign, assignment]
    world.shared.observatory.push(ORDERS, push())
    await world.rest(600)
    assert len(agent.pushed) <= 22, "with each long poll at most"


async def test_other_members_and_credentials_are_taken_up(world: World):
    world.observe(n1=primary(), n2=replica())
    await world.until(lambda: len(world.shared.observatory.statuses(ORDERS)) == 2)
    world.observe(n2=replica(), n3=replica())
    await world.until(lambda: set(world.shared.observatory.statuses(ORDERS)) == {"orders-2", "orders-3"})
    assert set(world.shared.observatory.members(ORDERS)) == {"orders-2", "orders-3"}
    other = type(CREDENTIALS)("ca2", "certificate", "key")
    members = list(world.shared.observatory.members(ORDERS).values())
    world.shared.observatory.observe(ORDERS, members, other)
    assert world.shared.observatory.credentials(ORDERS) == other
    world.shared.observatory.forget(ORDERS)
    world.shared.observatory.forget(ORDERS)
    assert world.shared.observatory.statuses(ORDERS) == {}
    assert world.shared.observatory.members(ORDERS) == {}
    assert world.shared.observatory.credentials(ORDERS) is None
    assert world.shared.observatory.errors(ORDERS) == {}
    world.shared.observatory.push(ORDERS, push())


# -- catalogues ------------------------------------------------------------------------------------------------------


async def test_plans_are_made_from_what_was_found(world: World):
    world.store()
    world.database(backup=None)
    await world.stored("20251201T000000Z-aaaaaa")
    catalogues = world.shared.catalogues
    document = await known(world)
    engine = world.registry.engine("logless")
    asked = (ORDERS, document, world.path(), engine)
    assert catalogues.plan(*asked, RecoveryTarget()) is None
    await world.until(lambda: catalogues.look(*asked))
    found = catalogues.plan(*asked, RecoveryTarget())
    assert found is not None and found.backup.facts.id == "20251201T000000Z-aaaaaa"
    with pytest.raises(InvalidInput, match="no such base backup"):
        catalogues.plan(*asked, RecoveryTarget(backup="other"))
    nowhere = (ORDERS, document, "shop/other/0123456789ab", engine)
    await world.until(lambda: catalogues.look(*nowhere))
    assert catalogues.look(*nowhere).window is None
    with pytest.raises(NotFound, match="no complete base backup"):
        catalogues.plan(*nowhere, RecoveryTarget())


async def test_bug_a_restore_to_a_moment_ago_failed_until_the_next_look(world: World):
    """The log up to it is stored some seconds later: it is waited for, and whoever waits hears at once that it is there."""
    world.store()
    world.database(backup=None)
    given = {"line": "1", "begin_line": "1", "first_segment": "1-0000", "last_segment": "1-0001", "segment_bytes": 100}
    await world.stored("20251201T000000Z-aaaaaa", engine="counting", **given)
    for number in range(2):
        await world.bucket().put(Layout(world.path()).segment("1", f"1-000{number}"), b"x" * 100)
    catalogues, heard = world.shared.catalogues, list[ObjectKey]()
    asked = (ORDERS, await known(world), world.path(), world.registry.engine("counting"))
    await world.until(lambda: catalogues.look(*asked))
    moment = world.clock.now()
    target = RecoveryTarget(TargetType.TIME, moment.isoformat())
    catalogues.subscribe(heard.append)
    with pytest.raises(NotReady, match="begins by itself") as caught:
        catalogues.plan(*asked, target)
    assert caught.value.reason == "TargetAhead"
    await world.rest(60)
    assert heard == [], "the window stands still"
    await world.mark(moment + timedelta(seconds=1), position=200)
    await world.until(lambda: heard, 6)
    assert catalogues.plan(*asked, target) is not None
    await world.rest(20)
    await world.mark(moment + timedelta(seconds=30), position=200)
    await world.rest(100)
    assert heard == [ORDERS], "nobody waits any more: the window's end moves all the time"


async def test_a_store_that_stops_keeps_what_was_found_and_says_so(world: World):
    world.store()
    world.database(backup=None)
    await world.stored("20251201T000000Z-aaaaaa")
    heard: list[ObjectKey] = []
    world.shared.catalogues.subscribe(heard.append)
    asked = (ORDERS, await known(world), world.path(), world.registry.engine("logless"))
    await world.until(lambda: world.shared.catalogues.look(*asked))
    world.cloud.stop()
    world.shared.catalogues.demand(ORDERS)
    await world.until(lambda: world.shared.catalogues.look(*asked).fault)
    assert world.shared.catalogues.look(*asked).window is not None
    with pytest.raises(Unavailable):
        world.shared.catalogues.plan(*asked, RecoveryTarget())
    world.cloud.start()
    await world.until(lambda: not world.shared.catalogues.look(*asked).fault)
    assert heard == [ORDERS] * 3


async def test_a_store_that_never_answered_is_told(world: World):
    world.store()
    world.database(backup=None)
    world.cloud.stop()
    asked = (ORDERS, await known(world), world.path(), world.registry.engine("logless"))
    found = await world.until(lambda: world.shared.catalogues.look(*asked), 600)
    assert found.window is None and "stopped" in str(found.fault)
    with pytest.raises(Unavailable, match="stopped"):
        world.shared.catalogues.plan(*asked, RecoveryTarget())


async def test_looks_have_pauses_and_end_when_nobody_asks(world: World):
    world.store()
    world.database(backup=None)
    await world.stored("20251201T000000Z-aaaaaa")
    document, path = await known(world), world.path()
    engine = world.registry.engine("logless")
    catalogues = world.shared.catalogues
    looks = 0
    before = None
    for _ in range(100):
        view = catalogues.view(ORDERS, document, path, engine)
        if view is not before:
            looks, before = looks + 1, view
        await world.rest(3)
    assert 8 <= looks <= 12, "about one in each half minute"
    await world.rest(2000)
    assert catalogues.view(ORDERS, document, path, engine) is None
    await world.until(lambda: catalogues.view(ORDERS, document, path, engine))
    catalogues.forget(ORDERS)
    assert catalogues.view(ORDERS, document, path, engine) is None


async def test_other_credentials_and_other_engines_are_looked_at_anew(world: World):
    world.store()
    world.database(backup=None)
    await world.stored("20251201T000000Z-aaaaaa")
    document, path = await known(world), world.path()
    catalogues, engine = world.shared.catalogues, world.registry.engine("logless")
    first = await world.until(lambda: catalogues.view(ORDERS, document, path, engine))
    rotated = msgspec.structs.replace(document, credentials={"key": "other"})
    assert catalogues.view(ORDERS, rotated, path, engine) is first, "what was found stays true"
    await world.until(lambda: catalogues.view(ORDERS, rotated, path, engine) is not first, 10)
    assert catalogues.view(ORDERS, document, path, world.registry.engine("counting")) is None


async def test_bug_what_was_found_in_one_store_was_told_of_another_that_could_not_be_read(world: World):
    world.store()
    world.database(backup=None)
    await world.stored("20251201T000000Z-aaaaaa")
    document, path = await known(world), world.path()
    catalogues, engine = world.shared.catalogues, world.registry.engine("logless")
    assert (await world.until(lambda: catalogues.view(ORDERS, document, path, engine))).found.backups
    other = StoreDocument(provider="memory", bucket="absent")
    view = await world.until(lambda: catalogues.view(ORDERS, other, path, engine), 10)
    assert view.fault is not None and view.catalog is None and view.found is None


async def test_an_error_that_nobody_expected_is_told_without_its_text(world: World, caplog: pytest.LogCaptureFixture):
    world.store()
    world.database(backup=None)
    asked = (ORDERS, await known(world), "a//b", world.registry.engine("logless"))
    found = await world.until(lambda: world.shared.catalogues.look(*asked))
    assert found.fault

    class Broken(GuardedProvider):
        name = "memory"

        def open(self, config: object) -> object:  # type: ignore[override]
            raise RuntimeError("secret=hunter2")

    world.registry._providers["memory"] = (Broken(world.cloud), world.registry._providers["memory"][1])
    asked = (
        ORDERS,
        StoreDocument(provider="memory", bucket="b"),
        "shop/orders/0123456789ab",
        world.registry.engine("logless"),
    )
    found = await world.until(lambda: world.shared.catalogues.look(*asked))
    assert "hunter2" not in str(found.fault) and "RuntimeError" in str(found.fault)


# -- stores ----------------------------------------------------------------------------------------------------------


async def test_open_stores_are_shared_and_idle_ones_closed(world: World):
    stores = world.shared.stores
    provider = world.registry.store_provider("guarded")
    assert isinstance(provider, GuardedProvider)
    document = StoreDocument(provider="guarded", bucket="b0", credentials={"accessKey": "right"})
    async with stores.using(document) as first, stores.using(document) as second:
        assert first is second
    async with stores.using(document) as third:
        assert third is first
    for number in range(1, OPEN + 6):
        async with stores.using(StoreDocument(provider="guarded", bucket=f"b{number}")):
            pass
    assert provider.closed == 6
    async with stores.using(document) as again:
        assert again is not first
        await stores.close()
        assert again.name == "b0"  # type: ignore[attr-defined]
    await stores.close()
    assert provider.closed == OPEN + 7


async def test_bug_idle_stores_were_closed_under_who_had_just_taken_them(world: World, monkeypatch: pytest.MonkeyPatch):
    stores = world.shared.stores
    documents = [StoreDocument(provider="slow", bucket=f"b{number}") for number in range(OPEN + 2)]
    opened: dict[str, int] = {}

    class Slow(MemoryProvider):
        name = "slow"

        @asynccontextmanager
        async def open(self, config: StoreConfig) -> AsyncIterator[ObjectStore]:
            opened[config.bucket] = opened.get(config.bucket, 0) + 1
            try:
                yield MemoryStore(world.cloud, config.bucket)
            finally:
                await asyncio.sleep(1)
                opened[config.bucket] -= 1

    providers = world.registry._providers
    monkeypatch.setitem(providers, "slow", (Slow(world.cloud), providers["memory"][1]))

    async def use(document: StoreDocument, seconds: float) -> None:
        async with stores.using(document):
            await asyncio.sleep(seconds)

    async def fill() -> None:
        for document in documents[:OPEN]:
            await use(document, 0)

    await fill()
    # One ends that finds two too many; while it closes the first somebody takes the second.
    async with asyncio.TaskGroup() as group:
        group.create_task(use(documents[OPEN], 1))
        group.create_task(use(documents[OPEN + 1], 8))
        await asyncio.sleep(1.5)
        async with stores.using(documents[1]) as taken:
            await asyncio.sleep(3)
            async with stores.using(documents[1]) as again:
                assert again is taken and opened["b1"] == 1
    await stores.close()
    assert set(opened.values()) == {0}
    await fill()
    # Two end at once and find the same.
    async with asyncio.TaskGroup() as group:
        group.create_task(use(documents[OPEN], 1))
        group.create_task(use(documents[OPEN + 1], 1))
    await stores.close()
    assert set(opened.values()) == {0}


async def test_bug_a_store_that_two_opened_at_once_was_closed_under_one_of_them(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    stores = world.shared.stores
    ended: list[int] = []

    class Slow(MemoryProvider):
        name = "slow"
        count = 0

        @asynccontextmanager
        async def open(self, config: StoreConfig) -> AsyncIterator[ObjectStore]:
            self.count = number = self.count + 1
            await asyncio.sleep(number)
            try:
                yield MemoryStore(world.cloud, config.bucket)
            finally:
                await asyncio.sleep(3)
                ended.append(number)

    providers = world.registry._providers
    monkeypatch.setitem(providers, "slow", (Slow(world.cloud), providers["memory"][1]))
    document = StoreDocument(provider="slow", bucket="b")

    async def use() -> None:
        async with stores.using(document):
            await asyncio.sleep(2)

    async with asyncio.TaskGroup() as group:
        group.create_task(use())
        group.create_task(use())
        await asyncio.sleep(3.5)
        await stores.close()  # the first has ended, the second still closes what it opened for nothing
        assert ended == []
    assert ended == [2]
    await stores.close()
    assert ended == [2, 1]


async def test_what_does_not_exist_is_named(world: World):
    with pytest.raises(NotFound, match="no such ObjectStore") as caught:
        await world.shared.stores.document(NS, "none")
    assert caught.value.reason == "StoreMissing"


async def test_a_secret_is_read_again_after_a_while(world: World):
    world.secret("key", accessKey="left")
    world.store(provider="guarded", credentials={"secret": "key"})
    await world.until(lambda: world.shared.object_stores.get(ObjectKey(NS, "s3")))
    assert (await world.shared.stores.document(NS, "s3")).credentials == {"accessKey": "left"}
    world.secret("key", accessKey="right")
    await world.rest(11)
    document = await world.shared.stores.document(NS, "s3")
    assert document.credentials == {"accessKey": "right"}
    assert "right" not in repr(document) and "right" not in repr(store_config(document))
