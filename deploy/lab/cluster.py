"""The cluster that demo and tests run on: the lab's own, or the one that YOBAN_KUBECONFIG names.

Guarantees that a foreign cluster is used only by that explicit choice (never KUBECONFIG, never ~/.kube/config), that
`up` on a healthy lab changes nothing and returns quickly, that it repairs a lab in any other state, and that `down`
leaves nothing of the lab on the machine but the cache of programs and images.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from deploy.lab import addons, binaries, cgroups, images, layout, network, packages, state
from deploy.lab.certificates import Authority
from deploy.lab.controlplane import ControlPlane
from deploy.lab.failure import LabError, LabUnavailable
from deploy.lab.kubectl import kubectl
from deploy.lab.layout import NODES
from deploy.lab.node import Node
from deploy.lab.object_store import ObjectStore
from deploy.lab.process import stop, tail, wait_until
from deploy.lab.progress import say, step

CHOICE = "YOBAN_KUBECONFIG"
_PROGRAMS = [name for name in binaries.PROGRAMS if name != "helm"]


class Cluster:
    """A cluster to test on. `own` says whether it is the lab, with nodes, store and faults, or a foreign one."""

    def __init__(self, kubeconfig: Path, *, own: bool):
        self.kubeconfig = kubeconfig
        self.own = own

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True, deadline: float = 120.0) -> str:
        """Run kubectl as administrator and return its output; raises `LabError` with its message."""
        return kubectl(self.kubeconfig, *arguments, stdin=stdin, check=check, deadline=deadline)

    @property
    def plane(self) -> ControlPlane:
        """The lab's control plane. Raises `LabError` for a foreign cluster, as all properties below."""
        if not self.own:
            raise LabError(f"the cluster of {CHOICE} has no nodes, store or faults of the lab's")
        return ControlPlane()

    @property
    def url(self) -> str:
        """The API server's URL."""
        return self.plane.url

    @property
    def authority(self) -> Authority:
        """The lab's CA."""
        return self.plane.authority

    @property
    def ca_file(self) -> Path:
        """The lab's CA certificate."""
        return self.authority.certificate

    @property
    def token(self) -> str:
        """The administrator's bearer token."""
        return self.plane.token

    @property
    def store(self) -> ObjectStore:
        """The lab's S3 server."""
        return ObjectStore(self.authority)

    def node(self, number: int) -> Node:
        """One of the lab's nodes, 1 to 3."""
        if not self.own:
            raise LabError(f"the cluster of {CHOICE} has no nodes of the lab's")
        return Node(number)

    def load(self, *names: str) -> None:
        """Bring images (built when missing) into all nodes, in parallel; those that are there are left alone."""
        load(names)


def chosen() -> Path | None:
    """The kubeconfig that YOBAN_KUBECONFIG names; raises `LabError` when there is no such file."""
    given = os.environ.get(CHOICE)
    if not given:
        return None
    if not Path(given).is_file():
        raise LabError(f"{CHOICE}={given}: there is no such file")
    return Path(given)


def kubeconfig() -> Path:
    """The kubeconfig to use: the chosen one, or the lab's administrator. Raises `LabError` when no lab is up."""
    given = chosen()
    if given is not None:
        return given
    file = layout.lab_root() / "control-plane" / "kubeconfig"
    if not file.exists():
        raise LabError("the lab is not up: run `python -m deploy.lab up`")
    return file


def current() -> Cluster:
    """The chosen cluster, or the lab that is up."""
    return Cluster(kubeconfig(), own=chosen() is None)


def ensure() -> Cluster:
    """The chosen cluster, or the lab, brought up if need be. Raises `LabUnavailable` where it cannot be."""
    if chosen() is None:
        missing = binaries.missing(_PROGRAMS)
        if missing and os.environ.get("CI", "").lower() not in ("1", "true", "yes"):
            raise LabUnavailable(f"not built: {', '.join(missing)}; run `python -m deploy.lab build`")
        up()
    return current()


