"""Control groups of the nodes: /yoban-lab/node-N in every hierarchy, version 1 or 2.

Guarantees that all processes of a node, containers included, are below its group, so that they can be counted and
frozen together, and that `remove` leaves no group. Needs root.
"""

from __future__ import annotations

from pathlib import Path

from deploy.lab.failure import LabError
from deploy.lab.layout import node_name
from deploy.lab.process import wait_until

_ROOT = Path("/sys/fs/cgroup")
_NAME = "yoban-lab"


def unified() -> bool:
    """Whether the machine has control groups of version 2 only."""
    return (_ROOT / "cgroup.controllers").exists()


def kubelet_root(number: int) -> str:
    """The node's group as kubelet's `cgroupRoot`."""
    return f"/{_NAME}/{node_name(number)}"


def ensure(number: int) -> None:
    """Make the node's groups, and `system` in each for its daemons."""
    for hierarchy in _hierarchies():
        for folder in (
            hierarchy / _NAME,
            hierarchy / _NAME / node_name(number),
            hierarchy / _NAME / node_name(number) / "system",
        ):
            folder.mkdir(exist_ok=True)
            # A cpuset is born empty, and nothing can be put into an empty one.
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not unified() and (folder / file).exists() and not (folder / file).read_text().strip():
                    (folder / file).write_text((folder.parent / file).read_text())
        if unified():
            for folder in (hierarchy, hierarchy / _NAME, hierarchy / _NAME / node_name(number)):
                available = (folder / "cgroup.controllers").read_text().split()
                (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in available))


def joining(number: int) -> str:
    """Shell that puts the shell that runs it into the node's `system` groups."""
    files = [hierarchy / _NAME / node_name(number) / "system" / "cgroup.procs" for hierarchy in _hierarchies()]
    return "\n".join(f"echo $$ >'{file}' || exit 1" for file in files)


def processes(number: int) -> set[int]:
    """Pids (of the host's view) of everything that runs on the node."""
    found: set[int] = set()
    for file in _group(number).rglob("cgroup.procs"):
        try:
            found.update(int(pid) for pid in file.read_text().split())
        except OSError:
            continue  # the group went away while we looked
    return found


def freeze(number: int, *, frozen: bool) -> None:
    """Stop every process of the node at once, or let them go on. Raises `LabError` when the kernel does not."""
    group = _group(number)
    if not group.exists():
        raise LabError(f"{node_name(number)} does not run: bring the lab up first")
    if unified():
        (group / "cgroup.freeze").write_text("1" if frozen else "0")
        reached = wait_until(lambda: f"frozen {int(frozen)}" in (group / "cgroup.events").read_text(), 10)
    else:
        wanted = "FROZEN" if frozen else "THAWED"
        (group / "freezer.state").write_text(wanted)
        reached = wait_until(lambda: (group / "freezer.state").read_text().strip() == wanted, 10)
    if not reached:
        raise LabError(f"the processes of {node_name(number)} could not be {'frozen' if frozen else 'thawed'}")


def is_frozen(number: int) -> bool:
    """Whether `freeze` is in force."""
    file = _group(number) / ("cgroup.freeze" if unified() else "freezer.state")
    return file.exists() and file.read_text().strip() in ("1", "FROZEN", "FREEZING")


def remove() -> None:
    """Remove all groups of the lab; its processes must be gone. May be called twice."""

    # Where both versions are mounted, the container runtime makes groups in version 2's tree, too.
    hierarchies = [*_hierarchies(), *([] if unified() else [_ROOT / "unified"])]

    def gone() -> bool:
        for hierarchy in hierarchies:
            folders = [hierarchy / _NAME, *(hierarchy / _NAME).rglob("*/")] if (hierarchy / _NAME).is_dir() else []
            for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
                try:
                    folder.rmdir()
                except OSError:
                    continue  # a process is still ending in it: the next look finds it empty
        return not any((hierarchy / _NAME).exists() for hierarchy in hierarchies)

    if not wait_until(gone, 10):
        raise LabError(f"control groups named {_NAME} cannot be removed: something still runs in them")


def _hierarchies() -> list[Path]:
    if unified():
        return [_ROOT]
    # Links such as cpu,cpuacct -> cpu stand beside the real folders; `unified` has no controllers on such machines.
    return sorted(
        path
        for path in _ROOT.iterdir()
        if path.is_dir() and not path.is_symlink() and path.name != "unified" and (path / "cgroup.procs").exists()
    )


def _group(number: int) -> Path:
    return (_ROOT if unified() else _ROOT / "freezer") / _NAME / node_name(number)
