"""The operator on a cluster: installed by its chart, as a user does it, and removed again.

The demo and the end-to-end tests share this. It installs nothing but the chart; images must be on the nodes already.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.demo.kubectl import Kubectl
from deploy.lab.binaries import PROGRAMS

CHART = Path(__file__).resolve().parent.parent / "chart"
NAMESPACE = "yoban-system"
RELEASE = "yoban"


def helm() -> str:
    """Return the helm program: the lab's own build, or the one on PATH."""
    built = PROGRAMS["helm"].path
    found = str(built) if built.exists() else shutil.which("helm")
    if not found:
        raise FileNotFoundError("helm is not there; run `python -m deploy.lab binaries`")
    return found


@dataclass
class Installation:
    """One release of the chart."""

    kubectl: Kubectl
    image: str
    values: Mapping[str, object] = field(default_factory=dict)

    def install(self) -> None:
        """Install or upgrade, and wait until the operator is available. May be called again."""
        repository, tag = self.image.rsplit(":", 1)
        values = {"image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"}, **self.values}
        self._helm(
            "upgrade", RELEASE, str(CHART), "--install", "--create-namespace", "--wait", "--timeout", "180s",
            "--values", "-", stdin=json.dumps(values),
        )  # fmt: skip

    def uninstall(self) -> None:
        """Remove the release; the custom resource definitions stay (the chart keeps them)."""
        self._helm("uninstall", RELEASE, "--ignore-not-found", "--wait", "--timeout", "120s")

    def _helm(self, *arguments: str, stdin: str | None = None) -> None:
        argv = [helm(), f"--kubeconfig={self.kubectl.kubeconfig}", f"--namespace={NAMESPACE}", *arguments]
        done = subprocess.run(argv, input=stdin, text=True, capture_output=True, timeout=240, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"helm {arguments[0]}: {done.stderr.strip()}")
