"""The configuration files of one node: containerd, CNI, kubelet. Pure functions; paths are those inside the node.

Inside a node (see `node`) its own folder is at `/mnt/node` and the cache at `/mnt/cache`.
"""

from __future__ import annotations

import json
from typing import Any

from deploy.lab import layout
from deploy.lab.cgroups import kubelet_root
from deploy.lab.images import PAUSE

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"


def containerd() -> str:
    """config.toml of containerd 1.6."""
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Without CAP_SYS_RESOURCE a score may only be raised.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/mnt/node/etc/cni"
"""


def cni(number: int) -> dict[str, Any]:
    """The Pod network: a bridge inside the node, addresses by host-local, whose state is keyed by this name."""
    return {
        "cniVersion": "0.4.0",
        "name": f"yoban-{layout.node_name(number)}",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": layout.pod_network(number)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": "/run/cni",
                },
            }
        ],
    }


def kubelet(number: int) -> dict[str, Any]:
    """KubeletConfiguration; see reference/lab.md for what each exception is for."""
    return {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": "/mnt/node/etc/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": "/mnt/node/etc/kubelet.crt",
        "tlsPrivateKeyFile": "/mnt/node/etc/kubelet.key",
        "address": layout.node_address(number),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": kubelet_root(number),
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        "podLogsDir": "/var/log/pods",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "clusterDNS": [layout.SERVICE_DNS],
        "clusterDomain": layout.DOMAIN,
        # An empty file: Pods get the cluster's names and no outside DNS.
        "resolvConf": "/mnt/node/etc/resolv.conf",
        # Images come by import only: none may be collected, and the machine's disk is not the node's to judge.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "64Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "maxPods": 100,
        # A lost node is to be noticed in seconds: tests wait for it.
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 8,
        "syncFrequency": "10s",
    }


def as_json(content: dict[str, Any]) -> str:
    """JSON, which all of these programs read in place of YAML."""
    return json.dumps(content, indent=1) + "\n"
