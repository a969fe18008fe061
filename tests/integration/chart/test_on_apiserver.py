"""The chart's objects on a real API server: accepted, restricted, and the agents' policy does what it says."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from deploy.lab.apiserver import LocalApiServer

pytestmark = pytest.mark.server

Render = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def namespace(local_apiserver: LocalApiServer) -> str:
    """A namespace of its own in which only restricted Pods are let in."""
    name = f"chart-{uuid.uuid4().hex[:8]}"
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    apply(local_apiserver, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    return name


def apply(api: LocalApiServer, *objects: dict[str, Any]) -> str:
    return api.kubectl(
        "apply", "--server-side", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    )


@pytest.mark.parametrize("mode", ["cluster", "namespaced"])
def test_every_object_is_accepted(local_apiserver: LocalApiServer, render: Render, namespace: str, mode: str) -> None:
    values = {"settings": {"workers": 4}, **({"namespaces": [namespace]} if mode == "namespaced" else {})}
    for one in render(values):
        if one["metadata"].get("namespace") == "yoban-system":
            one["metadata"]["namespace"] = namespace
        local_apiserver.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=json.dumps(one))


def test_the_operator_pod_is_restricted(local_apiserver: LocalApiServer, render: Render, namespace: str) -> None:
    deployment = next(one for one in render() if one["kind"] == "Deployment")
    template = deployment["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "op", "namespace": namespace},
        "spec": template["spec"],
    }
    apply(
        local_apiserver,
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "yoban-operator", "namespace": namespace}},
        pod,
    )
    container = template["spec"]["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


class Agent:
    """Somebody with an agent's rights, on a Pod of its Database."""

    def __init__(self, api: LocalApiServer, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def patch(self, patch: dict[str, Any], *, account: str = "orders") -> str:
        """Patch the Pod as that ServiceAccount; "" when it was let through, else what the API server said."""
        try:
            self.api.kubectl(
                "patch", "pod", "orders-1-0", "-n", self.namespace, "--type=strategic", "-p", json.dumps(patch),
                f"--as=system:serviceaccount:{self.namespace}:{account}",
            )  # fmt: skip
        except Exception as error:
            return str(error)
        return ""


@pytest.fixture(scope="module")
def agent(local_apiserver: LocalApiServer, render: Render, namespace: str) -> Iterator[Agent]:
    release = f"yoban-{namespace}"
    policy = [one for one in render({"namespaces": [namespace]}, release=release) if "AdmissionPolicy" in one["kind"]]
    meta = {"name": "orders", "namespace": namespace}
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "patch"]}]
    group = "rbac.authorization.k8s.io"
    apply(
        local_apiserver,
        *policy,
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "orders"},
            "subjects": [
                {"kind": "ServiceAccount", "name": name, "namespace": namespace} for name in ("orders", "other")
            ],
        },
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "orders-1-0",
                "namespace": namespace,
                "labels": {"yoban.dev/database": "orders", "yoban.dev/instance": "orders-1", "app": "x"},
                "annotations": {"a": "b"},
            },
            "spec": {
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 999,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "server",
                        "image": "x",
                        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    }
                ],
            },
        },
    )
    found = Agent(local_apiserver, namespace)
    wait_until_enforced(found)
    yield found
    names = [f"{one['kind']}/{one['metadata']['name']}".lower() for one in policy]
    local_apiserver.kubectl("delete", *names)


def wait_until_enforced(agent: Agent) -> None:
    """A new policy takes the API server a moment: ask for something forbidden until it is refused."""
    import time

    end = time.monotonic() + 60
    while not agent.patch({"metadata": {"annotations": {"probe": str(time.monotonic())}}}):
        assert time.monotonic() < end, "the policy is not enforced after 60 s"
        time.sleep(0.5)
    agent.api.kubectl("annotate", "pod", "orders-1-0", "-n", agent.namespace, "probe-")


def test_an_agent_may_set_the_role_label(agent: Agent) -> None:
    for role in ("primary", "replica", "recovery", "", None):
        assert agent.patch({"metadata": {"labels": {"yoban.dev/role": role}}}) == ""


@pytest.mark.parametrize(
    ("patch", "what"),
    [
        ({"metadata": {"labels": {"yoban.dev/role": "king"}}}, "the label yoban.dev/role is"),
        ({"metadata": {"labels": {"app": "y"}}}, "changes another label"),
        ({"metadata": {"labels": {"app": None}}}, "changes another label"),
        ({"metadata": {"labels": {"new": "y"}}}, "changes another label"),
        ({"metadata": {"annotations": {"a": "c"}}}, "changes annotations"),
        ({"metadata": {"annotations": {"a": None}}}, "changes annotations"),
        ({"metadata": {"finalizers": ["yoban.dev/x"]}}, "changes owners or finalizers"),
        ({"spec": {"containers": [{"name": "server", "image": "evil"}]}}, "changes the specification"),
        ({"spec": {"activeDeadlineSeconds": 1}}, "changes the specification"),
    ],
)
def test_an_agent_may_change_nothing_else(agent: Agent, patch: dict[str, Any], what: str) -> None:
    assert what in agent.patch(patch)


def test_others_are_not_concerned(agent: Agent) -> None:
    assert agent.patch({"metadata": {"labels": {"app": "z"}}}, account="other") == ""
