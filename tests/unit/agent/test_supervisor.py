"""The supervisor's decisions about real child processes, driven step by step on a clock of the test's."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from yoban.agent.supervisor import loop, tree
from yoban.agent.supervisor import spawn as spawning
from yoban.agent.supervisor.loop import Supervisor
from yoban.agent.supervisor.spawn import SpawnError, spawn
from yoban.agent.supervisor.wire import Broken, Connection, listen

SLEEPER = ["/bin/sh", "-c", "trap 'exit 3' QUIT; trap 'exit 0' TERM; while :; do sleep 0.05; done"]
STUBBORN = ["/bin/sh", "-c", "trap '' TERM QUIT; sleep 60 & while :; do sleep 0.05; done"]
SIGNALS = {"clean": int(signal.SIGTERM), "immediate": int(signal.SIGQUIT)}


def running(pid: int) -> bool:
    """Whether a process lives; whoever it was handed to may not have reaped it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Hand:
    """A supervisor whose loop is turned by hand."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, agent: list[str]) -> None:
        self.now = 1000.0
        monkeypatch.setattr(loop, "boottime", lambda: self.now)
        self.it = Supervisor(socket_path=str(folder / "s.sock"), agent=agent, grace=30, frozen_after=6)
        self.pushed: list[dict[str, Any]] = []
        monkeypatch.setattr(self.it, "_push", self.pushed.append)
        # Children of the test run are not the supervisor's.
        self.others = set(tree.descendants(os.getpid()))
        real = tree.descendants

        def ours(root: int, *, without: int | None = None) -> list[int]:
            return [pid for pid in real(root, without=without) if pid not in self.others]

        monkeypatch.setattr(tree, "descendants", ours)

    def ask(self, **message: Any) -> dict[str, Any]:
        class Agent:
            pid = self.it._agent

        return self.it._answer(Agent(), message)  # type: ignore[arg-type]

    def turn(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.it._reap()
        self.it._deadlines()

    def until(self, check: Callable[[], Any], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < end
            time.sleep(0.02)
            self.turn(0.02)

    def start(self, argv: list[str] = SLEEPER, **fields: Any) -> int:
        answer = self.ask(do="start", argv=argv, env={"PATH": os.defpath}, stop_signals=SIGNALS, **fields)
        assert "error" not in answer, answer
        time.sleep(0.1)  # the shell sets its traps
        pid: int = answer["pid"]
        return pid


@pytest.fixture
def hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hand]:
    hand = Hand(tmp_path, monkeypatch, ["/bin/sleep", "60"])
    hand.turn()
    yield hand
    for pid in [*tree.descendants(os.getpid())]:
        tree.kill([pid])
    monkeypatch.undo()
    time.sleep(0.05)
    hand.it._reap()


def test_the_agent_is_started_and_started_again_with_growing_pauses(hand: Hand) -> None:
    first = hand.it._agent
    assert first
    for pause in loop.BACKOFF[1:3]:
        tree.kill([hand.it._agent or 0])
        hand.until(lambda: hand.it._agent is None)
        hand.turn(0.5)
        hand.turn(pause)
        assert hand.it._agent not in (None, first)
    assert hand.it.status()["agent_restarts"] == 2


def test_an_agent_that_is_silent_is_killed(hand: Hand) -> None:
    first = hand.it._agent
    assert hand.ask(do="heartbeat", fence_at=None) == {"re": None}
    hand.turn(6.1)
    hand.until(lambda: hand.it._agent != first)


def test_a_server_is_started_once_and_told_of(hand: Hand) -> None:
    pid = hand.start(note={"role": "primary"})
    assert "error" in hand.ask(do="start", argv=SLEEPER, stop_signals=SIGNALS)
    server = hand.it.status()["server"]
    assert (server["pid"], server["note"], server["mode"]) == (pid, {"role": "primary"}, "")
    hand.ask(do="signal", mode="clean")
    hand.until(lambda: hand.pushed)
    assert hand.pushed == [{"event": "server-exited", "pid": pid, "code": 0, "mode": "clean"}]
    assert hand.it.status()["last_exit"]["code"] == 0


def test_only_the_agent_may_change_anything(hand: Hand) -> None:
    class Other:
        pid = 1

    other: Any = Other()
    for message in ({"do": "start"}, {"do": "heartbeat"}, {"do": "signal", "mode": "kill"}, {"do": "restart-agent"}):
        assert "error" in hand.it._answer(other, message)
    assert "error" not in hand.it._answer(other, {"do": "status"})


@pytest.mark.parametrize(
    "message",
    [
        {"do": "start", "argv": ["/nowhere/at/all"], "stop_signals": SIGNALS},
        {"do": "start", "argv": [], "stop_signals": SIGNALS},
        {"do": "start", "argv": SLEEPER, "stop_signals": {"clean": 15}},
        {"do": "start", "argv": SLEEPER, "stop_signals": SIGNALS, "unattended": "gently"},
        {"do": "start"},
        {"do": "nonsense"},
    ],
)
def test_nonsense_is_refused(hand: Hand, message: dict[str, Any]) -> None:
    assert hand.ask(**message)["error"]
    assert hand.it.status()["server"] is None


def test_the_deadline_ends_the_server_and_all_it_started(hand: Hand) -> None:
    pid = hand.start(STUBBORN)
    below = tree.descendants(pid)
    hand.ask(do="heartbeat", fence_at=hand.now + 5)
    hand.turn(4.9)
    assert hand.it.status()["server"]["mode"] == ""
    hand.turn(0.2)
    assert hand.it.status()["server"]["mode"] == "immediate"
    hand.turn(loop.FENCE_KILL_AFTER)
    hand.until(lambda: hand.pushed)
    assert hand.pushed[0]["code"] == -signal.SIGKILL
    hand.until(lambda: not [one for one in below if running(one)])


def test_bug_a_server_told_to_end_just_before_the_deadline_had_longer_than_the_deadline_allows(hand: Hand) -> None:
    hand.start(STUBBORN)
    hand.ask(do="heartbeat", fence_at=hand.now + 1)
    hand.ask(do="signal", mode="immediate")
    hand.turn(1.1)
    assert hand.it.status()["server"]["mode"] == "immediate"
    hand.turn(loop.FENCE_KILL_AFTER)
    assert hand.it.status()["server"]["mode"] == "kill"
    hand.until(lambda: hand.pushed)
    assert hand.pushed[0]["code"] == -signal.SIGKILL


def test_a_deadline_found_long_after_it_passed_kills_at_once(hand: Hand) -> None:
    hand.start(STUBBORN)
    hand.ask(do="heartbeat", fence_at=hand.now + 1)
    hand.turn(60)  # the machine was suspended
    assert hand.it.status()["server"]["mode"] == "kill"
    hand.until(lambda: hand.pushed)


def test_no_server_starts_after_the_deadline(hand: Hand) -> None:
    hand.ask(do="heartbeat", fence_at=hand.now - 1)
    assert "deadline" in hand.ask(do="start", argv=SLEEPER, stop_signals=SIGNALS)["error"]
    hand.ask(do="heartbeat")
    assert hand.it.status()["fence_at"] == hand.now - 1
    hand.ask(do="heartbeat", fence_at=None)
    hand.start()


def test_bug_a_server_started_again_at_once_had_no_deadline(hand: Hand) -> None:
    hand.start(STUBBORN)
    hand.ask(do="heartbeat", fence_at=hand.now + 5)
    tree.kill([hand.it._server.pid if hand.it._server else 0])
    hand.until(lambda: hand.pushed)
    hand.start(STUBBORN)
    # The agent that started it dies before its next beat; the next one knows of no deadline.
    hand.ask(do="heartbeat")
    hand.turn(5)
    assert hand.it.status()["server"]["mode"] == "immediate"


def test_bug_a_pid_that_was_reaped_was_killed_again(hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = hand.start()
    assert hand.it._server is not None
    hand.it._server.code = 0  # reaped; what it left behind is being ended
    killed: list[int] = []
    monkeypatch.setattr(tree, "kill", killed.extend)
    monkeypatch.setattr(tree, "descendants", lambda *_, **__: [4711])
    hand.it._end_server("kill")
    assert killed == [4711]
    monkeypatch.undo()
    tree.kill([pid])


def test_bug_a_deadline_was_slept_over_by_a_machine_that_was_suspended(hand: Hand) -> None:
    hand.start()
    hand.ask(do="heartbeat", fence_at=hand.now + 5)
    # epoll does not count the time in which the machine stands still.
    assert hand.it._patience() <= 1.0


def test_immediate_becomes_kill(hand: Hand) -> None:
    hand.start(STUBBORN)
    hand.ask(do="signal", mode="immediate")
    hand.turn(loop.KILL_AFTER + 0.1)
    hand.until(lambda: hand.pushed)
    assert hand.pushed[0]["code"] == -signal.SIGKILL


def test_the_end_without_an_agent_stops_the_server_cleanly(hand: Hand) -> None:
    hand.start()
    hand.it._begin_stop()
    hand.until(lambda: hand.it._server is None and hand.it._agent is None)
    assert hand.pushed[0]["mode"] == "clean"
    assert hand.it._agent_due is None
    assert "error" in hand.ask(do="start", argv=SLEEPER, stop_signals=SIGNALS)


@pytest.mark.parametrize("connected", [False, True], ids=["no agent", "an agent that dies then"])
def test_the_end_without_an_agent_is_as_the_start_of_the_server_said(hand: Hand, *, connected: bool) -> None:
    hand.start(unattended="immediate")
    assert hand.it.status()["server"]["unattended"] == "immediate"
    if connected:
        hand.it._stop_by = hand.now + 30  # it was told
        assert hand.it._agent is not None
        tree.kill([hand.it._agent])
    else:
        hand.it._begin_stop()
    hand.until(lambda: hand.it._server is None and hand.it._agent is None)
    assert [one["mode"] for one in hand.pushed] == ["immediate"]


def test_the_end_comes_by_force_when_the_grace_period_ends(hand: Hand) -> None:
    hand.start(STUBBORN)
    hand.it._begin_stop()
    hand.it._begin_stop()
    hand.turn(30 - loop.FORCE_BEFORE_END + 0.1)
    assert hand.it.status()["server"]["mode"] == "immediate"
    hand.turn(loop.KILL_AFTER + 0.1)
    hand.until(lambda: hand.it._server is None)


def test_the_agent_is_replaced_by_another_command(hand: Hand) -> None:
    first = hand.it._agent
    hand.ask(do="restart-agent", argv=["/bin/sleep", "61"])
    hand.until(lambda: hand.it._agent is None)
    hand.turn(1)
    assert hand.it._agent not in (None, first)
    assert Path(f"/proc/{hand.it._agent}/cmdline").read_bytes() == b"/bin/sleep\x0061\x00"


def test_what_an_agent_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = Hand(tmp_path, monkeypatch, ["/bin/sh", "-c", "sleep 60 & wait"])
    hand.turn()
    agent = hand.it._agent or 0
    hand.until(lambda: len(tree.members(agent)) == 2)
    tree.kill([agent])
    hand.until(lambda: hand.it._agent is None)
    hand.until(lambda: not tree.members(agent))
    hand.it._begin_stop()


def test_an_agent_that_cannot_be_started_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = Hand(tmp_path, monkeypatch, ["/nowhere/agent"])
    hand.turn()
    assert hand.it._agent is None
    assert hand.it._agent_due is not None


def test_spawn_says_why_not(tmp_path: Path) -> None:
    with pytest.raises(SpawnError, match="nowhere"):
        spawn(["/bin/true"], {}, str(tmp_path / "nowhere"))


@pytest.mark.parametrize("call", ["fork", "pipe2"])
def test_bug_a_fork_that_failed_ended_the_supervisor(hand: Hand, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def refuse(*_: object) -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = sorted(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        assert "temporarily" in hand.ask(do="start", argv=SLEEPER, stop_signals=SIGNALS)["error"]
        tree.kill([hand.it._agent or 0])
        hand.until(lambda: hand.it._agent is None and hand.it._failures > 1)
    assert sorted(os.listdir("/proc/self/fd")) == before
    hand.until(lambda: hand.it._agent)


def test_bug_a_program_that_hung_in_its_exec_stopped_the_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawning, "EXEC_DEADLINE", 0.2, raising=False)
    monkeypatch.setattr(os, "execvpe", lambda *_: time.sleep(3))
    with pytest.raises(SpawnError, match="in time"):
        spawn(SLEEPER, {})


def test_messages_are_lines_within_bounds(tmp_path: Path) -> None:
    path = str(tmp_path / "x.sock")
    server = listen(path)
    assert Path(path).stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        sock, _ = server.accept()
        connection = Connection(sock)
        assert connection.pid == os.getpid()
        assert list(connection.receive()) == []
        client.sendall(b'{"a": 1}\n{"b"')
        assert list(connection.receive()) == [{"a": 1}]
        client.sendall(b": 2}\n")
        assert list(connection.receive()) == [{"b": 2}]
        connection.send({"c": 3})
        assert client.recv(100) == b'{"c": 3}\n'
        client.sendall(b"nonsense\n")
        with pytest.raises(Broken):
            list(connection.receive())
        client.sendall(b"[1]\n")
        with pytest.raises(Broken):
            list(connection.receive())
        with pytest.raises(Broken, match="does not read"):
            for _ in range(100):
                connection.send({"x": "y" * 65536})
    sock.close()
    server.close()


def test_the_agents_command_is_ours_with_another_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    argv = ["/opt/ld.so", "--library-path", "/opt/lib", "/opt/python3", "-m", "yoban.agent.supervisor"]
    cmdline = tmp_path / "cmdline"
    cmdline.write_bytes(b"\0".join(part.encode() for part in argv) + b"\0")
    import builtins

    real = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda name, *a, **k: real(cmdline if name == "/proc/self/cmdline" else name, *a, **k)
    )
    assert loop.agent_command() == [*argv[:5], "yoban.agent.main"]