def healthy() -> bool:
    """Whether every part of the lab runs and all nodes are Ready."""
    plane_there = (layout.lab_root() / "pki" / "ca.crt").exists() and ControlPlane().running()
    if not plane_there or not network.complete() or not addons.running():
        return False
    if any(not Node(number).running() or cgroups.is_frozen(number) for number in NODES):
        return False
    return ObjectStore(ControlPlane().authority).running() and _ready_nodes() == len(NODES)


def up() -> None:
    """Bring the lab up, or repair it. On a healthy lab nothing is changed."""
    _require_root()
    with _lock():
        if state.names() and healthy():
            say("the lab is up")
            return
        packages.ensure(packages.CLUSTER)
        binaries.build(_PROGRAMS)
        images.program("pause")
        images.ensure(list(images.SYSTEM))
        for name in images.SYSTEM:
            images.archive(name)
        with step("bringing the lab up"):
            _sweep()
            network.ensure()
            plane = ControlPlane()
            plane.ensure()
            ObjectStore(plane.authority).start()
            with ThreadPoolExecutor() as pool:
                starting = [pool.submit(Node(number).ensure, plane.authority, plane.url) for number in NODES]
                addons.ensure(plane)
                for one in starting:
                    one.result()
            if not wait_until(lambda: _ready_nodes() == len(NODES), 90, 0.3):
                raise LabError(f"the nodes do not get Ready; logs are in {state.log_folder(layout.lab_root())}")
            dead = [name for name in state.names() if not state.alive(name)]
            if dead:
                logs = state.log_folder(layout.lab_root())
                shown = "\n".join(tail(logs / f"{name}.log", 5) for name in dead)
                raise LabError(f"ended after their start: {', '.join(dead)}\n{shown}")


def down() -> None:
    """Remove the lab with all its data. May be called twice, and in any state."""
    _require_root()
    if not _anything_there() and not network.exists():
        say("there is no lab")
        return
    with _lock(), step("taking the lab down"):
        addons.stop_all()
        _sweep()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda number: Node(number).remove(), NODES))
        if (layout.lab_root() / "pki").exists():
            plane = ControlPlane()
            ObjectStore(plane.authority).remove()
            plane.remove()
        cgroups.remove()
        network.remove()
        shutil.rmtree(layout.lab_root(), ignore_errors=True)
        shutil.rmtree(layout.RUN, ignore_errors=True)


def load(names: Iterable[str]) -> None:
    """Bring images into all nodes of the lab, built when missing. Raises `LabError` when the lab is not up."""
    for given in names:
        name = images.full_name(given)
        images.ensure([name])
        identity, archive = images.identity(name) or "", images.archive(name)
        with step(f"loading {name} into the nodes", quiet=0.5), ThreadPoolExecutor() as pool:
            list(pool.map(lambda number: Node(number).import_image(archive, name, identity), NODES))  # noqa: B023


def status() -> dict[str, object]:
    """What runs, for people and scripts."""
    if not state.names():
        return {"up": False}
    return {
        "up": healthy(),
        "processes": {name: state.alive(name) for name in state.names()},
        "frozen": [number for number in NODES if cgroups.is_frozen(number)],
        "kubeconfig": str(layout.lab_root() / "control-plane" / "kubeconfig"),
        "store": ObjectStore.endpoint,
        "packets that tried to leave": network.counter("escaped"),
    }


def _sweep() -> None:
    """End what runs of the lab without a record: it holds ports and data."""
    stop(state.strays(layout.binary_folder(), layout.lab_root()), grace=1.0)


def _ready_nodes() -> int:
    plane = ControlPlane()
    listed = kubectl(plane.kubeconfig, "get", "nodes", "--output", "json", "--request-timeout=5s", check=False)
    if not listed:
        return 0
    ready = 0
    for item in json.loads(listed)["items"]:
        conditions = {c["type"]: c["status"] for c in item["status"].get("conditions", [])}
        ready += conditions.get("Ready") == "True"
    return ready


def _anything_there() -> bool:
    return layout.RUN.exists() or layout.lab_root().exists()


def _require_root() -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        raise LabUnavailable(f"the lab needs root on Linux; set {CHOICE} to use a cluster of yours instead")


@contextmanager
def _lock() -> Iterator[None]:
    """One `up` or `down` at a time on a machine; the kernel drops the lock with its holder."""
    folder = layout.cache()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lab.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
