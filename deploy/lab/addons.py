"""What a cluster needs besides Kubernetes: names for services, and volumes.

CoreDNS, the local-path provisioner and the resizer run on the host's side, where no test cuts them off; their objects
are applied. Volumes are `local` volumes on the node where the Pod was placed. StorageClass `lab-local` is the default,
volumes of `lab-expandable` can grow.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from deploy.lab import binaries, images, layout, network, resizer, state
from deploy.lab.controlplane import ControlPlane
from deploy.lab.failure import LabError
from deploy.lab.kubectl import kubectl
from deploy.lab.layout import BRIDGE_ADDRESS
from deploy.lab.process import spawn, stop, tail, wait_until
from deploy.lab.store import accepts

NAMES = ("coredns", "local-path-provisioner", "resizer")
STORAGE_CLASS = "lab-local"
EXPANDABLE_CLASS = resizer.STORAGE_CLASS
_NAMESPACE = "local-path-storage"
_ACCOUNT = "local-path-provisioner-service-account"  # the provisioner's own default
_VOLUMES = "/var/lib/yoban-volumes"


def running() -> bool:
    """Whether both programs run."""
    return all(state.alive(name) for name in NAMES)


def ensure(plane: ControlPlane) -> None:
    """Apply the objects and start what does not run."""
    kubectl(plane.kubeconfig, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(objects()))
    for name, command in zip(NAMES, (_dns(plane), _provisioner(plane), _resizer(plane)), strict=True):
        if not state.alive(name):
            state.record(name, spawn(command, _log(name), environment={"PYTHONPATH": str(layout.REPOSITORY)}))
    if not wait_until(lambda: accepts(BRIDGE_ADDRESS, network.DNS_PORT), 20):
        raise LabError(f"CoreDNS does not listen:\n{tail(_log('coredns'))}")


def stop_all() -> None:
    """End both programs. May be called twice."""
    stop([process for name in NAMES if (process := state.recorded(name)) is not None], grace=1.0)
    for name in NAMES:
        state.forget(name)


def objects() -> dict[str, Any]:
    """All Kubernetes objects of the lab itself, as a List."""
    items = [*_dns_objects(), *_storage_objects()]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _dns_objects() -> list[dict[str, Any]]:
    ports = [{"name": "dns", "protocol": "UDP"}, {"name": "dns-tcp", "protocol": "TCP"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {
            "clusterIP": layout.SERVICE_DNS,
            "ports": [{**port, "port": 53, "targetPort": network.DNS_PORT} for port in ports],
        },
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-host",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [BRIDGE_ADDRESS], "conditions": {"ready": True}}],
        "ports": [{**port, "port": network.DNS_PORT} for port in ports],
    }
    return [service, endpoints]


def _storage_objects() -> list[dict[str, Any]]:
    helper = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "helper-pod"},
        "spec": {
            "priorityClassName": "system-node-critical",
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "helper-pod", "image": images.TOY, "imagePullPolicy": "Never"}],
        },
    }
    config = {"nodePathMap": [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [_VOLUMES]}]}
    data = {
        "config.json": json.dumps(config),
        "setup": '#!/bin/sh\nset -eu\nmkdir -m 0777 -p "$VOL_DIR"\n',
        "teardown": '#!/bin/sh\nset -eu\nrm -rf "$VOL_DIR"\n',
        "helperPod.yaml": json.dumps(helper),
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": _ACCOUNT, "namespace": _NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "local-path-config", "namespace": _NAMESPACE},
            "data": data,
        },
        _storage_class(STORAGE_CLASS, default=True, expandable=False),
        _storage_class(EXPANDABLE_CLASS, default=False, expandable=True),
    ]


def _storage_class(name: str, *, default: bool, expandable: bool) -> dict[str, Any]:
    # `local` rather than hostPath: only such a volume gets the Pod's fsGroup, without which a server that is not
    # root could not write to it.
    annotations = {"defaultVolumeType": "local"}
    if default:
        annotations["storageclass.kubernetes.io/is-default-class"] = "true"
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": annotations},
        "provisioner": "rancher.io/local-path",
        "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": "Delete",
        "allowVolumeExpansion": expandable,
    }


def _dns(plane: ControlPlane) -> list[str | Path]:
    file = plane.folder / "Corefile"
    file.write_text(f"""{layout.DOMAIN}:{network.DNS_PORT} in-addr.arpa:{network.DNS_PORT} {{
  bind {BRIDGE_ADDRESS}
  errors
  kubernetes {layout.DOMAIN} in-addr.arpa {{
    kubeconfig {plane.client("coredns", "coredns", ("system:masters",))}
    pods insecure
    ttl 1
  }}
}}
.:{network.DNS_PORT} {{
  bind {BRIDGE_ADDRESS}
  template ANY ANY . {{
    rcode NXDOMAIN
  }}
}}
""")
    return [binaries.path("coredns"), "-conf", file]


def _provisioner(plane: ControlPlane) -> list[str | Path]:
    return [
        binaries.path("local-path-provisioner"),
        "start",
        "--kubeconfig",
        plane.client("provisioner", "provisioner", ("system:masters",)),
        "--namespace",
        _NAMESPACE,
        "--helper-image",
        images.TOY,
        "--service-account-name",
        _ACCOUNT,
    ]


def _resizer(plane: ControlPlane) -> list[str | Path]:
    return [
        sys.executable,
        "-m",
        "deploy.lab.resizer",
        plane.url,
        plane.authority.certificate,
        plane.token_file,
    ]


def _log(name: str) -> Path:
    return state.log_folder(layout.lab_root()) / f"{name}.log"
