"""How long a server that was told to stop may take."""

from __future__ import annotations

from dataclasses import replace

from yoban.agent.ending import RECOVERY_DEADLINE, RESTART_DEADLINE, Ending
from yoban.agent.supervision import RunningServer

PRIMARY = RunningServer(7, 0.0, {"role": "primary"}, "clean")


def test_the_time_counts_from_the_first_look_at_each_server() -> None:
    ending = Ending()
    assert not ending.overdue(PRIMARY, 1000.0)
    assert not ending.overdue(PRIMARY, 1000.0 + RESTART_DEADLINE - 1)
    assert ending.overdue(PRIMARY, 1000.0 + RESTART_DEADLINE)
    assert not ending.overdue(replace(PRIMARY, pid=8), 1000.0 + RESTART_DEADLINE)
    assert not ending.overdue(None, 2000.0)
    assert not ending.overdue(PRIMARY, 2000.0)
    assert not ending.overdue(replace(PRIMARY, mode=""), 9000.0)


def test_a_server_that_replayed_a_restore_has_more() -> None:
    ending, server = Ending(), replace(PRIMARY, note={"role": "recovery"})
    assert not ending.overdue(server, 0.0)
    assert not ending.overdue(server, RECOVERY_DEADLINE - 1)
    assert ending.overdue(server, RECOVERY_DEADLINE)
