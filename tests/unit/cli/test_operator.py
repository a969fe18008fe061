"""How the operator is put together: settings reach what they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from yoban.cli import operator
from yoban.cli.operator import assemble
from yoban.kube.client import Client
from yoban.kube.transport import Answer
from yoban.plugins.registry import Registry
from yoban.runtime import Controller, Group, Manager
from yoban.runtime.settings import Settings
from yoban.telemetry.setup import build


class Empty:
    """A server that has nothing. Notes how long each request would wait."""

    def __init__(self) -> None:
        self.deadlines: list[float] = []

    async def request(self, method: str, target: str, *, deadline: float, **_: Any) -> Answer:
        self.deadlines.append(deadline)
        return Answer(404, {}, b"{}")

    def stream(self, target: str, *, deadline: float) -> Any:
        raise AssertionError("nothing runs")

    async def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("YOBAN_SETTINGS", str(tmp_path / "none.yaml"))
    monkeypatch.setattr(operator.figures, "observe", lambda *_: None)  # once a process


def assembled(settings: Settings, server: Empty) -> Manager:
    telemetry = build("yoban-operator", "", {})
    return assemble(settings, Registry.in_process({}), telemetry, Client(server))


async def test_bug_a_request_of_the_elector_could_take_longer_than_the_time_to_renew() -> None:
    """One that was lost used up the leader's renew deadline: there was no second try."""
    settings = Settings(lease_duration=6, lease_renew_deadline=4, lease_retry=1)
    manager = assembled(settings, server := Empty())
    assert manager.elector is not None
    assert await manager.elector.lock.fetch() is None
    assert settings.timings().request == 2.0
    assert 0 < max(server.deadlines) <= 2.0


async def test_bug_the_deadline_of_a_reconcile_was_a_setting_that_nobody_read() -> None:
    manager = assembled(Settings(reconcile_deadline=7.5), Empty())
    controllers = [member for member in manager._members[Group.LEADER] if isinstance(member, Controller)]
    assert {c.name: c.deadline for c in controllers} == dict.fromkeys(
        ("objectstore", "backup", "backuppolicy", "database"), 7.5
    )
