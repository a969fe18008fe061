"""Where the lab keeps things, and the numbers that are fixed. Guarantees nothing about whether they exist.

Addresses are of the benchmarking range 198.18.0.0/15 (RFC 2544): it is never anybody's real network.
"""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
"""The work tree."""

RUN = Path("/run/yoban-lab")
"""State of the running lab: pid records, sockets, certificates. Gone after a reboot, as the processes are."""

BRIDGE = "yoban0"
BRIDGE_ADDRESS = "198.18.255.254"
"""The host's side of the bridge: API server, object store and fault proxies listen there."""

NODE_NETWORK = "198.18.255.0/24"
POD_NETWORK = "198.18.0.0/20"
"""All Pods; node N has 198.18.N.0/24 of it."""

LAB_NETWORK = "198.18.0.0/15"
SERVICE_NETWORK = "198.19.0.0/16"
SERVICE_API = "198.19.0.1"
SERVICE_DNS = "198.19.0.10"
DOMAIN = "cluster.local"

NODES = (1, 2, 3)
API_PORT = 6443
STORE_PORT = 9000
STORE_TLS_PORT = 9443
STORE_BACKEND_PORTS = (9700, 9701)
"""Loopback ports of the S3 servers behind the store's delaying front."""


def cache() -> Path:
    """`$YOBAN_CACHE`, or `~/.cache/yoban`: binaries, images and the lab's bulky state."""
    given = os.environ.get("YOBAN_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "yoban"


def binary_folder() -> Path:
    """Built programs, each named `<name>-<version>`."""
    return cache() / "bin"


def lab_root() -> Path:
    """Bulky state of the lab cluster: images in the nodes, volumes, etcd."""
    return cache() / "lab"


def node_name(number: int) -> str:
    """The Kubernetes name and the network namespace's suffix of node `number`."""
    return f"node-{number}"


def node_address(number: int) -> str:
    """The address of node `number` on the bridge."""
    return f"198.18.255.{number}"


def pod_network(number: int) -> str:
    """The Pods' addresses on node `number`."""
    return f"198.18.{number}.0/24"
