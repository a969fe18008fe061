"""Resident memory: agent and supervisor on an idle server; the operator with no Database and with ten.

The operator runs against a real API server without controllers: Pods stay pending, so no agent answers it. It finds that
server as in a Pod, by a service account's folder, since reading a kubeconfig costs memory that no Pod spends; the agent of
the harness does read one. Its ten Databases have one instance each.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from deploy.lab.apiserver import LocalApiServer
from deploy.lab.ports import free_port
from tests.bench.bench import Bench
from tests.bench.found import Found
from tests.bench.machine import BenchError, resident, say
from tests.bench.rig import PodProcess

ROOT = Path(__file__).parents[2]
IDLE = 15.0
DATABASES = 10
# Where a Pod's service account is mounted is fixed; here it is told.
START = """
import sys
from pathlib import Path
import yoban.kube.config
yoban.kube.config.in_cluster.__kwdefaults__["folder"] = Path(sys.argv.pop(1))
from yoban.cli.main import main
sys.exit(main(["operator"]))
"""
DATABASE = """
apiVersion: yoban.dev/v1alpha1
kind: Database
metadata: {{name: db-{number}}}
spec:
  engine: postgres
  version: "17"
  instances: 1
  storage: {{size: 1Gi}}
---
"""


async def agent(found: Found, pod: PodProcess, name: str) -> None:
    """Measure agent and supervisor after some idle seconds."""
    await asyncio.sleep(IDLE)
    assert pod.process is not None
    agent_pid = pod.agent_pid
    assert agent_pid is not None
    measured = found.record(name, "MB", [resident([agent_pid, pod.process.pid])])
    found.facts[f"{name}.parts"] = {"agent": resident([agent_pid]), "supervisor": resident([pod.process.pid])}
    say(f"agent and supervisor: {measured}")


def operator(bench: Bench) -> None:
    """Measure the operator. Blocking."""
    with LocalApiServer() as api:
        api.kubectl("apply", "-f", str(ROOT / "deploy/crds"))
        api.kubectl("create", "namespace", "bench")
        with _process(api, bench.folder) as process:
            time.sleep(IDLE)
            found = bench.record("memory.operator", "MB", [resident([process.pid])])
            say(f"operator with no Database: {found}")
            databases = "".join(DATABASE.format(number=number) for number in range(DATABASES))
            api.kubectl("apply", "-n", "bench", "-f", "-", stdin=databases)
            _until(
                "ten StatefulSets are there",
                lambda: len(api.kubectl("get", "statefulsets", "-n", "bench", "-o", "name").split()) == DATABASES,
            )
            time.sleep(IDLE)
            found = bench.record("memory.operator10", "MB", [resident([process.pid])])
            say(f"operator with ten Databases: {found}")


@contextlib.contextmanager
def _process(api: LocalApiServer, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    health = free_port()
    account = folder / "account"
    account.mkdir(mode=0o700)
    for name, text in (("token", api.token), ("ca.crt", api.ca_file.read_text()), ("namespace", "bench")):
        (account / name).write_text(text)
    env = {
        "PATH": os.environ["PATH"],
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(api.port),
        "YOBAN_NAMESPACE": "bench",
        "YOBAN_IMAGE": "yoban:bench",
        "YOBAN_POD": "operator",
        "YOBAN_BIND": "127.0.0.1",
        "YOBAN_HEALTH_PORT": str(health),
        "YOBAN_METRICS_PORT": str(free_port()),
    }
    with (folder / "operator.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", START, str(account)], env=env, stdout=log, stderr=log)

    def ready() -> bool:
        if process.poll() is not None:
            raise BenchError(f"the operator has ended:\n{(folder / 'operator.log').read_text()[-1500:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{health}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        _until("the operator is ready", ready)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until(what: str, check: object, seconds: float = 90.0) -> None:
    assert callable(check)
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise BenchError(f"not within {seconds:g} s: {what}")
        time.sleep(0.2)
