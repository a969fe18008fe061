"""Where the API server is and how to prove who we are.

Guarantees: in a Pod nothing but the mounted token and CA is read, and a token file is read anew each minute (tokens rotate
hourly). Does not read kubeconfig files: that is `yoban.kube.kubeconfig`, imported only when one is asked for.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from yoban.errors import InvalidInput
from yoban.kube.clock import Clock, SystemClock

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_AGE = 60.0  # seconds after which a token file is read anew


class Credentials(Protocol):
    """Something that knows the bearer token of the moment."""

    async def token(self, *, fresh: bool = False) -> str | None:
        """The token, or None where the client certificate is the proof; `fresh` after the server refused the last one."""
        ...


class StaticToken:
    """A token that never changes, or none."""

    def __init__(self, token: str | None = None) -> None:
        self._token = token

    async def token(self, *, fresh: bool = False) -> str | None:
        """The token given."""
        return self._token


class TokenFile:
    """A token that a file holds, read anew each minute and whenever the server refused the last one."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = clock or SystemClock()
        self._token: str | None = None
        self._read_at = 0.0

    async def token(self, *, fresh: bool = False) -> str | None:
        """The token; the last known one while the file cannot be read. OSError when it never could."""
        now = self._clock.monotonic()
        if self._token is None or fresh or now - self._read_at >= TOKEN_AGE:
            try:
                self._token = self._path.read_text(encoding="ascii").strip()
                self._read_at = now
            except OSError:
                if self._token is None:
                    raise
        return self._token


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """One API server and one identity.

    Attributes:
        server: `https://host:port`, without a trailing slash.
        credentials: the source of the token.
        ca_file: CA bundle to trust; None trusts the system's.
        ca_data: PEM of the CA, in the place of `ca_file`.
        client_cert: PEM of the client certificate and its key, None without one. Never logged.
        verify: False accepts any certificate; only for tests and kubeconfigs that say so.
        server_name: the name expected in the server's certificate, when it is not the host's.
        namespace: the namespace of the Pod or of the context.
    """

    server: str
    credentials: Credentials = field(default_factory=StaticToken)
    ca_file: Path | None = None
    ca_data: str | None = field(default=None, repr=False)
    client_cert: bytes | None = field(default=None, repr=False)
    verify: bool = True
    server_name: str | None = None
    namespace: str = "default"

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS settings; None for plain HTTP (a test's server on loopback). Reads files: call it once, at start."""
        if not self.server.startswith("https://"):
            return None
        context = ssl.create_default_context(
            cafile=str(self.ca_file) if self.ca_file else None, cadata=self.ca_data if not self.ca_file else None
        )
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_cert is not None:
            _load_client_cert(context, self.client_cert)
        return context

    def read_ca(self) -> bytes:
        """The content of `ca_file` now; empty without one, and when it cannot be read."""
        try:
            return self.ca_file.read_bytes() if self.ca_file else b""
        except OSError:
            return b""


def _load_client_cert(context: ssl.SSLContext, pem: bytes) -> None:
    # The ssl module takes a path only; the file is ours alone and lives for the length of this call.
    descriptor, name = tempfile.mkstemp(prefix="yoban-client-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        context.load_cert_chain(name)
    finally:
        Path(name).unlink()


def in_cluster(
    environ: Mapping[str, str] | None = None, *, folder: Path = SERVICE_ACCOUNT, clock: Clock | None = None
) -> ClusterConfig:
    """The configuration that a Pod finds in its environment and its service account's mount.

    Raises `InvalidInput` outside a Pod.
    """
    environ = os.environ if environ is None else environ
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port or not (folder / "token").exists():
        raise InvalidInput(
            "no in-cluster configuration",
            cause="the service account's token or the API server's address is missing",
            fix="run in a Pod with a service account, or set YOBAN_KUBECONFIG",
        )
    namespace_file = folder / "namespace"
    namespace = namespace_file.read_text(encoding="utf-8").strip() if namespace_file.exists() else "default"
    return ClusterConfig(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        credentials=TokenFile(folder / "token", clock),
        ca_file=folder / "ca.crt",
        namespace=namespace,
    )


async def load_config(kubeconfig: Path | None = None, *, context: str | None = None) -> ClusterConfig:
    """The configuration to use: the kubeconfig when one is named, else the Pod's own.

    A kubeconfig is never found by accident: `~/.kube/config` is read only when it is named here. Raises `InvalidInput`.
    """
    if kubeconfig is None:
        return in_cluster()
    from yoban.kube.kubeconfig import read_kubeconfig  # imported late: YAML, and maybe much more, is loaded by it

    return await read_kubeconfig(kubeconfig, context=context)
