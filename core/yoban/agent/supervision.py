"""The agent's side of the supervisor's socket.

Guarantees: `server` is what runs below the supervisor now; `changed` rings when it starts, ends, or the instance is to
stop. Answers and events take effect in the order in which they came. A connection that breaks ends `run` with Unavailable:
without its supervisor an agent must not go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yoban.agent.notice import Notice
from yoban.errors import DeadlineExceeded, Unavailable
from yoban.plugins import ServerCommand, StopMode

log = logging.getLogger("yoban.agent.supervision")
CALL_DEADLINE = 10.0


@dataclass(frozen=True, slots=True)
class RunningServer:
    """The server process: since when (seconds since the epoch), and the note that we gave with its start.

    `mode` is how it was told to stop, "" when it was not; `unattended` how it is to be stopped where `Server.close` cannot
    be called first.
    """

    pid: int
    since: float
    note: Mapping[str, Any]
    mode: str = ""
    unattended: StopMode = StopMode.CLEAN


@dataclass(frozen=True, slots=True)
class ServerExit:
    """How the last server ended: exit code (negative: signal), and how it had been told to stop ("": by itself)."""

    pid: int
    code: int
    mode: str


class Supervision:
    """A connection to the supervisor."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None
        self._calls: dict[int, tuple[str, asyncio.Future[dict[str, Any]]]] = {}
        self._next = 0
        self.changed = Notice()
        self.life = ""
        self.server: RunningServer | None = None
        self.last_exit: ServerExit | None = None
        self.stop_by: float | None = None

    async def connect(self) -> None:
        """Open the connection. Raises Unavailable."""
        try:
            async with asyncio.timeout(CALL_DEADLINE):
                self._reader, self._writer = await asyncio.open_unix_connection(str(self._path), limit=1 << 20)
        except (OSError, TimeoutError) as error:
            raise Unavailable("the supervisor does not answer", object=str(self._path), cause=str(error)) from error

    async def run(self) -> None:
        """Read answers and events until the connection ends. Raises Unavailable then."""
        assert self._reader is not None
        while line := await self._reader.readline():
            message = json.loads(line)
            if "event" in message:
                self._event(message)
                continue
            verb, answer = self._calls.pop(message.get("re"), ("", None))
            if answer is None or answer.done():
                continue
            if verb == "status" and "error" not in message:
                # Here, not by who asked: a line behind this one is read before that task goes on, and is newer.
                self._learned(message)
            answer.set_result(message)
        raise Unavailable("the supervisor closed the connection", object=str(self._path))

    async def learn(self) -> None:
        """Ask what runs, since when and with which command; for a new agent. `run` must be running."""
        await self._call("status")

    async def heartbeat(self, fence_at: float | None) -> None:
        """Say that we live and until when the server may run (seconds of CLOCK_BOOTTIME, None without end)."""
        await self._call("heartbeat", fence_at=fence_at)

    async def alive(self) -> None:
        """Say that we live and leave the fencing deadline as it is."""
        await self._call("heartbeat")

    async def start(self, command: ServerCommand, note: Mapping[str, Any]) -> None:
        """Start the server. Raises Unavailable when one runs or the program cannot be started."""
        answer = await self._call(
            "start",
            argv=list(command.argv),
            env=dict(command.env),
            cwd=str(command.cwd) if command.cwd else None,
            stop_signals={mode.value: int(number) for mode, number in command.stop_signals.items()},
            unattended=command.unattended.value,
            note=dict(note),
        )
        log.info("server started with pid %s", answer["pid"])
        await self.learn()

    async def stop(self, mode: StopMode, timeout: float) -> bool:
        """Stop the server and wait for its end; False when it still runs after `timeout` seconds."""
        if self.server is None:
            return True
        await self._call("signal", mode=mode.value)
        if self.server is not None:
            self.server = replace(self.server, mode=mode.value)
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while (left := until - loop.time()) > 0:
            seen = self.changed.serial
            if self.gone():
                break
            await self.changed.wait(seen, left)
        return self.gone()

    @property
    def serving(self) -> bool:
        """Whether a server runs that was not told to stop."""
        return self.server is not None and not self.server.mode

    def gone(self) -> bool:
        """Whether nothing of a server runs."""
        return self.server is None

    async def restart_agent(self) -> None:
        """Ask to be ended and started again."""
        await self._call("restart-agent")

    async def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    def _learned(self, status: dict[str, Any]) -> None:
        self.life = status["life"]
        server = status["server"]
        self.server = None
        if server:
            # A supervisor lives as long as its Pod: an older one knows of no such mode.
            unattended = StopMode(server.get("unattended", StopMode.CLEAN.value))
            self.server = RunningServer(
                server["pid"], server["since"], server["note"] or {}, server["mode"], unattended
            )
        self.stop_by = status["stop_by"]
        if status["last_exit"]:
            last = status["last_exit"]
            self.last_exit = ServerExit(last["pid"], last["code"], last["mode"])
        self.changed.ring()

    def _event(self, message: dict[str, Any]) -> None:
        if message["event"] == "server-exited":
            self.server = None
            self.last_exit = ServerExit(message["pid"], message["code"], message["mode"])
            log.info("server exited with code %s (told to stop: %s)", message["code"], message["mode"] or "no")
        elif message["event"] == "stop":
            self.stop_by = float(message["by"])
        self.changed.ring()

    async def _call(self, verb: str, **fields: Any) -> dict[str, Any]:
        if self._writer is None:
            raise Unavailable("not connected to the supervisor", object=str(self._path))
        self._next += 1
        number = self._next
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._calls[number] = verb, answer
        try:
            async with asyncio.timeout(CALL_DEADLINE):
                self._writer.write(json.dumps({"id": number, "do": verb, **fields}).encode() + b"\n")
                await self._writer.drain()
                result = await answer
        except TimeoutError:
            raise DeadlineExceeded(f"no answer to {verb}", object="supervisor") from None
        except OSError as error:
            raise Unavailable("the supervisor is gone", object=str(self._path), cause=str(error)) from error
        finally:
            self._calls.pop(number, None)
        if "error" in result:
            raise Unavailable(f"{verb} was refused", object="supervisor", cause=result["error"])
        return result
