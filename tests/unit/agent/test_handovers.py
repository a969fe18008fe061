"""Whole agents: hand-overs that break off at one place or another; each against state that is looked at."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from rig import Agent, LosesAnswer, MakeRig, Rig, pair, stored, until
from yoban.agent import switchover
from yoban.agent.lease import LeaseView
from yoban.domain.gathering import history
from yoban.errors import Unavailable
from yoban.kube.client import Client
from yoban.model.control import SwitchoverState
from yoban.model.instance import SwitchoverDocument
from yoban.plugins import InstanceContext, ObjectInfo, Position, Role
from yoban.testing.memory_store import MemoryCloud, MemoryStore

REQUEST = SwitchoverDocument(id="a", target="orders-2")
BROKEN = "the hand-over to orders-2 was broken off; orders-1 goes on as primary"


def behind(rig: Rig, way: LosesAnswer) -> Agent:
    """The first agent, made with a way of its own to the API server."""
    rig.client, client = Client(way), rig.client
    first = rig.agent(1)
    rig.client = client
    return first


def starts(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The roles of the servers that are started from now on."""
    roles: list[str] = []
    real = agent.supervision._call

    async def call(verb: str, **fields: Any) -> dict[str, Any]:
        if verb == "start":
            roles.append(fields["note"]["role"])
        return await real(verb, **fields)

    monkeypatch.setattr(agent.supervision, "_call", call)
    return roles


async def test_bug_a_hand_over_whose_answer_was_lost_started_the_old_primary_again(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(instances=2)
    way = LosesAnswer(rig.api)
    first = behind(rig, way)
    _, second = await pair(rig)
    roles = starts(first, monkeypatch)
    await rig.driver.write(first.context, "before")
    rig.change(switchover=REQUEST)
    await until("the second reigns", lambda: second.parts.life.role == "primary")
    await second.ready()
    assert way.lost
    await rig.driver.write(second.context, "after")
    assert roles == [], "nothing is known, so nothing is started"
    assert first.status.switchover.state == "running", "who reigns is not known there"
    way.cut = False
    await first.ready()
    assert roles == [Role.REPLICA.value]
    assert await rig.driver.read(first.context) == {"before", "after"}
    await until("the first tells it", lambda: first.status.switchover.state == "done")
    assert (await rig.lease())["metadata"]["annotations"]["yoban.dev/term"] == "2"


async def test_a_hand_over_that_did_not_arrive_leaves_the_primary_as_it_was(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(instances=2)
    way = LosesAnswer(rig.api, forwards=False)
    first = behind(rig, way)
    _, second = await pair(rig)
    roles = starts(first, monkeypatch)
    rig.change(switchover=REQUEST)
    await until("the answer is lost", lambda: way.lost)
    await asyncio.sleep(0.2)
    assert roles == []
    way.cut = False
    await first.ready()
    assert roles == [Role.PRIMARY.value]
    await until("it is told", lambda: first.status.switchover.state == "failed")
    assert first.status.switchover.message == BROKEN
    assert second.parts.life.role != "primary"


async def test_bug_a_hand_over_that_failed_half_way_was_never_told(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(instances=2)
    replication = rig.engine.replication
    real, failed = replication.drained_position, False

    async def drained(ctx: InstanceContext) -> Position:
        nonlocal failed
        if not failed:
            failed = True
            raise Unavailable("it does not answer just now")
        return await real(ctx)

    monkeypatch.setattr(replication, "drained_position", drained)
    first, second = await pair(rig)
    rig.change(switchover=REQUEST)
    await until("it is told", lambda: first.status.switchover.state == "failed")
    assert first.status.switchover == SwitchoverState(id="a", state="failed", message=BROKEN)
    assert failed
    await first.ready()
    rig.change(switchover=SwitchoverDocument(id="b", target="orders-2"))
    await until("the next one works", lambda: second.parts.life.role == "primary")


async def test_bug_a_hand_over_whose_agent_was_replaced_was_never_told(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(instances=2)
    first, _ = await pair(rig)
    begun = asyncio.Event()

    async def drain(seconds: float) -> bool:
        begun.set()
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(first.parts.tailer, "drain", drain)
    rig.change(switchover=REQUEST)
    await asyncio.wait_for(begun.wait(), 20)
    await first.again()
    await until("it is told", lambda: first.status.switchover.state == "failed")
    assert first.status.switchover == SwitchoverState(id="a", state="failed", message=BROKEN)
    await first.ready()


def test_what_counts_as_broken_off() -> None:
    held = LeaseView(known=True, holder="orders-1", held=True, mine=True, switchover="a")
    none = SwitchoverState()
    members = ("orders-1", "orders-2")
    told = switchover.broken_off(REQUEST, held, none, "orders-1", members)
    assert told == SwitchoverState(id="a", state="failed", message=BROKEN)
    assert switchover.broken_off(REQUEST, held, SwitchoverState(id="a", state="running"), "orders-1", members) == told
    assert switchover.broken_off(REQUEST, held, SwitchoverState(id="9", state="done"), "orders-1", members) == told
    for state in ("failed", "done"):
        assert switchover.broken_off(REQUEST, held, SwitchoverState(id="a", state=state), "orders-1", members) is None
    assert switchover.broken_off(None, held, none, "orders-1", members) is None
    assert switchover.broken_off(REQUEST, held, none, "orders-2", members) is None, "it took over"
    other = SwitchoverDocument(id="b", target="orders-2")
    assert switchover.broken_off(other, held, none, "orders-1", members) is None, "it is still to be done"
    assert switchover.broken_off(REQUEST, held, none, "orders-1", ("orders-1", "orders-3")) is None, "it took over once"
    lost = LeaseView(known=True, holder="orders-1", mine=True, switchover="a")
    assert switchover.broken_off(REQUEST, lost, none, "orders-1", members) is None


async def test_bug_a_window_claimed_what_was_committed_before_the_record_of_the_reign_was_written(
    make_rig: MakeRig, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(instances=2)
    first, second = await pair(rig)
    await stored(first)
    real, refused = MemoryStore.put, list[str]()

    async def put(self: MemoryStore, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        """No record of a term comes through, nor later any of what is written in it."""
        if "/terms/" in key and len(refused) < 3:
            refused.append(key)
            raise Unavailable("the store is down", object=key)
        if len(refused) == 3 and ("/tail/" in key or "/marks/" in key):
            raise Unavailable("the store is down", object=key)
        return await real(self, key, data, if_absent=if_absent)

    monkeypatch.setattr(MemoryStore, "put", put)
    rig.change(switchover=REQUEST)
    await until("the second reigns", lambda: second.parts.life.role == "primary")
    await second.ready()
    await rig.driver.write(second.context, "acknowledged")
    committed = datetime.now(UTC)
    repository = await second.instance.storage.archive(second.instance.configuration)
    assert repository is not None
    await until(
        "the record is written", lambda: any(k.endswith("terms/0000000002") for k in cloud.buckets["backups"].objects)
    )
    record = await repository.terms.read(2)
    assert record is not None and record.time > committed
    assert record.began is not None and record.began < committed
    facts = history(await repository.catalog(), rig.engine.log_source)
    assert [term.started for term in facts.terms] == [None, record.began]
