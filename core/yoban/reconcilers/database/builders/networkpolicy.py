"""The NetworkPolicy: who may reach an instance, and on which port.

Guarantees: nothing is let in but the server's port from the cluster, metrics and probes, and the control API from the
operator and from peers. Does not limit what instances reach themselves: stores may be anywhere.
"""

from __future__ import annotations

from typing import Any

from yoban.model.instance import CONTROL_PORT, METRICS_PORT, PROBE_PORT
from yoban.reconcilers.database.builders.blueprint import Blueprint

OPERATOR_SELECTOR = {"app.kubernetes.io/name": "yoban", "app.kubernetes.io/component": "operator"}
"""Labels of the operator's Pods, as the chart sets them."""


def network_policy(blueprint: Blueprint) -> dict[str, Any]:
    """The policy of all instances."""
    names = blueprint.names
    peers: dict[str, Any] = {"podSelector": {"matchLabels": names.selector}}
    operator: dict[str, Any] = {"podSelector": {"matchLabels": OPERATOR_SELECTOR}}
    if blueprint.operator_namespace:
        operator["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": blueprint.operator_namespace}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": names.account, "namespace": names.namespace, "labels": blueprint.labels},
        "spec": {
            "podSelector": {"matchLabels": names.selector},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [_port(blueprint.layout.port)], "from": [{"namespaceSelector": {}}]},
                # The kubelet's probes come from the node's own address, which no selector names.
                {"ports": [_port(PROBE_PORT), _port(METRICS_PORT)]},
                {"ports": [_port(CONTROL_PORT)], "from": [operator, peers]},
            ],
        },
    }


def _port(number: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": number}
