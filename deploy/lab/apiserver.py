"""A real kube-apiserver with its own etcd on loopback, for integration tests. Ready in seconds, needs no root.

Guarantees real API semantics (storage, watch, admission of CRDs and CEL, RBAC, tokens) and that both processes end
with ours. There are no controllers, no scheduler and no nodes: Pods stay Pending, a deleted namespace stays
Terminating, owner references are not collected, and the ServiceAccount admission plugin is off.
"""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deploy.lab import binaries, kubeconfig
from deploy.lab.certificates import Authority, Certificate
from deploy.lab.failure import LabError
from deploy.lab.kubectl import kubectl
from deploy.lab.layout import SERVICE_NETWORK
from deploy.lab.ports import free_port
from deploy.lab.process import Leash, tail


class LocalApiServer:
    """One API server and its etcd. A context manager; `start`, `stop` and `kill` may be called again and again.

    Data, address and credentials stay the same over `stop` and `start`. `extra` are further arguments of
    kube-apiserver; with `fsync` etcd syncs each write to disk, as a real one does. Raises `LabUnavailable` when the
    programs are not built, `LabError` when it does not get ready.
    """

    def __init__(self, *, extra: Sequence[str] = (), fsync: bool = False, deadline: float = 90.0):
        self._programs = {name: binaries.path(name) for name in ("etcd", "kube-apiserver")}
        self._extra = tuple(extra)
        self._fsync = fsync
        self._deadline = deadline
        self.folder = Path(tempfile.mkdtemp(prefix="yoban-api-"))
        """Everything of this server: certificates, data, logs. Removed by `close`."""
        self.authority = Authority(self.folder / "pki")
        self.ca_file = self.authority.certificate
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self._etcd_port, self._peer_port = free_port(), free_port()
        self.token = secrets.token_hex(16)
        """Bearer token of a cluster administrator."""
        self.token_file = self.folder / "token"
        kubeconfig.write_private(self.token_file, self.token)
        self.client: Certificate = self.authority.issue("admin", "admin", groups=["system:masters"])
        """Client certificate of a cluster administrator."""
        self.kubeconfig = kubeconfig.write(
            self.folder / "kubeconfig", self.url, self.ca_file, token=self.token, name="yoban-local"
        )
        self._etcd: Leash | None = None
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

    def start(self) -> None:
        """Start what does not run and return when the API answers."""
        if self._etcd is None or not self._etcd.alive():
            self._etcd = Leash(self._etcd_arguments(), self.folder / "etcd.log")
        if self._server is None or not self._server.alive():
            self._server = Leash(self._server_arguments(), self.folder / "kube-apiserver.log")
        self._await_ready()

    @property
    def pids(self) -> dict[str, int]:
        """The processes that run, by program name."""
        both = {"kube-apiserver": self._server, "etcd": self._etcd}
        return {name: process.pid for name, process in both.items() if process is not None and process.alive()}

    def stop(self) -> None:
        """Stop the API server (SIGTERM), etcd goes on. `start` brings it back with all its objects."""
        if self._server is not None:
            self._server.stop(15.0)

    def kill(self) -> None:
        """End the API server at once (SIGKILL): its connections break."""
        if self._server is not None:
            self._server.kill()

    def restart(self) -> None:
        """`stop`, then `start`: watches end, the watch cache starts anew."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and silent."""
        if self._server is not None:
            self._server.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End of `freeze`."""
        if self._server is not None:
            self._server.signal(signal.SIGCONT)

    def compact(self) -> None:
        """Have etcd forget all versions before the newest. A server that starts after it answers 410 to who asks for them;
        one that runs still knows what its watch cache holds.
        """
        revision = self._etcd_call("range", {"key": "AA=="})["header"]["revision"]
        self._etcd_call("compaction", {"revision": revision, "physical": True})

    def _etcd_call(self, what: str, body: Mapping[str, object]) -> Any:
        data = json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self._etcd_port}/v3/kv/{what}", data, timeout=10) as answer:
            return json.load(answer)

    def close(self) -> None:
        """Stop both processes and remove the folder. May be called twice."""
        for process in (self._server, self._etcd):
            if process is not None:
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl as administrator and return its standard output; raises `LabError` with its message."""
        return kubectl(self.kubeconfig, *arguments, stdin=stdin, check=check)

    def user(self, name: str, groups: Sequence[str] = ()) -> Certificate:
        """A client certificate of user `name` in `groups`, with the rights that RBAC objects give them."""
        return self.authority.issue(f"user-{name.replace(':', '_')}", name, groups=groups)

    def service_account_token(self, namespace: str, name: str) -> str:
        """A token of an existing service account, valid for an hour."""
        return self.kubectl("create", "token", name, "--namespace", namespace).strip()

    def _etcd_arguments(self) -> list[str | Path]:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        return [
            self._programs["etcd"],
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            *([] if self._fsync else ["--unsafe-no-fsync"]),
            "--log-level=warn",
        ]

    def _server_arguments(self) -> list[str | Path]:
        served = self.authority.issue("server", "kube-apiserver", addresses=["127.0.0.1", "::1", "localhost"])
        private, public = self.authority.signing_key("service-account")
        tokens = self.folder / "tokens.csv"
        if not tokens.exists():
            kubeconfig.write_private(tokens, f"{self.token},admin,admin,system:masters\n")
        return [
            self._programs["kube-apiserver"],
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            "--endpoint-reconciler-type=none",
            f"--tls-cert-file={served.certificate}",
            f"--tls-private-key-file={served.key}",
            f"--client-ca-file={self.ca_file}",
            f"--token-auth-file={tokens}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={private}",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            f"--cert-dir={self.folder / 'self-signed'}",
            *self._extra,
        ]

    def _await_ready(self) -> None:
        context = ssl.create_default_context(cafile=self.ca_file)
        end = time.monotonic() + self._deadline
        # The default namespace is made by the server itself a moment after it is ready: tests want to write to it.
        for path in ("/readyz", "/api/v1/namespaces/default"):
            while not self._answers(path, context):
                for process in (self._etcd, self._server):
                    if process is None or not process.alive():
                        log = process.log if process else self.folder
                        raise LabError(f"a process of the local API server ended, {log} says:\n{tail(Path(log))}")
                if time.monotonic() > end:
                    log = self.folder / "kube-apiserver.log"
                    raise LabError(f"the local API server is not ready after {self._deadline:g} s:\n{tail(log)}")
                time.sleep(0.05)

    def _answers(self, path: str, context: ssl.SSLContext) -> bool:
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.token}"})
        try:
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False
