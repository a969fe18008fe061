"""What the Pod tells its agent through the environment: who it is and where things are.

Outside of Kubernetes `YOBAN_ROOT` is put before every path of the Pod, so that several agents can run on one machine.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from yoban.errors import InvalidInput
from yoban.model.instance import (
    ACCOUNTS_DIR,
    CONTROL_PORT,
    METRICS_PORT,
    PROBE_PORT,
    RUN_DIR,
    SOURCE_DIR,
    SPEC_DIR,
    STORE_DIR,
    TLS_DIR,
)


@dataclass(frozen=True, slots=True)
class Environment:
    """One Pod.

    Attributes:
        namespace, pod, instance, number, database: names, and the instance's number.
        pod_uid: tells two Pods of one name apart; "" when unknown (the supervisor's own id is used then).
        memory, cpus: limits of the container, 0 when none.
        root: put before paths of the Pod; empty in a Pod.
        run: sockets; `tmp`: scratch.
        ask: the tiny client.
        bind: address to listen on, None for all.
        probe_port, metrics_port, control_port: our listeners.
        kubeconfig: for tests outside of a cluster; None in a Pod.
    """

    namespace: str
    pod: str
    instance: str
    number: int
    database: str
    pod_uid: str
    memory: int
    cpus: float
    root: Path
    run: Path
    tmp: Path
    ask: Path
    bind: str | None
    probe_port: int
    metrics_port: int
    control_port: int
    kubeconfig: Path | None

    def path(self, inside: str | PurePosixPath) -> Path:
        """Where a path of the Pod is: the same, or below `root`."""
        return self.root / str(inside).lstrip("/")

    @property
    def spec(self) -> Path:
        """Folder of the instance document."""
        return self.path(SPEC_DIR)

    @property
    def accounts(self) -> Path:
        """Folder with a file per purpose, each a password."""
        return self.path(ACCOUNTS_DIR)

    @property
    def tls(self) -> Path:
        """Folder of the certificates."""
        return self.path(TLS_DIR)

    @property
    def store(self) -> Path:
        """Folder of the archive store's configuration."""
        return self.path(STORE_DIR)

    @property
    def source(self) -> Path:
        """Folder of the configuration of the store that is restored from."""
        return self.path(SOURCE_DIR)

    @property
    def supervisor_socket(self) -> Path:
        """Where the supervisor listens."""
        return self.run / "supervisor.sock"

    @property
    def agent_socket(self) -> Path:
        """Where the tiny client finds us."""
        return self.run / "agent.sock"


def read_environment(environ: Mapping[str, str]) -> Environment:
    """Understand the environment.

    Raises:
        InvalidInput: a variable is missing or malformed.
    """

    def need(name: str) -> str:
        value = environ.get(name, "")
        if not value:
            raise InvalidInput(
                f"{name} is not set", object="agent", fix="start it from the Pod that the operator makes"
            )
        return value

    def number(name: str, default: float) -> float:
        text = environ.get(name) or str(default)
        try:
            return float(text)
        except ValueError as error:
            raise InvalidInput(f"{name} is no number: {text!r}", object="agent") from error

    root = Path(environ.get("YOBAN_ROOT") or "/")
    run = Path(environ.get("YOBAN_RUN_DIR") or root / RUN_DIR.lstrip("/"))
    kubeconfig = environ.get("YOBAN_KUBECONFIG")
    return Environment(
        namespace=need("YOBAN_NAMESPACE"),
        pod=environ.get("YOBAN_POD") or socket.gethostname(),
        instance=need("YOBAN_INSTANCE"),
        number=int(number("YOBAN_INSTANCE_NUMBER", 1)),
        database=need("YOBAN_DATABASE"),
        pod_uid=environ.get("YOBAN_POD_UID", ""),
        memory=int(number("YOBAN_MEMORY", 0)),
        cpus=number("YOBAN_CPUS", 0),
        root=root,
        run=run,
        tmp=Path(environ.get("YOBAN_TMP_DIR") or root / "tmp"),
        ask=Path(environ.get("YOBAN_ASK") or "/opt/yoban/bin/yoban-ask"),
        bind=environ.get("YOBAN_BIND") or None,
        probe_port=int(number("YOBAN_PROBE_PORT", PROBE_PORT)),
        metrics_port=int(number("YOBAN_METRICS_PORT", METRICS_PORT)),
        control_port=int(number("YOBAN_CONTROL_PORT", CONTROL_PORT)),
        kubeconfig=Path(kubeconfig) if kubeconfig else None,
    )
