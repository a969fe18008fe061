"""Kubeconfig files, written as JSON (which is YAML) with mode 0600. Guarantees one cluster, one user, one context."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

from deploy.lab.certificates import Certificate


def write(
    file: Path,
    server: str,
    authority: Path,
    *,
    certificate: Certificate | None = None,
    token: str | None = None,
    name: str = "yoban-lab",
) -> Path:
    """Write a kubeconfig for `server` (a URL) with the client certificate or token, all embedded; return its path."""
    user: dict[str, Any] = {}
    if certificate is not None:
        user["client-certificate-data"] = _encoded(certificate.certificate)
        user["client-key-data"] = _encoded(certificate.key)
    if token is not None:
        user["token"] = token
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": _encoded(authority)}}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    write_private(file, json.dumps(content, indent=1))
    return file


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner may read, in one step (beside, then renamed)."""
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(text)
    part.rename(file)


def _encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
