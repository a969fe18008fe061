"""The control plane: etcd, API server, controller manager and scheduler, on the host's side of the bridge.

Guarantees one of each, that their secrets are in files of mode 0600 only, and that objects survive until `remove`. What the
Pods of an operator write is in the API server's audit log, and each state of its Leases with it.
etcd does not sync to disk: a crash of the machine may lose the cluster.
"""

from __future__ import annotations

import secrets
import shutil
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from deploy.lab import audit, binaries, kubeconfig, layout, state
from deploy.lab.certificates import Authority
from deploy.lab.failure import LabError
from deploy.lab.layout import API_PORT, BRIDGE_ADDRESS
from deploy.lab.process import spawn, stop, tail, wait_until

_ETCD, _PEER = "https://127.0.0.1:23790", "https://127.0.0.1:23791"
NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


class ControlPlane:
    """The lab's control plane. Objects are cheap; the state is in files and processes."""

    url = f"https://{BRIDGE_ADDRESS}:{API_PORT}"

    def __init__(self) -> None:
        self.folder = layout.lab_root() / "control-plane"
        self.authority = Authority(layout.lab_root() / "pki")
        self.token_file = self.folder / "token"
        self.kubeconfig = self.folder / "kubeconfig"
        self.audit_file = self.folder / "audit.log"
        """Writes of Pods outside of kube-system, by `deploy.lab.audit`."""

    @property
    def token(self) -> str:
        """The administrator's bearer token."""
        return self.token_file.read_text()

    def running(self) -> bool:
        """Whether all four processes run and the API answers."""
        return all(state.alive(name) for name in NAMES) and self.answers()

    def ensure(self) -> None:
        """Start what does not run; returns when the API answers."""
        self._write_credentials()
        for name, command in (
            ("etcd", self._etcd()),
            ("kube-apiserver", self._server()),
            ("kube-controller-manager", self._controllers()),
            ("kube-scheduler", self._scheduler()),
        ):
            if not state.alive(name):
                state.record(name, spawn(command, self.log(name)))
            if name == "kube-apiserver" and not wait_until(self._settled, 90):
                raise LabError(f"the API server does not get ready:\n{tail(self.log(name))}")

    def stop(self) -> None:
        """End the processes. May be called twice."""
        stop([process for name in NAMES if (process := state.recorded(name)) is not None], grace=1.0)
        for name in NAMES:
            state.forget(name)

    def remove(self) -> None:
        """`stop`, and forget the cluster and its certificates."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.authority.folder, ignore_errors=True)

    def answers(self) -> bool:
        """Whether the API server says that it is ready."""
        return self.token_file.exists() and self._get("/readyz")

    def log(self, name: str) -> Path:
        """The output of one of the processes."""
        return state.log_folder(layout.lab_root()) / f"{name}.log"

    def client(self, name: str, user: str, groups: tuple[str, ...] = ()) -> Path:
        """A kubeconfig of a component that runs on the host."""
        certificate = self.authority.issue(name, user, groups=groups)
        file = self.folder / f"{name}.kubeconfig"
        return kubeconfig.write(file, self.url, self.authority.certificate, certificate=certificate)

    def _settled(self) -> bool:
        return not state.alive("kube-apiserver") or (self.answers() and self._get("/api/v1/namespaces/kube-system"))

    def _get(self, path: str) -> bool:
        context = ssl.create_default_context(cafile=self.authority.certificate)
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.token}"})
        try:
            with urllib.request.urlopen(request, timeout=3, context=context) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False

    def _write_credentials(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        tokens = self.folder / "tokens.csv"
        if not tokens.exists():
            token = secrets.token_hex(16)
            kubeconfig.write_private(self.token_file, token)
            kubeconfig.write_private(tokens, f"{token},admin,admin,system:masters\n")
        admin = self.authority.issue("admin", "admin", groups=["system:masters"])
        kubeconfig.write(self.kubeconfig, self.url, self.authority.certificate, certificate=admin)

    def _audit_policy(self) -> Path:
        pods = "system:serviceaccounts"
        rules = (
            {"level": "None", "userGroups": [f"{pods}:kube-system"]},
            {
                "level": "RequestResponse",
                "userGroups": [pods],
                "verbs": sorted(audit.WRITES),
                "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}],
            },
            {"level": "Metadata", "userGroups": [pods], "verbs": sorted(audit.WRITES)},
        )
        file = self.folder / "audit-policy.json"
        file.write_text(audit.policy(*rules))
        return file

    def _etcd(self) -> list[str | Path]:
        member = self.authority.issue("etcd", "etcd", addresses=["127.0.0.1"])
        authority = self.authority.certificate
        return [
            binaries.path("etcd"),
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={_ETCD}",
            f"--advertise-client-urls={_ETCD}",
            f"--listen-peer-urls={_PEER}",
            f"--initial-advertise-peer-urls={_PEER}",
            f"--initial-cluster=default={_PEER}",
            f"--cert-file={member.certificate}",
            f"--key-file={member.key}",
            f"--trusted-ca-file={authority}",
            "--client-cert-auth",
            f"--peer-cert-file={member.certificate}",
            f"--peer-key-file={member.key}",
            f"--peer-trusted-ca-file={authority}",
            "--peer-client-cert-auth",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def _server(self) -> list[str | Path]:
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        addresses = [BRIDGE_ADDRESS, layout.SERVICE_API, "127.0.0.1", "localhost", *names]
        served = self.authority.issue("kube-apiserver", "kube-apiserver", addresses=addresses)
        to_kubelet = self.authority.issue("kubelet-client", "kube-apiserver", groups=["system:masters"])
        to_etcd = self.authority.issue("etcd-client", "kube-apiserver")
        private, public = self.authority.signing_key("service-account")
        return [
            binaries.path("kube-apiserver"),
            f"--etcd-servers={_ETCD}",
            f"--etcd-cafile={self.authority.certificate}",
            f"--etcd-certfile={to_etcd.certificate}",
            f"--etcd-keyfile={to_etcd.key}",
            f"--advertise-address={BRIDGE_ADDRESS}",
            f"--bind-address={BRIDGE_ADDRESS}",
            f"--secure-port={API_PORT}",
            f"--tls-cert-file={served.certificate}",
            f"--tls-private-key-file={served.key}",
            f"--client-ca-file={self.authority.certificate}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            f"--kubelet-certificate-authority={self.authority.certificate}",
            f"--kubelet-client-certificate={to_kubelet.certificate}",
            f"--kubelet-client-key={to_kubelet.key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer=https://kubernetes.default.svc.{layout.DOMAIN}",
            f"--service-account-key-file={public}",
            f"--service-account-signing-key-file={private}",
            f"--service-cluster-ip-range={layout.SERVICE_NETWORK}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--audit-policy-file={self._audit_policy()}",
            f"--audit-log-path={self.audit_file}",
            # A log that is rotated while it is read would be read from the wrong place; the lab's is gone before that.
            "--audit-log-maxsize=512",
            "--audit-log-maxbackup=1",
            # Volumes are bound to nodes, so that a Pod waits for its node anyway: tests need not wait for minutes.
            "--default-not-ready-toleration-seconds=30",
            "--default-unreachable-toleration-seconds=30",
            f"--cert-dir={self.folder / 'self-signed'}",
        ]

    def _controllers(self) -> list[str | Path]:
        private, _ = self.authority.signing_key("service-account")
        return [
            binaries.path("kube-controller-manager"),
            f"--kubeconfig={self.client('controllers', 'system:kube-controller-manager')}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={private}",
            f"--root-ca-file={self.authority.certificate}",
            f"--cluster-signing-cert-file={self.authority.certificate}",
            f"--cluster-signing-key-file={self.authority.key}",
            "--node-monitor-period=2s",
            "--node-monitor-grace-period=12s",
            f"--cert-dir={self.folder / 'self-signed-controllers'}",
        ]

    def _scheduler(self) -> list[str | Path]:
        return [
            binaries.path("kube-scheduler"),
            f"--kubeconfig={self.client('scheduler', 'system:kube-scheduler')}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            f"--cert-dir={self.folder / 'self-signed-scheduler'}",
        ]
