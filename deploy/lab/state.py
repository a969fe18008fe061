"""Which processes of the running lab there are: one small file each in /run. Guarantees whole files.

A record may be lost (a crash, a cleaned /run): `strays` finds what it was for.
"""

from __future__ import annotations

import json
from pathlib import Path

from deploy.lab.kubeconfig import write_private
from deploy.lab.layout import RUN
from deploy.lab.process import Handle, handle

_FOLDER = RUN / "processes"


def record(name: str, process: Handle) -> None:
    """Remember a process under a name; an older one of that name is forgotten."""
    _FOLDER.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(_FOLDER / name, json.dumps({"pid": process.pid, "started": process.started}))


def recorded(name: str) -> Handle | None:
    """The process of that name, alive or not; `None` when none is recorded or the record is unreadable."""
    try:
        content = json.loads((_FOLDER / name).read_text())
        return Handle(int(content["pid"]), int(content["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def alive(name: str) -> bool:
    """Whether the process of that name runs."""
    process = recorded(name)
    return process is not None and process.alive()


def forget(name: str) -> None:
    """Remove a record; nothing happens when there is none."""
    (_FOLDER / name).unlink(missing_ok=True)


def names() -> list[str]:
    """All records, sorted."""
    return sorted(path.name for path in _FOLDER.glob("*")) if _FOLDER.is_dir() else []


def strays(programs: Path, data: Path) -> list[Handle]:
    """Processes of the lab that no record knows (it was lost): run from `programs`, with `data` in their command."""
    known = {process.pid for name in names() if (process := recorded(name)) is not None}
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) in known:
            continue
        try:
            program = (folder / "exe").readlink()
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        ours = programs in program.parents and str(data) in command
        if ours or "deploy.lab.front\0" in command or "deploy.lab.resizer\0" in command:
            process = handle(int(folder.name))
            found.extend([process] if process else [])
    return found


def log_folder(root: Path) -> Path:
    """Where the output of the lab's processes goes."""
    return root / "log"
