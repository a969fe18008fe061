"""Faults of the lab on purpose: nodes cut off, frozen and killed, the object store slow or gone.

Guarantees that each fault has its end (`heal`, `thaw`, `restart`, `store_start`, `store_slow(0)`) and that `up` ends all but
the slowness. Faults are of the lab's own cluster only.
"""

from __future__ import annotations

from deploy.lab import cgroups, network
from deploy.lab.certificates import Authority
from deploy.lab.controlplane import ControlPlane
from deploy.lab.layout import lab_root
from deploy.lab.node import Node
from deploy.lab.object_store import ObjectStore


def cut(number: int) -> None:
    """Cut a node off the network: packets vanish, Pods on it see each other and nothing else."""
    network.set_cable(Node(number).number, up=False)


def heal(number: int) -> None:
    """End of `cut`."""
    network.set_cable(Node(number).number, up=True)


def freeze(number: int) -> None:
    """Stop every process of a node at once, containers included, as a stalled virtual machine. Clocks go on."""
    cgroups.freeze(Node(number).number, frozen=True)


def thaw(number: int) -> None:
    """End of `freeze`."""
    cgroups.freeze(Node(number).number, frozen=False)


def kill(number: int) -> None:
    """Pull a node's plug: everything on it ends at once, its disk stays."""
    Node(number).kill()


def restart(number: int) -> None:
    """Start a node that was killed, with its disk; returns when its daemons run (Ready comes seconds later)."""
    plane = ControlPlane()
    Node(number).ensure(plane.authority, plane.url)


def store_stop() -> None:
    """Stop the object store: connections break and are refused."""
    _store().stop()


def store_start() -> None:
    """End of `store_stop`, with all objects."""
    _store().start()


def store_slow(milliseconds: float) -> None:
    """Delay each piece of data to and from the object store; 0 ends it."""
    _store().slow(milliseconds)


def _store() -> ObjectStore:
    return ObjectStore(Authority(lab_root() / "pki"))
