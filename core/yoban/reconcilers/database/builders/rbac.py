"""What an instance's agent may do in the cluster: the Lease of its Database, and the labels of its Pods. Nothing
else.

Guarantees: verbs are those of DESIGN section 6, on objects by name. No token is mounted but the Pod's own projected
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yoban.reconcilers.database.builders.names import Names

_RBAC = "rbac.authorization.k8s.io"


def service_account(names: Names, engine: str) -> dict[str, Any]:
    """The ServiceAccount of all instances."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(names, engine),
        "automountServiceAccountToken": False,
    }


def role(names: Names, engine: str, numbers: Sequence[int]) -> dict[str, Any]:
    """The Role; `numbers` are those of the instances whose Pods it names (an empty rule would mean all Pods)."""
    rules: list[dict[str, Any]] = [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": [names.lease],
            "verbs": ["get", "update", "patch"],
        }
    ]
    if numbers:
        pods = [names.pod(number) for number in sorted(numbers)]
        rules.append({"apiGroups": [""], "resources": ["pods"], "resourceNames": pods, "verbs": ["get", "patch"]})
    return {"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": _metadata(names, engine), "rules": rules}


def role_binding(names: Names, engine: str) -> dict[str, Any]:
    """The RoleBinding of the two."""
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": _metadata(names, engine),
        "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": names.account},
        "subjects": [{"kind": "ServiceAccount", "name": names.account, "namespace": names.namespace}],
    }


def _metadata(names: Names, engine: str) -> dict[str, Any]:
    return {"name": names.account, "namespace": names.namespace, "labels": names.labels(engine)}
