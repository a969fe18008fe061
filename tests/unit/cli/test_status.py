"""`kubectl yoban status`: everything on one screen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from yoban.cli import status
from yoban.cli.cluster import Cluster
from yoban.cli.main import kubectl_main
from yoban.errors import Unavailable
from yoban.kube.client import Client
from yoban.kube.resource import LEASE, POD
from yoban.testing.apiserver import FakeApiServer

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def database(**stati: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "shop", "name": "orders", "generation": 2},
        "spec": {"engine": "thing", "version": "17"},
        "status": stati,
    }


def pod(number: int, role: str, *, ready: bool = True, restarts: int = 0) -> dict[str, Any]:
    labels = {"yoban.dev/database": "orders", "yoban.dev/instance": f"orders-{number}", "yoban.dev/role": role}
    return {
        "metadata": {"namespace": "shop", "name": f"orders-{number}-0", "labels": labels},
        "spec": {"nodeName": f"node-{number}"},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [{"restartCount": restarts}],
        },
    }


LEASE_OBJECT: dict[str, Any] = {
    "metadata": {"namespace": "shop", "name": "orders-primary", "annotations": {"yoban.dev/term": "3"}},
    "spec": {"holderIdentity": "orders-1"},
}

FULL = database(
    phase="Running",
    version="17.2",
    ready="2/3",
    incarnation="0123456789ab",
    instances=[
        {"name": "orders-1", "number": 1, "role": "replica", "phase": "running", "ready": True, "position": "0/5"},
        {"name": "orders-2", "number": 2, "phase": "running", "lagSeconds": 1.25, "message": "slow"},
        {"name": "orders-3", "number": 3},
    ],
    window={"start": "2026-11-20T12:00:00Z", "end": "2026-11-23T11:59:58Z", "lastCommit": "2026-11-23T11:57:00Z"},
    lastBackup="2026-11-23T09:00:00Z",
    rpo="3 s",
    policySatisfied=False,
    policySince="2026-11-23T11:00:00Z",
    switchover={"id": "s1", "state": "done", "message": "to orders-1"},
    conditions=[
        {"type": "Ready", "status": "False", "reason": "Degraded", "message": "one is missing", "observedGeneration": 1,
         "lastTransitionTime": "2026-11-23T11:59:00Z"},
        {"type": "Archiving", "status": "True"},
    ],
)  # fmt: skip


def test_a_whole_database() -> None:
    text = status.render(
        FULL, [pod(1, "primary", restarts=2), pod(2, "replica", ready=False), pod(9, "")], LEASE_OBJECT, NOW
    )
    lines = text.splitlines()
    assert lines[0] == "Database shop/orders: thing 17.2, Running"
    assert lines[1] == "primary orders-1 (term 3), ready 2/3, incarnation 0123456789ab"
    rows = {line.split()[0]: line.split() for line in lines if line.startswith("orders-")}
    # The Pod's label is fresher than the status, which still said replica.
    assert rows["orders-1"] == ["orders-1", "primary", "running", "yes", "node-1", "2", "0/5", "-", "-"]
    assert rows["orders-2"] == ["orders-2", "replica", "running", "no", "node-2", "0", "-", "1.2", "s", "slow"]
    assert rows["orders-3"][:5] == ["orders-3", "-", "no", "Pod", "no"]
    assert rows["orders-9"][-5:] == ["not", "in", "the", "status", "yet"]
    assert "Window       2026-11-20T12:00:00Z to 2026-11-23T11:59:58Z (2 s ago)" in lines
    assert "Last commit  2026-11-23T11:57:00Z (3 min ago)" in lines
    assert "Last backup  2026-11-23T09:00:00Z (3 h ago)" in lines
    assert "RPO          3 s" in lines
    assert "Policy       NOT satisfied since 2026-11-23T11:00:00Z" in lines
    assert "Switchover   s1: done to orders-1" in lines
    assert "one is missing (of an older specification)" in text
    assert "60 s ago" in text


def test_a_database_that_nobody_has_seen_yet() -> None:
    text = status.render(database(), [], None, NOW)
    assert "thing 17, not seen yet" in text
    assert "no instances yet" in text
    assert "nothing can be restored yet" in text


def test_a_paused_one_without_a_primary() -> None:
    one = database(policySatisfied=True)
    one["spec"]["paused"] = True
    lease = {"metadata": {"name": "x"}, "spec": {}}
    text = status.render(one, [], lease, NOW)
    assert "primary nobody, paused" in text
    assert "Policy       satisfied" in text


def test_what_agents_say_now_goes_before_the_status() -> None:
    live = {
        "orders-1": {"yoban_archive_window_age_seconds": 2.04, "yoban_archive_backlog": 0.0},
        "orders-2": {"yoban_replication_lag_seconds": 0.5},
        "orders-3": {},
    }
    lines = status.render(FULL, [pod(1, "primary"), pod(2, "replica")], LEASE_OBJECT, NOW, live).splitlines()
    assert next(line for line in lines if line.startswith("orders-2")).split()[7:9] == ["0.5", "s"]
    assert "Archive      everything is stored; restorable to 2.0 s ago (by orders-1, now)" in lines
    failing = {
        "yoban_archive_window_age_seconds": 61.0,
        "yoban_archive_lag_seconds": 60.0,
        "yoban_archive_backlog": 3.0,
        "yoban_archive_failing_seconds": 59.0,
        "yoban_archive_backlog_size_bytes": float(3 << 30),
        "yoban_log_volume_limit_bytes": float(4 << 30),
        "yoban_log_volume_full_seconds": 7200.0,
    }
    text = status.render(FULL, [], None, NOW, {"orders-1": failing})
    assert "Archive      60.0 s behind, 3 segments wait, failing for 59 s; restorable to 61.0 s ago" in text
    kept = (
        "Log kept     3.0 GiB not stored, of 4.0 GiB that the volume can hold, full in about 2h00m (by orders-1, now)"
    )
    assert kept in text


def test_a_page_of_metrics_is_read() -> None:
    page = '# HELP yoban_a x\nyoban_a 1.5\nyoban_b{c="d"} 2\nother 3\nyoban_bad x\n\n'
    assert status.parse(page) == {"yoban_a": 1.5}


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        ("2026-11-23T12:00:05Z", "just now"),
        ("2026-11-23T11:58:01Z", "119 s ago"),
        ("2026-11-23T10:00:00Z", "2 h ago"),
        ("2026-11-20T12:00:00+00:00", "3 d ago"),
    ],
)
def test_how_long_ago(moment: str, text: str) -> None:
    assert status.ago(moment, NOW) == text


def test_the_command_reads_database_lease_and_pods(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Pages(Cluster):
        async def pod_page(self, namespace: str, pod: str, port: int, path: str) -> bytes:
            assert (namespace, port, path) == ("shop", 9187, "metrics")
            if pod == "orders-2-0":
                raise Unavailable("forbidden")
            return b"yoban_archive_window_age_seconds 3\n"

    @asynccontextmanager
    async def connect(_: Any) -> AsyncIterator[Cluster]:
        server = FakeApiServer()
        server.register(status.DATABASE)
        server.put(status.DATABASE, FULL)
        server.put(LEASE, LEASE_OBJECT)
        server.put(POD, pod(1, "primary"))
        server.put(POD, pod(2, "replica"))
        async with Client(server) as client:
            yield Pages(client, "shop")

    monkeypatch.setattr(status, "connect", connect)
    assert kubectl_main(["status", "orders"]) == 0
    shown = capsys.readouterr().out
    assert "primary orders-1 (term 3)" in shown
    assert "restorable to 3.0 s ago (by orders-1, now)" in shown
    assert kubectl_main(["status", "nope"]) == 1
    assert "nope" in capsys.readouterr().err
