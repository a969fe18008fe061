"""The supervisor's loop: children, deadlines, and one unix socket.

Guarantees:

- every orphan is reaped;
- a dead agent is started again with back-off, one that stops heart-beating is killed first; the server is not touched;
- a server whose fencing deadline (CLOCK_BOOTTIME) has passed is ended at once, with all that it started, agent or not; the
  deadline outlives the server, and none starts after it, until an agent sets another one or lifts it;
- at the end of the Pod (SIGTERM) the agent is told and has the time that is there; without an agent the server is
  stopped from here, in the mode that its start named for that, at last by force, always within the grace period;
- state of the server is kept here and told to each new agent.

Does not know what a server is: command, signals and the note that describes it come from the agent. Only the agent's own
process may change anything; others may ask for `status`.

Messages are JSON lines. Requests `{"id": 1, "do": …}` are answered by `{"re": 1, …}` or `{"re": 1, "error": text}`:

| do | fields | answer |
|---|---|---|
| `status` | | see `Supervisor.status` |
| `heartbeat` | `fence_at`: seconds of CLOCK_BOOTTIME, null for none; left out: as before | `{}` |
| `start` | `argv`, `env`, `cwd`, `stop_signals` {"clean", "immediate"}, `unattended`: one of these, `note` | `{"pid"}` |
| `signal` | `mode`: `clean`, `immediate`, `kill` | `{}` |
| `restart-agent` | `argv`: other command for it, optional | `{}`, then the agent is ended |

Pushed to the agent: `{"event": "server-exited", "pid", "code", "mode"}` once nothing of the server is left, and
`{"event": "stop", "by"}`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from typing import Any

from yoban.agent.supervisor import tree
from yoban.agent.supervisor.journal import journal
from yoban.agent.supervisor.spawn import SpawnError, spawn
from yoban.agent.supervisor.wire import Broken, Connection, listen

KILL_AFTER = 5.0  # seconds from IMMEDIATE to KILL
FENCE_KILL_AFTER = 2.0  # the same at the fencing deadline: it must be over before the Lease can be taken
FIRST_HEARTBEAT = 60.0  # seconds that an agent may take to start
FORCE_BEFORE_END = 8.0  # seconds before the grace period ends in which the server is ended by force
BACKOFF = (0.1, 1.0, 2.0, 4.0, 8.0)
HEALTHY_AFTER = 60.0  # seconds after which an agent's earlier deaths are forgotten
LEFTOVER_PAUSE = 0.1


def boottime() -> float:
    """CLOCK_BOOTTIME in seconds: it counts on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def agent_command() -> list[str]:
    """How to start the agent: as we were started (through a loader, maybe), with its module in the place of ours."""
    with open("/proc/self/cmdline", "rb") as file:  # noqa: PTH123 - pathlib is not loaded here
        mine = [part.decode() for part in file.read().rstrip(b"\0").split(b"\0")]
    return [*mine[: mine.index("-m")], "-m", "yoban.agent.main"]


class _Server:
    def __init__(self, pid: int, request: dict[str, Any]) -> None:
        self.pid = pid
        self.since = time.time()
        self.since_boot = boottime()
        self.argv: list[str] = request["argv"]
        self.note: Any = request.get("note")
        self.signals: dict[str, int] = request["stop_signals"]
        self.unattended: str = request["unattended"]  # how it is told to stop where no agent does
        self.mode = ""  # how it was told to stop
        self.kill_at: float | None = None
        self.code: int | None = None  # set when the main process ended


