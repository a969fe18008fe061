"""The lab's S3 server on the host's side of the bridge: Pods and tests reach it at a fixed address.

`ENDPOINT` passes through a front that can be slowed down; `TLS_ENDPOINT` too, with a certificate of the lab's CA;
`DIRECT_ENDPOINT` is the server itself, for measurements. Guarantees that buckets survive `stop` and `start`.
"""

from __future__ import annotations

import secrets
import shutil
import sys
import time
from pathlib import Path

from deploy.lab import layout, state
from deploy.lab.certificates import Authority
from deploy.lab.failure import LabError
from deploy.lab.front import REREAD
from deploy.lab.kubeconfig import write_private
from deploy.lab.layout import BRIDGE_ADDRESS, REPOSITORY, RUN, STORE_PORT, STORE_TLS_PORT
from deploy.lab.process import spawn, stop, tail, wait_until
from deploy.lab.store import REGION, accepts, server_arguments, server_environment

ENDPOINT = f"http://{BRIDGE_ADDRESS}:{STORE_PORT}"
TLS_ENDPOINT = f"https://{BRIDGE_ADDRESS}:{STORE_TLS_PORT}"
_DIRECT_PORT, _DIRECT_TLS_PORT = 9100, 9101
DIRECT_ENDPOINT = f"http://{BRIDGE_ADDRESS}:{_DIRECT_PORT}"
ACCESS_KEY = "yoban-lab"
NAMES = ("store", "store-tls", "store-front")
_DELAY = RUN / "store-delay"


class ObjectStore:
    """The lab's store. Objects are cheap; the state is in files and processes."""

    endpoint, tls_endpoint, direct_endpoint, region = ENDPOINT, TLS_ENDPOINT, DIRECT_ENDPOINT, REGION
    access_key = ACCESS_KEY

    def __init__(self, authority: Authority):
        self._authority = authority
        self.folder = layout.lab_root() / "store"
        self.credentials_file = self.folder / "credentials"
        """The account in the AWS file format, mode 0600."""

    @property
    def secret_key(self) -> str:
        """The account's secret."""
        return self.credentials_file.read_text().split("aws_secret_access_key = ")[1].strip()

    def running(self) -> bool:
        """Whether its processes run."""
        return all(state.alive(name) for name in NAMES)

    def start(self) -> None:
        """Start what does not run; returns when it accepts connections."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.credentials_file.exists():
            content = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {secrets.token_hex(16)}\n"
            write_private(self.credentials_file, f"[default]\n{content}")
        certificate = self._authority.issue("store", "store", addresses=[BRIDGE_ADDRESS])
        environment = server_environment(ACCESS_KEY, self.secret_key)
        data, direct, tls = (
            self.folder / "data",
            f"{BRIDGE_ADDRESS}:{_DIRECT_PORT}",
            f"{BRIDGE_ADDRESS}:{_DIRECT_TLS_PORT}",
        )
        pairs = [f"{BRIDGE_ADDRESS}:{STORE_PORT}={direct}", f"{BRIDGE_ADDRESS}:{STORE_TLS_PORT}={tls}"]
        front: list[str | Path] = [sys.executable, "-m", "deploy.lab.front", _DELAY, *pairs]
        for name, command, more in (
            ("store", server_arguments(data, direct), environment),
            ("store-tls", server_arguments(data, tls, certificate), environment),
            ("store-front", front, {"PYTHONPATH": str(REPOSITORY)}),
        ):
            if not state.alive(name):
                state.record(name, spawn(command, self._log(name), environment=more))
        for port in (_DIRECT_PORT, _DIRECT_TLS_PORT, STORE_PORT, STORE_TLS_PORT):
            if not wait_until(lambda port=port: accepts(BRIDGE_ADDRESS, port), 15):  # type: ignore[misc]
                logs = "\n".join(tail(self._log(name)) for name in NAMES)
                raise LabError(f"the object store does not listen at {BRIDGE_ADDRESS}:{port}:\n{logs}")

    def stop(self) -> None:
        """End it: connections break and are refused. May be called twice."""
        stop([process for name in NAMES if (process := state.recorded(name)) is not None], grace=2.0)
        for name in NAMES:
            state.forget(name)

    def slow(self, milliseconds: float) -> None:
        """Hold each piece of data back, in both directions, also on open connections; 0 ends it."""
        _DELAY.parent.mkdir(parents=True, exist_ok=True)
        _DELAY.write_text(f"{milliseconds:g}")
        time.sleep(2 * REREAD)  # when we return, the front has read it

    def remove(self) -> None:
        """`stop`, and remove all buckets."""
        self.stop()
        _DELAY.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _log(self, name: str) -> Path:
        return state.log_folder(layout.lab_root()) / f"{name}.log"
