"""The Debian packages that the lab cluster and its images need. Installs only what is missing, and only as root."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from deploy.lab.failure import LabUnavailable
from deploy.lab.process import run
from deploy.lab.progress import step

# Package and a program or file that shows that it is there.
CLUSTER = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iproute2": "ip",
    "nftables": "nft",
    "conntrack": "conntrack",
    "openssl": "openssl",
    "util-linux": "nsenter",
}
IMAGES = {"buildah": "buildah", "debootstrap": "debootstrap", "gcc": "gcc", "libc6-dev": "/usr/include/stdlib.h"}


def missing(packages: dict[str, str]) -> list[str]:
    """Those packages whose program is not on this machine."""
    return [name for name, shown in packages.items() if not _there(shown)]


def ensure(packages: dict[str, str]) -> None:
    """Install what is missing. Raises `LabUnavailable` when that needs root or apt and there is none."""
    wanted = missing(packages)
    if not wanted:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise LabUnavailable(f"these packages are missing and can only be installed as root on Debian: {wanted}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with step(f"installing Debian packages: {', '.join(wanted)}"):
        run(["apt-get", "update"], deadline=300, environment=quiet)
        command = ["apt-get", "install", "--yes", "--no-install-recommends", *wanted]
        run(command, deadline=900, environment=quiet)


def _there(shown: str) -> bool:
    return Path(shown).exists() if shown.startswith("/") else shutil.which(shown, path=_path()) is not None


def _path() -> str:
    # An ordinary user's PATH may lack the folders of the administrator's programs.
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
