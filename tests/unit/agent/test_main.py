"""The agent's start, put together by its own `run`, before anything answers."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rig import Agent, MakeRig, until
from yoban.agent import assembly, main
from yoban.agent.assembly import Parts


class Start:
    """`main.run` on a rig's parts; the first look at the Lease waits for `answered`."""

    def __init__(self, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
        self.agent = agent
        self.asked, self.answered = asyncio.Event(), asyncio.Event()
        self.parts: Parts | None = None
        self.alive = 0
        supervision = agent.supervision
        real_alive, real_assemble = supervision.alive, main.assemble

        async def nothing(*_: Any, **__: Any) -> None: ...

        async def forever() -> None:
            await asyncio.Event().wait()

        async def alive() -> None:
            self.alive += 1
            await real_alive()

        @asynccontextmanager
        async def connect(*_: Any, **__: Any) -> Any:
            yield agent.rig.client

        def assemble(*arguments: Any) -> Parts:
            self.parts = real_assemble(*arguments)
            real_refresh = self.parts.lease.refresh

            async def refresh() -> None:
                self.asked.set()
                await self.answered.wait()
                await real_refresh()

            monkeypatch.setattr(self.parts.lease, "refresh", refresh)
            return self.parts

        monkeypatch.setattr(supervision, "alive", alive)
        monkeypatch.setattr(supervision, "connect", nothing)
        monkeypatch.setattr(supervision, "run", forever)
        registry = SimpleNamespace(from_environment=lambda: SimpleNamespace(engine=lambda _: agent.rig.engine))
        monkeypatch.setattr(main, "Supervision", lambda _: supervision)
        monkeypatch.setattr(main, "Registry", registry)
        monkeypatch.setattr(main, "Storage", lambda _: agent.instance.storage)
        monkeypatch.setattr(main, "Configurations", lambda _: agent.instance.configurations)
        monkeypatch.setattr(main, "Client", SimpleNamespace(connect=connect))
        monkeypatch.setattr(main, "load_config", nothing)
        monkeypatch.setattr(main, "assemble", assemble)
        monkeypatch.setattr(main, "settle", lambda: None)
        monkeypatch.setattr(main, "figures", SimpleNamespace(observe=lambda _: None))
        monkeypatch.setattr(assembly, "BEAT_EVERY", 0.01)

    def run(self) -> asyncio.Task[None]:
        environment = replace(self.agent.environment, bind="127.0.0.1", probe_port=0, metrics_port=0, control_port=0)
        telemetry: Any = SimpleNamespace(metrics_text=lambda: (b"", ""), trace_lines=lambda _: b"")
        return asyncio.create_task(main.run(environment, telemetry))


async def test_bug_an_agent_was_silent_while_the_api_server_was_slow_to_answer_its_first_question(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_rig().agent()
    start, supervision = Start(agent, monkeypatch), agent.supervision
    task = start.run()
    await start.asked.wait()
    beats = supervision.beats
    await until("it goes on beating", lambda: supervision.beats > beats + 2, 5)
    start.answered.set()
    await until("it is ready", lambda: start.parts is not None and start.parts.ready())
    # From then on each beat tells the deadline.
    alive, beats = start.alive, supervision.beats
    await until("it beats", lambda: supervision.beats > beats + 2)
    assert start.alive == alive
    supervision.pod_ends()
    await asyncio.wait_for(task, 20)


async def test_an_agent_that_is_told_to_end_before_anything_answers_leaves_nothing_behind(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_rig().agent()
    start = Start(agent, monkeypatch)
    others = asyncio.all_tasks()
    task = start.run()
    await start.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == others
