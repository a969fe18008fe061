"""The Pod of an instance: an unmodified engine image, run by the supervisor that an init container brings along.

Guarantees: admitted under the restricted Pod Security standard, with a read-only root besides; the engine's uid and
gid; no token but a projected, short-lived one; nothing in it that changes when a policy, store, certificate or
password does (those are mounted), so that only a change of the specification, or an update its owner asked for,
restarts a server. Form 1 is kept as long as a StatefulSet may be pinned to it.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Any

import msgspec

from yoban.model.instance import (
    ACCOUNTS_DIR,
    CONTROL_PORT,
    METRICS_PORT,
    PROBE_PORT,
    RUN_DIR,
    SOURCE_DIR,
    SPEC_DIR,
    STORE_DIR,
    TLS_DIR,
)
from yoban.reconcilers.database.builders.blueprint import Blueprint, Runtime
from yoban.reconcilers.database.builders.quantity import amount

RUNTIME_DIR = "/opt/yoban"
INSTALL_DIR = "/runtime"
TOKEN_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - the well-known path, no secret
ENGINE_CONTAINER = "server"
TEMPLATE_ANNOTATION = "yoban.dev/template"
"""On the Pod template: a digest of it, by which a Pod is known to be outdated."""
FORM = 1
_READ = 0o440
_PYTHON = (f"{RUNTIME_DIR}/bin/ld.so", "--library-path", f"{RUNTIME_DIR}/lib", f"{RUNTIME_DIR}/bin/python3")
_PYTHON_ENV = {
    "PYTHONHOME": RUNTIME_DIR,
    "PYTHONPATH": f"{RUNTIME_DIR}/lib/site",
    "PYTHONTZPATH": f"{RUNTIME_DIR}/share/zoneinfo",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONUTF8": "1",
    "SSL_CERT_FILE": f"{RUNTIME_DIR}/etc/ssl/cert.pem",
    "OPENSSL_CONF": f"{RUNTIME_DIR}/etc/ssl/openssl.cnf",
}
"""The interpreter finds everything in the runtime, and nothing of the engine's image."""


def pod_template(blueprint: Blueprint, number: int, runtime: Runtime) -> dict[str, Any]:
    """The template of instance `number`, with its own digest among the annotations."""
    names, placement = blueprint.names, blueprint.placement
    spec: dict[str, Any] = {
        "serviceAccountName": names.account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": placement.termination_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": blueprint.layout.uid,
            "runAsGroup": blueprint.layout.gid,
            "fsGroup": blueprint.layout.gid,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": dict(placement.affinity) if placement.affinity else _apart(blueprint),
        "initContainers": [_installer(runtime)],
        "containers": [_server(blueprint, number, runtime)],
        "volumes": _volumes(blueprint, number),
    }
    if placement.node_selector:
        spec["nodeSelector"] = dict(placement.node_selector)
    if placement.tolerations:
        spec["tolerations"] = [dict(entry) for entry in placement.tolerations]
    if placement.topology_spread:
        spread = {"labelSelector": {"matchLabels": names.selector}}
        spec["topologySpreadConstraints"] = [{**spread, **entry} for entry in placement.topology_spread]
    if placement.priority_class:
        spec["priorityClassName"] = placement.priority_class
    if placement.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in placement.pull_secrets]
    own = names.instance_labels(blueprint.engine, number)
    metadata: dict[str, Any] = {
        "labels": {**placement.labels, **own},
        "annotations": {**placement.annotations, "kubectl.kubernetes.io/default-container": ENGINE_CONTAINER},
    }
    encoded = msgspec.json.encode([metadata, spec], order="sorted")
    metadata["annotations"][TEMPLATE_ANNOTATION] = hashlib.sha256(encoded).hexdigest()[:16]
    return {"metadata": metadata, "spec": spec}


def passwd(blueprint: Blueprint) -> str:
    """The passwd file that is mounted, since the image need not know the uid."""
    layout = blueprint.layout
    return (
        "root:x:0:0:root:/root:/sbin/nologin\n"
        f"{layout.user}:x:{layout.uid}:{layout.gid}:{layout.user}:{layout.home}:/sbin/nologin\n"
    )


def group(blueprint: Blueprint) -> str:
    """The group file that is mounted."""
    return f"root:x:0:\n{blueprint.layout.group}:x:{blueprint.layout.gid}:\n"


def _installer(runtime: Runtime) -> dict[str, Any]:
    return {
        "name": "install",
        "image": runtime.image,
        **({"imagePullPolicy": runtime.pull_policy} if runtime.pull_policy else {}),
        "command": [*_PYTHON, "-m", "yoban.cli.main", "install", INSTALL_DIR],
        "env": _literals(_PYTHON_ENV),
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": _restricted(),
        "volumeMounts": [{"name": "runtime", "mountPath": INSTALL_DIR}],
    }


