"""Rules 3.9: finalizers."""

from __future__ import annotations

from typing import Any

import pytest
from yoban.kube.client import Client
from yoban.kube.errors import Conflict, Unreachable
from yoban.kube.finalizers import SKIP_CLEANUP, Finalizer, Step
from yoban.kube.objects import Obj, is_deleting
from yoban.kube.resource import CONFIG_MAP
from yoban.testing.apirequest import Request
from yoban.testing.apiserver import FakeApiServer
from yoban.testing.apistatus import status_answer

OURS = "yoban.test/bucket"


@pytest.fixture
def finalizer(client: Client) -> Finalizer:
    return Finalizer(client, CONFIG_MAP, OURS)


def made(server: FakeApiServer, *finalizers: str, **annotations: str) -> Obj:
    metadata = {"namespace": "ns", "name": "a", "finalizers": list(finalizers), "annotations": annotations}
    return server.put(CONFIG_MAP, {"metadata": metadata})


async def deleted(server: FakeApiServer, client: Client, *finalizers: str, **annotations: str) -> Obj:
    made(server, *finalizers, **annotations)
    await client.delete(CONFIG_MAP, "a", "ns")
    found = server.find(CONFIG_MAP, "ns", "a")
    assert found is not None
    assert is_deleting(found)
    return found


def stored(server: FakeApiServer) -> list[str] | None:
    obj = server.find(CONFIG_MAP, "ns", "a")
    return None if obj is None else obj["metadata"].get("finalizers", [])


class Cleanup:
    def __init__(self, error: Exception | None = None) -> None:
        self.calls = 0
        self.error = error

    async def __call__(self) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("name", ["bucket", "yoban/bucket", "yoban.test/", "/x"])
def test_3_9_the_name_is_domain_qualified(client: Client, name: str) -> None:
    with pytest.raises(ValueError, match="domain"):
        Finalizer(client, CONFIG_MAP, name)


async def test_3_9_the_write_that_adds_it_stops_the_pass(server: FakeApiServer, finalizer: Finalizer) -> None:
    obj = made(server, "other.test/x")
    cleanup = Cleanup()
    step = await finalizer.handle(obj, cleanup)
    assert step is Step.ADDED
    assert not step.proceed
    assert stored(server) == ["other.test/x", OURS]
    obj = server.find(CONFIG_MAP, "ns", "a") or {}
    step = await finalizer.handle(obj, cleanup)
    assert step is Step.PRESENT
    assert step.proceed
    assert len(server.writes()) == 1
    assert cleanup.calls == 0


async def test_3_9_adding_to_a_stale_object_is_a_conflict_not_a_loss(
    server: FakeApiServer, finalizer: Finalizer
) -> None:
    obj = made(server)
    server.edit(CONFIG_MAP, "ns", "a", lambda o: o["metadata"].update(finalizers=["other.test/x"]))
    with pytest.raises(Conflict):
        await finalizer.add(obj)
    assert stored(server) == ["other.test/x"]


async def test_3_9_never_added_once_it_is_being_deleted(
    server: FakeApiServer, client: Client, finalizer: Finalizer
) -> None:
    obj = await deleted(server, client, "other.test/x")
    cleanup = Cleanup()
    assert await finalizer.handle(obj, cleanup) is Step.LEAVING
    assert not await finalizer.add(obj)
    assert stored(server) == ["other.test/x"]
    assert cleanup.calls == 0


async def test_3_9_clean_up_then_only_ours_is_removed(
    server: FakeApiServer, client: Client, finalizer: Finalizer
) -> None:
    obj = await deleted(server, client, "other.test/x", OURS, "other.test/y")
    cleanup = Cleanup()
    step = await finalizer.handle(obj, cleanup)
    assert step is Step.CLEANED
    assert not step.proceed
    assert cleanup.calls == 1
    assert stored(server) == ["other.test/x", "other.test/y"]


