"""The agent's status as gauges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from yoban.agent import figures
from yoban.model.control import AgentStatus, ArchiveState, LeaseState, Problem, ReplicaState, ServerState
from yoban.telemetry.setup import build


def page(status: AgentStatus) -> dict[str, Any]:
    """Value by name, or by name and the only label's value."""
    telemetry = build("yoban-agent", "orders-1-0", {})
    figures.observe(lambda: status, telemetry.meters.get_meter("t"))
    found = {}
    for family in text_string_to_metric_families(telemetry.metrics_text()[0].decode()):
        for sample in family.samples:
            found[" ".join([sample.name.removeprefix("yoban_"), *sample.labels.values()])] = sample.value
    return {name: value for name, value in found.items() if not name.startswith("target_info")}


def test_an_agent_that_knows_nothing_yet_invents_nothing() -> None:
    assert page(AgentStatus()) == {
        "instance_ready": 0, "lease_held": 0, "archive_backlog": 0, "archive_backlog_size_bytes": 0,
        "archive_failing_seconds": 0,
    }  # fmt: skip


def test_a_primary() -> None:
    now = datetime.now(UTC)
    found = page(
        AgentStatus(
            ready=True,
            server=ServerState(
                role="primary", replicas=[ReplicaState(name="orders-2", streaming=True), ReplicaState(name="orders-3")]
            ),
            lease=LeaseState(holder="orders-1", held=True, term=3, expires_in=9.5),
            archive=ArchiveState(
                active=True,
                backlog=4,
                backlog_bytes=64,
                window_end=now - timedelta(seconds=30),
                failing_since=now - timedelta(seconds=60),
                free_bytes=1000,
                limit_bytes=1064,
                full_in_seconds=50.0,
            ),
            problems=[Problem(reason="ArchiveFailing", message=""), Problem(reason="ArchiveFailing", message="")],
        )
    )
    assert (found["instance_ready"], found["instance_role primary"]) == (1, 1)
    assert (found["replication_streaming orders-2"], found["replication_streaming orders-3"]) == (1, 0)
    assert (found["lease_held"], found["lease_term"], found["lease_expires_seconds"]) == (1, 3, 9.5)
    assert (found["archive_backlog"], found["archive_backlog_size_bytes"]) == (4, 64)
    assert 29 < found["archive_window_age_seconds"] < 60
    assert 59 < found["archive_failing_seconds"] < 90
    assert (found["log_volume_free_bytes"], found["log_volume_limit_bytes"]) == (1000, 1064)
    assert found["log_volume_full_seconds"] == 50.0
    assert found["instance_problems ArchiveFailing"] == 2
    assert "replication_lag_seconds" not in found


def test_a_replica() -> None:
    found = page(AgentStatus(server=ServerState(role="replica", lag_seconds=1.5)))
    assert found["replication_lag_seconds"] == 1.5
    assert found["instance_role replica"] == 1
    assert "replication_lag_seconds" not in page(AgentStatus(server=ServerState(role="replica")))