def _server(blueprint: Blueprint, number: int, runtime: Runtime) -> dict[str, Any]:
    layout, placement = blueprint.layout, blueprint.placement
    resources = {
        name: dict(values)
        for name, values in (("requests", blueprint.resources.requests), ("limits", blueprint.resources.limits))
        if values
    }
    return {
        "name": ENGINE_CONTAINER,
        "image": blueprint.image,
        **({"imagePullPolicy": placement.pull_policy} if placement.pull_policy else {}),
        "command": [*_PYTHON, "-m", "yoban.agent.supervisor"],
        "env": _environment(blueprint, number, runtime),
        "ports": [
            _port(layout.port_name, layout.port),
            _port("probes", PROBE_PORT),
            _port("metrics", METRICS_PORT),
            _port("control", CONTROL_PORT),
        ],
        "resources": resources,
        "securityContext": _restricted(),
        # The agent may be replaced while the server runs on, so liveness is patient; it never asks anybody else.
        "startupProbe": _probe("/startupz", period=2, failures=60, timeout=3),
        "livenessProbe": _probe("/livez", period=10, failures=6, timeout=5),
        # As long as an agent that froze needs to be found (6 s), ended and started: its server serves all the while, and
        # a Service without an endpoint would refuse new connections.
        "readinessProbe": _probe("/readyz", period=3, failures=6, timeout=3),
        "volumeMounts": _mounts(blueprint),
    }


def _environment(blueprint: Blueprint, number: int, runtime: Runtime) -> list[dict[str, Any]]:
    limits = blueprint.resources.limits
    memory = int(amount(limits["memory"])) if "memory" in limits else 0
    cpus = float(amount(limits["cpu"])) if "cpu" in limits else 0.0
    own = {
        "YOBAN_INSTANCE": blueprint.names.instance(number),
        "YOBAN_INSTANCE_NUMBER": str(number),
        "YOBAN_DATABASE": blueprint.names.database,
        "YOBAN_MEMORY": str(memory),
        "YOBAN_CPUS": f"{cpus:g}",
        "YOBAN_GRACE_SECONDS": str(blueprint.placement.termination_seconds),
        "YOBAN_LOG_VOLUME": "1" if _has_log(blueprint) else "",
        **_PYTHON_ENV,
    }
    return [
        _downward("YOBAN_POD", "metadata.name"),
        _downward("YOBAN_POD_UID", "metadata.uid"),
        _downward("YOBAN_NAMESPACE", "metadata.namespace"),
        *_literals({**{name: runtime.env[name] for name in sorted(runtime.env)}, **own}),
    ]


def _downward(name: str, field: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": field}}}


def _has_log(blueprint: Blueprint) -> bool:
    return blueprint.log is not None and blueprint.layout.log_mount is not None


def _literals(values: dict[str, str]) -> list[dict[str, Any]]:
    # The server drops an empty value, which would look like drift for ever.
    return [{"name": name, "value": value} for name, value in values.items() if value]


def _port(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def _probe(path: str, *, period: int, failures: int, timeout: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "probes", "scheme": "HTTP"},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": timeout,
    }


def _restricted() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _apart(blueprint: Blueprint) -> dict[str, Any]:
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": blueprint.names.selector}}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def _writable(blueprint: Blueprint) -> list[tuple[str, PurePosixPath]]:
    return [(f"writable-{n}", path) for n, path in enumerate(blueprint.layout.writable)]


def _mounts(blueprint: Blueprint) -> list[dict[str, Any]]:
    layout = blueprint.layout
    mounts: list[dict[str, Any]] = [{"name": "data", "mountPath": str(layout.data_mount)}]
    if _has_log(blueprint):
        mounts.append({"name": "log", "mountPath": str(layout.log_mount)})
    for name, path in (
        ("runtime", RUNTIME_DIR),
        ("spec", SPEC_DIR),
        ("accounts", ACCOUNTS_DIR),
        ("tls", TLS_DIR),
        ("store", STORE_DIR),
        ("source", SOURCE_DIR),
        ("token", TOKEN_DIR),
    ):
        mounts.append({"name": name, "mountPath": path, "readOnly": True})
    mounts += [
        {"name": "run", "mountPath": RUN_DIR},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a mount of the Pod's own
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - likewise
        {"name": "spec", "mountPath": "/etc/passwd", "subPath": "passwd", "readOnly": True},
        {"name": "spec", "mountPath": "/etc/group", "subPath": "group", "readOnly": True},
        *({"name": name, "mountPath": str(path)} for name, path in _writable(blueprint)),
    ]
    return mounts


def _volumes(blueprint: Blueprint, number: int) -> list[dict[str, Any]]:
    names = blueprint.names
    volumes: list[dict[str, Any]] = [_claimed("data", names.data(number))]
    if _has_log(blueprint):
        volumes.append(_claimed("log", names.log(number)))
    volumes += [
        {"name": "spec", "configMap": {"name": names.spec, "defaultMode": 0o444}},
        _secret("accounts", names.accounts),
        _secret("tls", names.tls(number)),
        _secret("store", names.store),
        _secret("source", names.source),
        _token(),
        *({"name": name, "emptyDir": {}} for name in ("runtime", "run", "tmp")),
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        *({"name": name, "emptyDir": {}} for name, _ in _writable(blueprint)),
    ]
    return volumes


def _claimed(name: str, claim: str) -> dict[str, Any]:
    return {"name": name, "persistentVolumeClaim": {"claimName": claim}}


def _secret(name: str, secret: str) -> dict[str, Any]:
    return {"name": name, "secret": {"secretName": secret, "defaultMode": _READ}}


def _token() -> dict[str, Any]:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]
    return {"name": "token", "projected": {"defaultMode": _READ, "sources": sources}}