async def test_3_9_removing_the_last_lets_the_object_go(
    server: FakeApiServer, client: Client, finalizer: Finalizer
) -> None:
    obj = await deleted(server, client, OURS)
    await finalizer.handle(obj, Cleanup())
    assert stored(server) is None
    assert not await finalizer.remove(obj), "gone already is a success"


async def test_3_9_removal_is_safe_with_entries_others_made_meanwhile(
    server: FakeApiServer, finalizer: Finalizer
) -> None:
    obj = made(server, OURS)
    server.edit(CONFIG_MAP, "ns", "a", lambda o: o["metadata"].update(finalizers=[OURS, "other.test/new"]))
    assert await finalizer.remove(obj)
    assert stored(server) == ["other.test/new"]


async def test_3_9_removal_that_is_lost_is_done_again(
    server: FakeApiServer, client: Client, finalizer: Finalizer
) -> None:
    """Elsewhere deletion never ended because the handler had finished but the removal was lost (kopf #1305)."""
    obj = await deleted(server, client, OURS)
    cleanup = Cleanup()
    server.fail(Unreachable("lost"), verb="patch")
    with pytest.raises(Unreachable):
        await finalizer.handle(obj, cleanup)
    obj = server.find(CONFIG_MAP, "ns", "a") or {}
    assert await finalizer.handle(obj, cleanup) is Step.CLEANED
    assert cleanup.calls == 2
    assert stored(server) is None


async def test_3_9_removal_gives_a_conflict_after_a_few_tries(server: FakeApiServer, finalizer: Finalizer) -> None:
    obj = made(server, OURS)
    server.fail(status_answer(409, "Conflict"), verb="patch", times=100)
    with pytest.raises(Conflict):
        await finalizer.remove(obj)
    assert len(server.writes()) == 5


async def test_3_9_removal_leaves_a_successor_alone(server: FakeApiServer, finalizer: Finalizer) -> None:
    obj = made(server, OURS)
    server.remove(CONFIG_MAP, "ns", "a")
    made(server, OURS)
    assert not await finalizer.remove(obj)
    assert stored(server) == [OURS]


async def test_3_9_removal_of_what_vanishes_in_between(server: FakeApiServer, finalizer: Finalizer) -> None:
    obj = made(server, OURS)
    server.edit(CONFIG_MAP, "ns", "a", lambda o: o["metadata"].update(labels={"a": "b"}))

    def vanish(request: Request) -> None:
        if request.verb == "get":
            server.remove(CONFIG_MAP, "ns", "a")

    server.faults.append(vanish)
    assert not await finalizer.remove(obj)


async def test_3_9_a_failed_clean_up_is_reported_and_keeps_the_finalizer(
    server: FakeApiServer, client: Client, finalizer: Finalizer
) -> None:
    obj = await deleted(server, client, OURS)
    reported: list[Any] = []

    async def report(error: Exception) -> None:
        reported.append(str(error))

    with pytest.raises(OSError, match="store down"):
        await finalizer.handle(obj, Cleanup(OSError("store down")), on_failure=report)
    assert reported == ["store down"]
    assert stored(server) == [OURS]
    with pytest.raises(OSError, match="store down"):
        await finalizer.handle(obj, Cleanup(OSError("store down")))


@pytest.mark.parametrize(
    ("value", "skipped"), [("true", True), ("yes", True), ("", True), ("false", False), ("False", False)]
)
async def test_3_9_an_annotation_ends_the_wait_for_a_dead_system(
    server: FakeApiServer, client: Client, finalizer: Finalizer, value: str, skipped: bool
) -> None:
    obj = await deleted(server, client, OURS, **{SKIP_CLEANUP: value})
    cleanup = Cleanup(OSError("dead"))
    if skipped:
        assert await finalizer.handle(obj, cleanup) is Step.CLEANED
        assert cleanup.calls == 0
        assert stored(server) is None
    else:
        with pytest.raises(OSError, match="dead"):
            await finalizer.handle(obj, cleanup)
