"""One node: namespaces of network, mounts, processes and host name, in them containerd, kubelet and kube-proxy.

The node's first process holds the namespaces: when it ends, the kernel ends every process and mount of the node, as
pulling the plug would. Guarantees that what a node wrote to its disk (images, volumes) survives that, and nothing
else. Needs root. `ensure` and `kill` may be called at any time, in any state.
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

from deploy.lab import binaries, cgroups, images, kubeconfig, layout, network, node_settings, state
from deploy.lab.certificates import Authority
from deploy.lab.failure import LabError
from deploy.lab.layout import node_address, node_name
from deploy.lab.process import Handle, handle, run, spawn, stop, tail, wait_until

# What of the host a node must not see or touch is covered; its own disk is bound to the standard places.
_SETUP = """
set -e
mount --make-rshared /
mount -t tmpfs -o mode=0755 tmpfs /mnt
mkdir /mnt/node /mnt/cache
mount --bind "$1" /mnt/node
mount --bind "$2" /mnt/cache
mount -t tmpfs -o mode=0755 tmpfs /var/lib
for name in containerd kubelet yoban-volumes; do
  mkdir -p "/mnt/node/$name" "/var/lib/$name"
  mount --bind "/mnt/node/$name" "/var/lib/$name"
done
mount --make-rshared /var/lib/kubelet
mkdir -p /mnt/node/log
mount --bind /mnt/node/log /var/log
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir /run/lock
mount -t proc proc /proc
hostname "$3"
exec /mnt/cache/images/context/pause
"""


class Node:
    """Node `number`. Objects are cheap and hold no state: make as many as you like."""

    def __init__(self, number: int):
        if number not in layout.NODES:
            raise LabError(f"there is no node {number}; the nodes are {list(layout.NODES)}")
        self.number = number
        self.name = node_name(number)
        self.folder = layout.lab_root() / self.name
        """The node's disk."""

    def running(self) -> bool:
        """Whether the node and its three daemons run (frozen counts as running)."""
        return self.holder() is not None and all(state.alive(self._record(name)) for name in _DAEMONS)

    def holder(self) -> Handle | None:
        """The node's first process, `None` when the node is off."""
        process = state.recorded(self._record("holder"))
        return process if process is not None and process.alive() else None

    def ensure(self, authority: Authority, server: str) -> None:
        """Start what of the node does not run, against the API server at `server` (a URL)."""
        if self.holder() is not None and cgroups.is_frozen(self.number):
            cgroups.freeze(self.number, frozen=False)
        if self.running():
            return
        self._write_settings(authority, server)
        cgroups.ensure(self.number)
        if self.holder() is None:
            self.kill()
            self._boot()
        if not state.alive(self._record("containerd")):
            self._daemon("containerd", ["containerd", "--config", "/mnt/node/etc/containerd.toml"])
            if not wait_until(self._containerd_answers, 30):
                raise LabError(f"containerd of {self.name} does not answer:\n{tail(self._log('containerd'))}")
        self._load_system_images()
        if not state.alive(self._record("kubelet")):
            self._daemon("kubelet", self._kubelet())
        if not state.alive(self._record("kube-proxy")):
            self._daemon("kube-proxy", self._proxy())

    def enter(self, *command: str | Path) -> list[str | Path]:
        """The command line that runs `command` inside the node."""
        holder = self.holder()
        if holder is None:
            raise LabError(f"{self.name} is off")
        spaces = ["--mount", "--net", "--uts", "--ipc", "--pid"]
        return ["nsenter", f"--target={holder.pid}", *spaces, "--", *command]

    def import_image(self, archive: Path, name: str, identity: str) -> bool:
        """Bring an image into the node; false when the very same was there already."""
        marker = self.folder / "containerd" / "imported.json"
        there = json.loads(marker.read_text()) if marker.exists() else {}
        if there.get(name) == identity:
            return False
        inside = Path("/mnt/cache") / archive.relative_to(layout.cache())
        run(self._ctr("images", "import", "--all-platforms", str(inside)), deadline=900)
        there[name] = identity
        marker.write_text(json.dumps(there))
        return True

    def kill(self) -> None:
        """Pull the plug: every process of the node ends at once, its mounts are gone, its disk stays."""
        holder = self.holder()
        if holder is not None:
            holder.signal(signal.SIGKILL)
            if cgroups.is_frozen(self.number):
                cgroups.freeze(self.number, frozen=False)  # so that the signal already sent takes effect
        names = ("holder", *_DAEMONS)
        # Outside of the node there is only the waiting parent of each: they end by themselves.
        stop([p for name in names if (p := state.recorded(self._record(name))) is not None], grace=5)
        # What a lost record leaves: everything of a node is in its control group.
        stop([p for pid in cgroups.processes(self.number) if (p := handle(pid)) is not None], grace=0)
        if not wait_until(lambda: not cgroups.processes(self.number), 20):
            raise LabError(f"processes of {self.name} survive: {sorted(cgroups.processes(self.number))}")
        for name in names:
            state.forget(self._record(name))

    def remove(self) -> None:
        """`kill`, and remove the disk."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _boot(self) -> None:
        # Half of a Pod's addresses and the kernel's bridge are of the life before.
        run(["ip", "-netns", network.namespace(self.number), "link", "del", "cni0"], check=False)
        script: list[str | Path] = ["sh", "-c", _SETUP, "sh", self.folder, layout.cache(), self.name]
        spaces = ["--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--propagation", "private"]
        parent = spawn(
            ["nsenter", f"--net=/run/netns/{network.namespace(self.number)}", "unshare", *spaces, "--", *script],
            self._log("boot"),
            before=cgroups.joining(self.number),
        )
        holder = _child(parent, "/mnt/cache/images/context/pause")
        if holder is None:
            stop([parent])
            raise LabError(f"{self.name} does not boot:\n{tail(self._log('boot'))}")
        state.record(self._record("holder"), holder)

    def _daemon(self, name: str, command: list[str | Path]) -> None:
        parent = spawn(self.enter(*command), self._log(name), before=cgroups.joining(self.number))
        # The program itself is recorded: its parent, which waits outside of the node, ends with it.
        process = _child(parent, str(command[0]))
        if process is None:
            stop([parent])
            raise LabError(f"{name} of {self.name} ended at once:\n{tail(self._log(name))}")
        state.record(self._record(name), process)

    def daemon(self, name: str) -> Handle | None:
        """One of `containerd`, `kubelet`, `kube-proxy`, for tests that end just that one; `None` when it is off."""
        process = state.recorded(self._record(name))
        return process if process is not None and process.alive() else None

    def _write_settings(self, authority: Authority, server: str) -> None:
        etc = self.folder / "etc"
        (etc / "cni").mkdir(parents=True, exist_ok=True)
        (etc / "containerd.toml").write_text(node_settings.containerd())
        (etc / "cni" / "10-yoban.conflist").write_text(node_settings.as_json(node_settings.cni(self.number)))
        (etc / "kubelet.json").write_text(node_settings.as_json(node_settings.kubelet(self.number)))
        (etc / "resolv.conf").write_text("")
        shutil.copy2(authority.certificate, etc / "ca.crt")
        addresses = [node_address(self.number), self.name]
        user = authority.issue(self.name, f"system:node:{self.name}", groups=["system:nodes"], addresses=addresses)
        shutil.copy2(user.certificate, etc / "kubelet.crt")
        shutil.copy2(user.key, etc / "kubelet.key")
        kubeconfig.write(etc / "kubelet.kubeconfig", server, authority.certificate, certificate=user)
        proxy = authority.issue("kube-proxy", "system:kube-proxy")
        kubeconfig.write(etc / "proxy.kubeconfig", server, authority.certificate, certificate=proxy)

    def _kubelet(self) -> list[str | Path]:
        return [
            _inside(binaries.path("kubelet")),
            "--config=/mnt/node/etc/kubelet.json",
            "--kubeconfig=/mnt/node/etc/kubelet.kubeconfig",
            "--root-dir=/var/lib/kubelet",
            "--cert-dir=/var/lib/kubelet/pki",
            f"--hostname-override={self.name}",
            f"--node-ip={node_address(self.number)}",
            f"--node-labels=topology.kubernetes.io/zone=zone-{self.number}",
        ]

    def _proxy(self) -> list[str | Path]:
        return [
            _inside(binaries.path("kube-proxy")),
            "--kubeconfig=/mnt/node/etc/proxy.kubeconfig",
            "--proxy-mode=nftables",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
            f"--cluster-cidr={layout.POD_NETWORK}",
            f"--hostname-override={self.name}",
        ]

    def _load_system_images(self) -> None:
        for name in images.SYSTEM:
            found = images.identity(name)
            if found is None:
                raise LabError(f"{name} is not built")
            self.import_image(images.archive(name), name, found)

    def _containerd_answers(self) -> bool:
        return "Server" in run(self._ctr("version"), check=False)

    def _ctr(self, *arguments: str) -> list[str | Path]:
        return self.enter("ctr", "--address", node_settings.CONTAINERD_SOCKET, "--namespace", "k8s.io", *arguments)

    def _record(self, name: str) -> str:
        return f"{self.name}-{name}"

    def _log(self, name: str) -> Path:
        return state.log_folder(layout.lab_root()) / f"{self.name}-{name}.log"


_DAEMONS = ("containerd", "kubelet", "kube-proxy")


def _inside(path: Path) -> Path:
    return Path("/mnt/cache") / path.relative_to(layout.cache())


def _child(parent: Handle, command: str) -> Handle | None:
    """The child of a process that has become `command`; `None` when the parent ended first, or after 15 s."""
    found: list[Handle] = []

    def there() -> bool:
        for child in _children(parent.pid):
            if _command(child).startswith(command):
                process = handle(child)
                found.extend([process] if process else [])
        return bool(found) or not parent.alive()

    wait_until(there, 15, 0.01)
    return found[0] if found else None


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
