"""Events on the real API server: it lets no note be changed, so that other words need an event of their own."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from yoban.kube.client import Client
from yoban.kube.errors import Invalid
from yoban.kube.events import KIND_BURST, OBJECT_BURST, Recorder
from yoban.kube.objects import Obj
from yoban.kube.resource import EVENT

from tests.integration.kube.conftest import WIDGET, widget

pytestmark = pytest.mark.server


async def written(recorder: Recorder) -> None:
    """Have everything written that was recorded, and held back."""
    recorder.close()
    async with asyncio.timeout(60):
        await recorder.run()


async def found(client: Client, namespace: str) -> list[Obj]:
    listed = await client.list(EVENT, namespace)
    return sorted(listed.items, key=lambda event: str(event["eventTime"]))


async def test_bug_a_second_replica_that_breaks_is_told_with_words_of_its_own(
    real_client: Client, namespace: str
) -> None:
    obj = await real_client.create(WIDGET, widget(namespace, "db"))
    recorder = Recorder(real_client, "yoban.test/operator", "pod-1")
    for note in ("db-2 cannot follow", "db-3 cannot follow", "db-2 cannot follow", "db-2 cannot follow"):
        recorder.event(obj, "ReplicaBroken", note, action="Reconcile", warning=True)
    await written(recorder)
    events = await found(real_client, namespace)
    assert [(event["note"], event.get("series", {}).get("count")) for event in events] == [
        ("db-2 cannot follow", 2),  # a series is written when it begins and when it ends
        ("db-3 cannot follow", None),
    ]
    change = {"note": "db-3 cannot follow either"}
    with pytest.raises(Invalid, match="immutable"):
        await real_client.patch(EVENT, events[0]["metadata"]["name"], namespace, change)


async def test_a_note_that_never_says_the_same_is_bounded_and_told_with_a_count(
    real_client: Client, namespace: str
) -> None:
    one = await real_client.create(WIDGET, widget(namespace, "one"))
    two = await real_client.create(WIDGET, widget(namespace, "two"))
    recorder = Recorder(real_client, "yoban.test/operator", "pod-1")
    for number in range(1, 41):
        recorder.event(one, "Behind", f"{number} GB behind", action="Reconcile")
        recorder.event(two, f"Reason{'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmn'[number - 1]}", "n", action="Reconcile")
    running = asyncio.create_task(recorder.run())
    async with asyncio.timeout(60):
        while recorder.held_back < 1 + 40 - OBJECT_BURST:
            await asyncio.sleep(0.05)
        events = await found(real_client, namespace)
    count = Counter(event["regarding"]["name"] for event in events)
    assert count == {"one": KIND_BURST, "two": OBJECT_BURST}
    recorder.close()
    async with asyncio.timeout(60):
        await running
    told = [event for event in await found(real_client, namespace) if event["regarding"]["name"] == "one"]
    last = told[KIND_BURST:]
    assert [(event["note"], event["series"]["count"]) for event in last] == [("40 GB behind", 40 - KIND_BURST)]
