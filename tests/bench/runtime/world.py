"""What all contestants share: one API server with etcd that syncs, the definition, a namespace and an account each."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.lab.apiserver import LocalApiServer
from deploy.lab.audit import AuditLog
from tests.bench.runtime.audit import policy

GROUP, PLURAL = "bench.example.dev", "cards"
_SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        "status": {
            "type": "object",
            "properties": {
                "observedGeneration": {"type": "integer"},
                "conditions": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["type"],
                    "items": {
                        "type": "object",
                        "required": ["type", "status"],
                        "properties": {
                            **{name: {"type": "string"} for name in ("type", "status", "reason", "message")},
                            "lastTransitionTime": {"type": "string", "format": "date-time"},
                            "observedGeneration": {"type": "integer"},
                        },
                    },
                },
            },
        },
    },
}
_DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"{PLURAL}.{GROUP}"},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"plural": PLURAL, "singular": "card", "kind": "Card"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": _SCHEMA},
            }
        ],
    },
}
_VERBS = ["get", "list", "watch", "create", "update", "patch", "delete"]
_ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "bench"},
    "rules": [
        {"apiGroups": [GROUP], "resources": [PLURAL, f"{PLURAL}/status"], "verbs": _VERBS},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": _VERBS},
    ],
}


class World:
    """A context manager; blocking. `namespaces` of the contestants, each with the account `operator`; one `shared`."""

    def __init__(self, namespaces: list[str], shared: str) -> None:
        self.namespaces, self._shared = namespaces, shared
        self._folder = tempfile.TemporaryDirectory(prefix="yoban-bench-runtime-")
        self.folder = Path(self._folder.name)
        log, rules = self.folder / "audit.log", self.folder / "policy.json"
        rules.write_text(policy(map(self.user, namespaces)))
        self.audit = AuditLog(log)
        self.api = LocalApiServer(
            fsync=True,
            extra=[
                f"--audit-policy-file={rules}",
                f"--audit-log-path={log}",
                "--audit-log-maxsize=8192",  # MB: one that is rotated is not followed
                "--delete-collection-workers=8",  # for the emptying between runs, which nobody measures
            ],
        )
        self.tokens: dict[str, Path] = {}

    def __enter__(self) -> Self:
        self.api.__enter__()
        try:
            self._furnish()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.api.close()
        self._folder.cleanup()

    @staticmethod
    def user(namespace: str) -> str:
        """The name by which the API server knows the contestant of that namespace."""
        return f"system:serviceaccount:{namespace}:operator"

    def _furnish(self) -> None:
        items: list[dict[str, object]] = [_DEFINITION, _ROLE]
        items.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self._shared}})
        for namespace in self.namespaces:
            subject = {"kind": "ServiceAccount", "name": "operator", "namespace": namespace}
            role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "bench"}
            items += [
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
                {
                    "apiVersion": "v1",
                    "kind": "ServiceAccount",
                    "metadata": {"name": "operator", "namespace": namespace},
                },
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "ClusterRoleBinding",
                    "metadata": {"name": namespace},
                    "subjects": [subject],
                    "roleRef": role,
                },
            ]
        self.api.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        self.api.kubectl("wait", "--for=condition=Established", f"crd/{PLURAL}.{GROUP}", "--timeout=60s")
        for namespace in self.namespaces:
            file = self.folder / f"{namespace}.token"
            file.touch(mode=0o600)
            file.write_text(self.api.service_account_token(namespace, "operator"))
            self.tokens[namespace] = file
