"""Whole agents: a store plugin that raises what it may not, and a reign that ends in the middle of a round."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from rig import STORE, Agent, MakeRig, Rig, archiving, pair, stored, until
from yoban.agent import tailer
from yoban.kube.clock import SystemClock
from yoban.plugins import InstanceContext, ObjectInfo, ObjectStore, StoreConfig
from yoban.repository import Repository
from yoban.testing.memory_store import MemoryCloud, MemoryStore

FAULT = "Invalid endpoint: http://minio_backup:9000"


def refuse_open(rig: Rig, agent: Agent, patch: pytest.MonkeyPatch) -> None:
    """The store is another one by now, and its client refuses the endpoint."""

    @asynccontextmanager
    async def opened(config: StoreConfig) -> AsyncIterator[ObjectStore]:
        raise ValueError(FAULT)
        yield MemoryStore()

    patch.setattr(rig.provider, "open", opened)
    rig.store = msgspec.structs.replace(STORE, endpoint="http://minio_backup:9000")
    rig.change()


def refuse_put(rig: Rig, agent: Agent, patch: pytest.MonkeyPatch) -> None:
    async def put(self: MemoryStore, key: str, data: object, *, if_absent: bool = False) -> ObjectInfo:
        raise ValueError(FAULT)

    patch.setattr(MemoryStore, "put", put)


def refuse_everything(rig: Rig, agent: Agent, patch: pytest.MonkeyPatch) -> None:
    """As what lies between plugin and tailer might let through."""

    async def repository() -> Repository:
        raise ValueError(FAULT)

    patch.setattr(agent.parts.shipper, "repository", repository)


@pytest.mark.parametrize("refuse", [refuse_open, refuse_put, refuse_everything])
async def test_bug_a_store_plugin_that_raised_what_it_may_not_ended_the_agent(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, refuse: Any
) -> None:
    rig = make_rig()
    agent = await archiving(rig)
    with monkeypatch.context() as patch:
        refuse(rig, agent, patch)
        await rig.driver.write(agent.context, "row")
        await until("it is told", lambda: agent.living and "ArchiveFailing" in agent.reasons(), 60)
        (told,) = [problem for problem in agent.status.problems if problem.reason == "ArchiveFailing"]
        assert FAULT in told.message
        assert agent.parts.ready()
        assert not await agent.parts.tailer.drain(0.5), "who is about to stop the server hears of it and goes on"
    await until("it works again", lambda: "ArchiveFailing" not in agent.reasons(), 40)
    await stored(agent)
    assert agent.living


async def test_bug_a_store_plugin_that_raised_what_it_may_not_ended_the_agent_of_a_replica(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tailer, "FOLLOW_EVERY", 0.1)
    rig = make_rig(instances=2)
    _, second = await pair(rig)
    asked = 0

    async def repository() -> Repository:
        nonlocal asked
        asked += 1
        raise ValueError(FAULT)

    monkeypatch.setattr(second.parts.shipper, "repository", repository)
    await until("it has asked", lambda: asked >= 2 or not second.living)
    assert second.living
    assert second.parts.ready()
    assert len([record for record in caplog.records if record.exc_info]) == 1, "once a kind"


@pytest.mark.parametrize(
    "what", ["server.status", "log_source.pending", "log_source.retained_bytes", "log_source.tail"]
)
async def test_bug_an_engine_plugin_that_raised_what_it_may_not_ended_the_agent(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(tailer, "FIGURES_EVERY", 0.1)
    rig = make_rig()
    agent = await archiving(rig)
    facet, method = what.split(".")
    asked = 0

    async def broken(*_: object, **__: object) -> Any:
        nonlocal asked
        asked += 1
        raise KeyError("nobody thought of it")

    with monkeypatch.context() as patch:
        patch.setattr(getattr(rig.engine, facet), method, broken)
        await until("it has been asked", lambda: asked >= 3 or not agent.living, 30)
        assert agent.living
    await agent.ready()
    await rig.driver.write(agent.context, "row")
    await stored(agent)
    assert agent.living


async def test_a_look_that_works_again_does_not_say_that_the_store_does(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    agent = await archiving(rig)
    shipper, real, asked = agent.parts.shipper, rig.engine.log_source.pending, list[bool]()
    broken = True

    async def pending(context: InstanceContext) -> Any:
        asked.append(broken)
        if broken:
            raise KeyError("nobody thought of it")
        return await real(context)

    monkeypatch.setattr(rig.engine.log_source, "pending", pending)
    await until("it is told", lambda: shipper.failing_since is not None)
    broken = False
    await until("it is taken back", lambda: shipper.failing_since is None)
    since = shipper.failing_since = SystemClock().now()
    broken = True
    await until("it fails again", lambda: asked[-2:] == [True, True])
    broken = False
    await until("it works again", lambda: asked[-2:] == [False, False])
    assert shipper.failing_since == since


async def test_bug_a_round_that_outlived_its_reign_stored_objects_of_no_term(
    make_rig: MakeRig, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig()
    agent = await archiving(rig)
    objects = cloud.buckets["backups"].objects
    real, keys = MemoryStore.put, list[str]()

    async def put(self: MemoryStore, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        done = await real(self, key, data, if_absent=if_absent)
        keys.append(key)
        if "/tail/" in key:
            agent.parts.tailer.reigns(0, None)
        return done

    monkeypatch.setattr(MemoryStore, "put", put)
    with monkeypatch.context() as patch:
        # Nobody says that it reigns again, until it is known what the round did.
        patch.setattr(agent.parts.life, "_archiver", _Silent())
        await rig.driver.write(agent.context, "row")
        await until("a round was under way", lambda: any("/tail/" in key for key in keys))
        async with agent.parts.tailer._busy:
            assert not agent.parts.tailer._term
        after = keys[next(at for at, key in enumerate(keys) if "/tail/" in key) + 1 :]
        assert after == [], "nothing is written after the end of a reign"
    assert {_term(key) for key in objects if "/marks/" in key} == {1}


async def test_bug_a_reign_that_never_got_its_first_mark_was_told_to_be_up_to_date(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def held_up(*_: object, **__: object) -> None:
        """A segment before the tail cannot be stored, say: then no mark is written, and nothing else fails."""

    monkeypatch.setattr(tailer.Tailer, "_note", held_up)
    agent = make_rig().agent()
    agent.start()
    await agent.ready()

    def lag() -> float:
        return agent.status.archive.lag_seconds or 0.0

    await until("it is told", lambda: lag() > 0)
    before = lag()
    await until("it grows", lambda: lag() > before)
    assert agent.status.archive.failing_since is None


class _Silent:
    """An archiver that hears nothing."""

    def reigns(self, term: int, promotion: object, began: object = None) -> None:
        pass

    def follows(self, follows: bool) -> None:
        pass

    async def drain(self, seconds: float) -> bool:
        return True


def _term(key: str) -> int:
    return int(key.rsplit("/", 1)[1])
