"""Databases and backups as gauges of the operator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from yoban.reconcilers import figures
from yoban.telemetry.setup import build


def page(databases: list[dict[str, Any]], backups: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    telemetry = build("yoban-operator", "", {})
    figures.observe(lambda: databases, lambda: backups, telemetry.meters.get_meter("t"))
    return {
        (sample.name.removeprefix("yoban_"), sample.labels["namespace"] + "/" + sample.labels["database"]): sample.value
        for family in text_string_to_metric_families(telemetry.metrics_text()[0].decode())
        for sample in family.samples
        if "database" in sample.labels
    }


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()


def test_databases() -> None:
    full = {
        "metadata": {"namespace": "shop", "name": "orders"},
        "spec": {"instances": 3},
        "status": {
            "conditions": [{"type": "Archiving", "status": "False"}, {"type": "Ready", "status": "True"}],
            "instances": [{"ready": True}, {"ready": True}, {"ready": False}],
            "window": {"start": ago(9000), "end": ago(10)},
            "policySatisfied": True,
        },
    }
    young = {"metadata": {"namespace": "shop", "name": "young"}, "spec": {}}
    found = page([full, young], [])
    assert found["database_ready", "shop/orders"] == 1
    assert found["database_instances", "shop/orders"] == 3
    assert found["database_instances_ready", "shop/orders"] == 2
    assert found["database_policy_satisfied", "shop/orders"] == 1
    assert 10 <= found["database_window_age_seconds", "shop/orders"] < 60
    assert {name: value for (name, whose), value in found.items() if whose == "shop/young"} == {
        "database_ready": 0, "database_instances": 1, "database_instances_ready": 0,
    }  # fmt: skip


def test_the_newest_completed_backup_counts() -> None:
    def backup(seconds: float, phase: str = "Completed", **status: Any) -> dict[str, Any]:
        return {
            "metadata": {"namespace": "shop", "name": f"b{seconds}"},
            "spec": {"database": "orders"},
            "status": {"phase": phase, "endTime": ago(seconds), **status},
        }

    newest = backup(100, bytes=5000, storedBytes=1000, frozenSeconds=0.25)
    running = {
        "metadata": {"namespace": "shop", "name": "r"},
        "spec": {"database": "orders"},
        "status": {"phase": "Running"},
    }
    orders = {"metadata": {"namespace": "shop", "name": "orders"}}
    every = [backup(900), newest, backup(500), backup(1, "Failed"), running, {"metadata": {"name": "x"}}]
    found = page([orders], every)
    assert 100 <= found["backup_age_seconds", "shop/orders"] < 150
    assert found["backup_size_bytes", "shop/orders"] == 5000
    assert found["backup_stored_bytes", "shop/orders"] == 1000
    assert found["backup_frozen_seconds", "shop/orders"] == 0.25
    assert len([name for name, _ in found if name.startswith("backup_")]) == 4
    assert ("backup_size_bytes", "shop/orders") not in page([orders], [backup(1)])
    assert page([], every) == {}, "backups of a Database that was deleted age for ever: nobody is to be woken"
