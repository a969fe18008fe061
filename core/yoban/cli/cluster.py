"""The cluster that a user's command is about: found as kubectl finds it, reached with the user's own rights.

Guarantees that nothing is written. A Pod's HTTP port is reached through the API server's proxy, so that it works wherever
kubectl works; the user needs `get` on `pods/proxy` for it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from yoban.errors import InvalidInput, Unavailable
from yoban.kube.client import Client
from yoban.kube.config import SERVICE_ACCOUNT, load_config

_DEADLINE = 10.0  # seconds for one answer of a Pod


@dataclass(frozen=True, slots=True)
class Cluster:
    """A client with the user's rights, and the namespace that was asked for."""

    client: Client
    namespace: str

    async def pod_page(self, namespace: str, pod: str, port: int, path: str) -> bytes:
        """Return what a Pod serves at `path` of its plain HTTP `port`.

        Raises:
            Unavailable: the Pod, or the API server's way to it, does not answer with 200.
        """
        target = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(pod, safe='')}:{port}/proxy/{path}"
        answer = await self.client.transport.request("GET", target, deadline=_DEADLINE)
        if answer.status != 200:
            raise Unavailable(
                f"answered {answer.status}",
                object=f"Pod {namespace}/{pod} port {port}",
                cause=answer.body[:200].decode(errors="replace").strip(),
            )
        return answer.body


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that kubectl has, too."""
    parser.add_argument("--kubeconfig", type=Path, help="kubeconfig file (default: $KUBECONFIG, then ~/.kube/config)")
    parser.add_argument("--context", help="context of the kubeconfig")
    parser.add_argument("--namespace", "-n", help="namespace (default: the context's)")


@asynccontextmanager
async def connect(options: argparse.Namespace, environ: Mapping[str, str] | None = None) -> AsyncIterator[Cluster]:
    """Connect as the options of `add_arguments` say, or as the Pod that we run in.

    Raises:
        InvalidInput: there is no kubeconfig, or it cannot be used.
    """
    environ = os.environ if environ is None else environ
    path = options.kubeconfig or default_kubeconfig(environ)
    if path is None and not (SERVICE_ACCOUNT / "token").exists():
        raise InvalidInput("no kubeconfig was found", fix="set KUBECONFIG, or pass --kubeconfig FILE")
    config = await load_config(path, context=options.context)
    async with Client.connect(config) as client:
        yield Cluster(client, options.namespace or config.namespace)


def default_kubeconfig(environ: Mapping[str, str]) -> Path | None:
    """Return the file that kubectl would read first: of `KUBECONFIG`, else `~/.kube/config`; None when there is none."""
    given = environ.get("KUBECONFIG", "")
    candidates = [Path(part) for part in given.split(os.pathsep) if part] if given else []
    if not given and (home := environ.get("HOME")):
        candidates.append(Path(home) / ".kube" / "config")
    return next((path for path in candidates if path.exists()), None)
