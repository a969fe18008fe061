"""What the supervisor is told of the deadline, by what runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yoban.agent.fencing import Fencing
from yoban.agent.supervision import RunningServer, Supervision


class Heard(Supervision):
    """Notes each heart-beat: a deadline, None for none, or "as before"."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))
        self.beats: list[object] = []

    async def _call(self, verb: str, **fields: Any) -> dict[str, Any]:
        assert verb == "heartbeat"
        self.beats.append(fields.get("fence_at", "as before"))
        return {}


def server(role: str, mode: str = "") -> RunningServer:
    return RunningServer(7, 0.0, {"role": role}, mode)


async def test_a_deadline_is_never_lifted_from_a_server_that_may_take_writes() -> None:
    heard = Heard()
    fencing = Fencing(heard)
    for role in ("primary", "replica"):
        heard.server = server(role)
        await fencing.tell(9.0)
        await fencing.tell(None)
    heard.server = None
    await fencing.tell(9.0)
    await fencing.tell(None)
    assert heard.beats == [9.0, "as before", 9.0, "as before", 9.0, None]


async def test_a_server_in_recovery_has_no_deadline() -> None:
    """Also for an agent that did not start it: the one before may have left a deadline."""
    heard = Heard()
    fencing = Fencing(heard)
    for mode in ("", "clean", "immediate"):
        heard.server = server("recovery", mode)
        await fencing.tell(9.0)
    assert heard.beats == [None, None, None]


async def test_no_deadline_is_told_between_the_start_of_a_recovery_and_our_hearing_of_it() -> None:
    heard = Heard()
    fencing = Fencing(heard)
    async with fencing.lifted():
        await fencing.tell(9.0)
        heard.server = server("recovery")
        await fencing.tell(9.0)
        heard.server = None
        await fencing.tell(9.0)
    await fencing.tell(9.0)
    assert heard.beats == [None, None, None, None, 9.0]