class Supervisor:
    """PID 1. `run` returns when the Pod's end was asked for and everything has ended."""

    def __init__(self, *, socket_path: str, agent: list[str], grace: float, frozen_after: float) -> None:
        self._path = socket_path
        self._agent_argv = agent
        self._grace = grace
        self._frozen_after = frozen_after
        self._life = os.urandom(8).hex()
        self._clients: dict[int, Connection] = {}
        self._server: _Server | None = None
        self._last_exit: dict[str, Any] | None = None
        self._fence_at: float | None = None
        self._agent: int | None = None
        self._agent_since = 0.0
        self._agent_kill_at: float | None = None
        self._agent_restarts = 0
        self._failures = 0
        self._agent_due: float | None = 0.0
        self._heard_by = 0.0  # the agent must have been heard by then
        self._stop_by: float | None = None
        self._leftover_at: float | None = None

    # -- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run until the end."""
        wake_read, wake_write = socket.socketpair()
        for end in (wake_read, wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        stops: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda got, _: stops.append(got))
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        listener = listen(self._path)
        journal("info", "supervisor started", life=self._life)
        poll = select.epoll()
        poll.register(wake_read, select.EPOLLIN)
        poll.register(listener, select.EPOLLIN)
        while True:
            if stops:
                stops.clear()
                self._begin_stop()
            self._reap()
            self._deadlines()
            if self._stop_by is not None and self._server is None and self._agent is None:
                journal("info", "supervisor ends")
                return 0
            for client in list(self._clients.values()):
                poll.modify(client.sock, select.EPOLLIN | (select.EPOLLOUT if client.wants_write else 0))
            for descriptor, event in poll.poll(self._patience()):
                if descriptor == wake_read.fileno():
                    with contextlib.suppress(BlockingIOError):
                        wake_read.recv(4096)
                elif descriptor == listener.fileno():
                    with contextlib.suppress(OSError):
                        sock, _ = listener.accept()
                        self._clients[sock.fileno()] = Connection(sock)
                        poll.register(sock, select.EPOLLIN)
                else:
                    self._serve(poll, self._clients[descriptor], event)

    def _serve(self, poll: select.epoll, client: Connection, event: int) -> None:
        try:
            if event & select.EPOLLOUT:
                client.flush()
            if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                for message in client.receive():
                    client.send(self._answer(client, message))
        except Broken:
            poll.unregister(client.sock)
            del self._clients[client.sock.fileno()]
            client.sock.close()

    def _patience(self) -> float:
        due = [
            moment
            for moment in (
                self._fence_at if self._server else None,
                self._server.kill_at if self._server else None,
                self._agent_due,
                self._agent_kill_at,
                self._heard_by if self._agent else None,
                self._stop_by - FORCE_BEFORE_END if self._stop_by is not None and self._server else None,
                self._stop_by - 1 if self._stop_by is not None else None,
                self._leftover_at,
            )
            if moment is not None
        ]
        patience = max(0.01, min(due) - boottime()) if due else 60.0
        # The time that a machine is suspended is no time for epoll, but it is for the deadline.
        return min(1.0, patience) if self._fence_at is not None and self._server is not None else patience

    # -- requests ----------------------------------------------------------------------------------------------------

    def _answer(self, client: Connection, message: dict[str, Any]) -> dict[str, Any]:
        reply = {"re": message.get("id")}
        try:
            verb = message.get("do")
            if verb == "status":
                return {**reply, **self.status()}
            if client.pid != self._agent:
                raise ValueError("only the agent may ask for this")
            if verb == "heartbeat":
                if "fence_at" in message:
                    fence_at = message["fence_at"]
                    self._fence_at = None if fence_at is None else float(fence_at)
                self._heard_by = boottime() + self._frozen_after
                return reply
            if verb == "start":
                return {**reply, "pid": self._start(message)}
            if verb == "signal":
                self._end_server(str(message["mode"]))
                return reply
            if verb == "restart-agent":
                if message.get("argv"):
                    self._agent_argv = [str(part) for part in message["argv"]]
                self._end_agent("asked to")
                return reply
            raise ValueError(f"unknown request {verb!r}")
        except (ValueError, KeyError, TypeError, SpawnError) as error:
            return {**reply, "error": str(error) or type(error).__name__}

    def status(self) -> dict[str, Any]:
        """What runs since when (seconds since the epoch), for a new agent: nothing of it is lost with the old one."""
        server = self._server
        return {
            "life": self._life,
            "server": None
            if server is None
            else {
                "pid": server.pid,
                "since": server.since,
                "since_boot": server.since_boot,
                "argv": server.argv,
                "note": server.note,
                "mode": server.mode,
                "unattended": server.unattended,
                "ended": server.code is not None,
            },
            "last_exit": self._last_exit,
            "fence_at": self._fence_at,
            "agent": self._agent,
            "agent_restarts": self._agent_restarts,
            "stop_by": None if self._stop_by is None else self._stop_by - FORCE_BEFORE_END,
        }

    def _start(self, message: dict[str, Any]) -> int:
        if self._server is not None:
            raise ValueError("a server runs already")
        if self._stop_by is not None:
            raise ValueError("the instance is stopping")
        if self._fence_at is not None and self._fence_at <= boottime():
            raise ValueError("the fencing deadline has passed")
        signals = {str(mode): int(number) for mode, number in message["stop_signals"].items()}
        if set(signals) != {"clean", "immediate"}:
            raise ValueError("stop_signals must name clean and immediate")
        unattended = str(message.get("unattended", "clean"))
        if unattended not in signals:
            raise ValueError(f"unknown mode {unattended!r}")
        argv = [str(part) for part in message["argv"]]
        request = {**message, "argv": argv, "stop_signals": signals, "unattended": unattended}
        env = {str(name): str(value) for name, value in message.get("env", {}).items()}
        self._server = _Server(spawn(argv, env, message.get("cwd")), request)
        journal("info", "server started", pid=self._server.pid, note=self._server.note)
        return self._server.pid

    def _push(self, message: dict[str, Any]) -> None:
        for client in self._clients.values():
            if client.pid != self._agent:
                continue
            # A broken client is found by the next event on its descriptor.
            with contextlib.suppress(Broken):
                client.send(message)

    # -- the server --------------------------------------------------------------------------------------------------

    def _end_server(self, mode: str) -> None:
        server = self._server
        if server is None:
            return
        if mode not in ("clean", "immediate", "kill"):
            raise ValueError(f"unknown mode {mode!r}")
        server.mode = mode
        if mode == "kill":
            server.kill_at = None
            # A process that was reaped has given its id back: it may be another one's by now.
            main = [server.pid] if server.code is None else []
            tree.kill([*main, *tree.descendants(os.getpid(), without=self._agent)])
            return
        if mode == "immediate" and server.kill_at is None:
            server.kill_at = boottime() + KILL_AFTER
        if server.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, server.signals[mode])

    def _server_ended(self) -> None:
        """The main process is gone: what it left behind is ended too before anybody hears of it."""
        server = self._server
        assert server is not None
        left = tree.descendants(os.getpid(), without=self._agent)
        if left:
            tree.kill(left)
            self._leftover_at = boottime() + LEFTOVER_PAUSE
            return
        self._leftover_at = None
        self._server = None
        # The deadline stays: the next server may be started before the next heartbeat, by an agent that has no other.
        self._last_exit = {"pid": server.pid, "code": server.code, "mode": server.mode, "at": time.time()}
        self._push({"event": "server-exited", "pid": server.pid, "code": server.code, "mode": server.mode})
        journal("info", "server exited", pid=server.pid, code=server.code, mode=server.mode)

    # -- the agent ---------------------------------------------------------------------------------------------------

    def _start_agent(self) -> None:
        self._agent_due = None
        try:
            self._agent = spawn(self._agent_argv, dict(os.environ))
        except SpawnError as error:
            journal("error", "the agent cannot be started", error=str(error))
            self._agent_gone()
            return
        self._agent_since = boottime()
        self._heard_by = self._agent_since + FIRST_HEARTBEAT
        journal("info", "agent started", pid=self._agent)

    def _end_agent(self, why: str) -> None:
        if self._agent is None or self._agent_kill_at is not None:
            return
        self._agent_kill_at = boottime() + KILL_AFTER
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._agent, signal.SIGTERM)
        journal("info", "ending the agent", pid=self._agent, why=why)

    def _agent_gone(self) -> None:
        now = boottime()
        if self._agent is not None:
            # What it had started (a copy, a check) must not go on beside the next agent's.
            tree.kill(tree.members(self._agent))
            if now - self._agent_since > HEALTHY_AFTER:
                self._failures = 0
        self._agent = None
        self._agent_kill_at = None
        if self._stop_by is not None:
            if self._server is not None and not self._server.mode:
                self._end_server(self._server.unattended)
            return
        self._agent_due = now + BACKOFF[min(self._failures, len(BACKOFF) - 1)]
        self._failures += 1
        self._agent_restarts += 1

    # -- time --------------------------------------------------------------------------------------------------------

    def _deadlines(self) -> None:
        now = boottime()
        server = self._server
        if server is not None:
            if self._fence_at is not None and now >= self._fence_at and server.mode != "kill":
                if server.mode != "immediate":
                    self._end_server("immediate")
                    journal("warning", "fencing deadline passed: ending the server", pid=server.pid)
                # Also for one that was told to end before: its own time to do so may be longer.
                late = self._fence_at + FENCE_KILL_AFTER
                server.kill_at = late if server.kill_at is None else min(server.kill_at, late)
            if server.kill_at is not None and now >= server.kill_at:
                self._end_server("kill")
                journal("warning", "the server did not end in time: killing it", pid=server.pid)
            if self._leftover_at is not None and now >= self._leftover_at:
                self._server_ended()
        if self._agent is not None:
            if self._agent_kill_at is not None and now >= self._agent_kill_at:
                tree.kill([self._agent])
                self._agent_kill_at = now + KILL_AFTER
            elif now >= self._heard_by:
                tree.kill([self._agent])
                journal("warning", "the agent is frozen: killing it", pid=self._agent)
                self._heard_by = now + KILL_AFTER
        elif self._agent_due is not None and now >= self._agent_due:
            self._start_agent()
        if self._stop_by is not None:
            server = self._server
            if server is not None and now >= self._stop_by - FORCE_BEFORE_END and server.mode in ("", "clean"):
                self._end_server("immediate")
                journal("warning", "the grace period ends: stopping the server by force", pid=server.pid)
            if self._agent is not None and now >= self._stop_by - 1:
                tree.kill([self._agent])

    def _begin_stop(self) -> None:
        if self._stop_by is not None:
            return
        self._stop_by = boottime() + self._grace
        self._agent_due = None
        journal("info", "stopping", grace=self._grace)
        if self._agent is not None and any(client.pid == self._agent for client in self._clients.values()):
            self._push({"event": "stop", "by": self._stop_by - FORCE_BEFORE_END})
            return
        self._end_agent("the instance stops")
        if self._server is not None and not self._server.mode:
            self._end_server(self._server.unattended)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if self._server is not None and pid == self._server.pid:
                self._server.code = code
                self._server_ended()
            elif pid == self._agent:
                journal("info", "agent exited", pid=pid, code=code)
                self._agent_gone()
