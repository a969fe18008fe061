"""The PodDisruptionBudget: voluntary disruptions take one instance at a time."""

from __future__ import annotations

from typing import Any

from yoban.reconcilers.database.builders.blueprint import Blueprint


def disruption_budget(blueprint: Blueprint) -> dict[str, Any]:
    """The budget of all instances. A lone instance may be evicted too, and one that is not ready: else a node could never
    be drained."""
    names = blueprint.names
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": names.account, "namespace": names.namespace, "labels": blueprint.labels},
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": names.selector},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
