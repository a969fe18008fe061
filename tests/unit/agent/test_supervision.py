"""The agent's side of the supervisor's socket: what is known after answers and events, in the order in which they came."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from yoban.agent.supervision import Supervision
from yoban.errors import Unavailable
from yoban.plugins import ServerCommand, StopMode

SERVER = {"pid": 7, "since": 5.0, "note": {"role": "primary"}, "mode": "", "unattended": "immediate"}
EXITED = {"event": "server-exited", "pid": 7, "code": -9, "mode": ""}
STOP = {"event": "stop", "by": 99.0}
COMMAND = ServerCommand(argv=("/bin/server",), stop_signals={StopMode.CLEAN: 15, StopMode.IMMEDIATE: 3})


def status(server: dict[str, Any] | None) -> dict[str, Any]:
    return {"life": "a", "server": server, "last_exit": None, "stop_by": None}


class Scripted:
    """A supervisor that answers each request with the lines that the test names, all in one write."""

    def __init__(self) -> None:
        self.script: dict[str, Callable[[int], list[dict[str, Any]]]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            request = json.loads(line)
            lines = self.script[request["do"]](request["id"])
            writer.write(b"".join(json.dumps(one).encode() + b"\n" for one in lines))
        writer.close()

    def answer(self, verb: str, fields: dict[str, Any], *events: dict[str, Any]) -> None:
        """Answer `verb` so, with events right behind the answer."""
        self.script[verb] = lambda number: [{"re": number, **fields}, *events]


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
async def supervision(tmp_path: Path, scripted: Scripted) -> AsyncIterator[Supervision]:
    path = tmp_path / "s.sock"
    server = await asyncio.start_unix_server(scripted.serve, str(path))
    supervision = Supervision(path)
    await supervision.connect()
    reading = asyncio.create_task(supervision.run())
    yield supervision
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError, Unavailable):
        await reading
    await supervision.close()
    server.close()
    await server.wait_closed()


async def test_a_new_agent_learns_what_runs(supervision: Supervision, scripted: Scripted) -> None:
    last = {"pid": 3, "code": 1, "mode": "clean", "at": 1.0}
    scripted.answer("status", {**status(SERVER), "last_exit": last, "stop_by": 8.0})
    await supervision.learn()
    server = supervision.server
    assert server is not None
    assert (supervision.life, server.pid, server.since, server.mode) == ("a", 7, 5.0, "")
    assert (server.note, server.unattended) == ({"role": "primary"}, StopMode.IMMEDIATE)
    assert supervision.last_exit is not None
    assert (supervision.last_exit.pid, supervision.stop_by) == (3, 8.0)


async def test_bug_an_older_answer_was_written_over_the_event_behind_it(
    supervision: Supervision, scripted: Scripted
) -> None:
    """Lines that came together are read without a pause: the event was known before who had asked went on."""
    scripted.answer("status", status(SERVER), EXITED, STOP)
    await supervision.learn()
    assert supervision.gone()
    assert supervision.last_exit is not None
    assert (supervision.last_exit.pid, supervision.stop_by) == (7, 99.0)


async def test_bug_a_server_that_ended_at_once_was_taken_for_a_running_one(
    supervision: Supervision, scripted: Scripted
) -> None:
    scripted.answer("start", {"pid": 7})
    scripted.answer("status", status(SERVER), EXITED)
    seen = supervision.changed.serial
    await supervision.start(COMMAND, {"role": "primary"})
    assert supervision.gone()
    assert supervision.changed.serial > seen


async def test_a_refusal_says_why(supervision: Supervision, scripted: Scripted) -> None:
    scripted.answer("status", {"error": "not now"})
    with pytest.raises(Unavailable, match="not now"):
        await supervision.learn()
    assert supervision.gone()
