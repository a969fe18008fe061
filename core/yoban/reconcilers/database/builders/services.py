"""The Services of a Database: read-write, read-only, any, and the headless one of the peers.

Guarantees: `-rw` reaches the one Pod that its agent labelled primary, `-ro` replicas, `-r` all; only ready Pods, but
for the peers, which must find each other before they are ready. Does not fence: a label may be late, and the server
fences itself.
"""

from __future__ import annotations

from typing import Any

from yoban.model.instance import CONTROL_PORT, METRICS_PORT
from yoban.reconcilers.database.builders.blueprint import Blueprint


def services(blueprint: Blueprint) -> list[dict[str, Any]]:
    """All Services, in a fixed order."""
    names = blueprint.names
    return [
        _service(blueprint, names.peers, names.selector, headless=True),
        _service(blueprint, names.read_write, names.role_selector("primary")),
        _service(blueprint, names.read_only, names.role_selector("replica")),
        _service(blueprint, names.read_any, names.selector),
    ]


def _service(blueprint: Blueprint, name: str, selector: dict[str, str], *, headless: bool = False) -> dict[str, Any]:
    layout = blueprint.layout
    ports = [_port(layout.port_name, layout.port)]
    spec: dict[str, Any] = {"type": "ClusterIP", "selector": selector}
    if headless:
        ports += [_port("control", CONTROL_PORT), _port("metrics", METRICS_PORT)]
        spec |= {"clusterIP": "None", "publishNotReadyAddresses": True}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": blueprint.names.namespace, "labels": blueprint.labels},
        "spec": {**spec, "ports": ports},
    }


def _port(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "port": number, "targetPort": name, "protocol": "TCP"}
