"""A real S3 server (versitygw) on loopback, for integration tests. Ready in a moment, needs no root.

Guarantees path-style S3 with versioning available (off until a bucket turns it on), one account, and that the process
ends with ours. The folder must be on a file system with extended attributes.
"""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import ssl
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.lab import binaries
from deploy.lab.certificates import Authority, Certificate
from deploy.lab.failure import LabError
from deploy.lab.kubeconfig import write_private
from deploy.lab.ports import free_port
from deploy.lab.process import Leash, tail

REGION = "us-east-1"


def server_arguments(data: Path, address: str, certificate: Certificate | None = None) -> list[str | Path]:
    """The command line of an S3 server that keeps buckets in `data`/buckets; credentials are not in it."""
    for folder in ("buckets", "versions"):
        (data / folder).mkdir(parents=True, exist_ok=True)
    tls: list[str | Path] = []
    if certificate is not None:
        tls = ["--cert", certificate.certificate, "--key", certificate.key]
    return [
        binaries.path("versitygw"),
        "--port",
        address,
        "--region",
        REGION,
        "--quiet",
        *tls,
        "--keep-alive",
        "posix",
        "--versioning-dir",
        data / "versions",
        data / "buckets",
    ]


def server_environment(access_key: str, secret_key: str) -> Mapping[str, str]:
    """How the server gets its account: the only way besides its command line, which everybody could read."""
    return {"ROOT_ACCESS_KEY_ID": access_key, "ROOT_SECRET_ACCESS_KEY": secret_key}


def accepts(address: str, port: int) -> bool:
    """Whether somebody accepts TCP connections there."""
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


class LocalStore:
    """One S3 server. A context manager; `start`, `stop` and `kill` may be called again and again, objects stay.

    `tls` serves https with a certificate of `ca_file`. Raises `LabUnavailable` when the program is not built.
    """

    region = REGION

    def __init__(self, *, tls: bool = False):
        binaries.path("versitygw")
        self.folder = Path(tempfile.mkdtemp(prefix="yoban-s3-"))
        """Buckets, versions, credentials and log. Removed by `close`."""
        self.port = free_port()
        self.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.access_key = "yoban-lab"
        self.secret_key = secrets.token_hex(16)
        self.ca_file: Path | None = None
        self._certificate: Certificate | None = None
        if tls:
            authority = Authority(self.folder / "pki")
            self.ca_file = authority.certificate
            self._certificate = authority.issue("s3", "s3", addresses=["127.0.0.1", "localhost"])
        self.credentials_file = self.folder / "credentials"
        """The account in the AWS file format, mode 0600."""
        write_private(
            self.credentials_file,
            f"[default]\naws_access_key_id = {self.access_key}\naws_secret_access_key = {self.secret_key}\n",
        )
        self._server: Leash | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, deadline: float = 20.0) -> None:
        """Start the server if it does not run, and return when it speaks (at most `deadline` seconds)."""
        if self._server is None or not self._server.alive():
            self._server = Leash(
                server_arguments(self.folder / "data", f"127.0.0.1:{self.port}", self._certificate),
                self.folder / "s3.log",
                environment=server_environment(self.access_key, self.secret_key),
            )
        end = time.monotonic() + deadline
        while not self._speaks():
            if not self._server.alive() or time.monotonic() > end:
                raise LabError(f"the local S3 server does not start:\n{tail(self.folder / 's3.log')}")
            time.sleep(0.03)

    def stop(self) -> None:
        """SIGTERM; connections are refused until `start`."""
        if self._server is not None:
            self._server.stop()

    def kill(self) -> None:
        """SIGKILL: requests under way break."""
        if self._server is not None:
            self._server.kill()

    def freeze(self) -> None:
        """SIGSTOP: connections are accepted by the kernel and nobody answers."""
        if self._server is not None:
            self._server.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End of `freeze`."""
        if self._server is not None:
            self._server.signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop the server and remove its folder. May be called twice."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _speaks(self) -> bool:
        if self.ca_file is None:
            return accepts("127.0.0.1", self.port)
        context = ssl.create_default_context(cafile=self.ca_file)
        try:
            with (
                socket.create_connection(("127.0.0.1", self.port), timeout=1) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1"),
            ):
                return True
        except OSError:
            return False
