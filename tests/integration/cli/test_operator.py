"""`yoban operator` as a process, on a real API server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from deploy.lab.apiserver import LocalApiServer

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[3]


class Operator:
    """A process of `yoban operator`; `lines` are its log, read when it has ended."""

    def __init__(self, api: LocalApiServer, namespace: str, folder: Path, **environ: str) -> None:
        from deploy.lab.ports import free_port

        self.health, self.metrics = free_port(), free_port()
        self.log = folder / f"{uuid.uuid4().hex}.log"
        env = {
            "PATH": os.environ["PATH"],
            "YOBAN_KUBECONFIG": str(api.kubeconfig),
            "YOBAN_NAMESPACE": namespace,
            "YOBAN_IMAGE": "yoban:test",
            "YOBAN_POD": f"operator-{self.health}",
            "YOBAN_BIND": "127.0.0.1",
            "YOBAN_HEALTH_PORT": str(self.health),
            "YOBAN_METRICS_PORT": str(self.metrics),
            "YOBAN_LEASE_DURATION": "4",
            "YOBAN_LEASE_RENEW_DEADLINE": "2",
            "YOBAN_LEASE_RETRY": "0.5",
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
            **environ,
        }
        with self.log.open("wb") as file:
            self.process = subprocess.Popen([sys.executable, "-m", "yoban.cli.main", "operator"], env=env, stderr=file)

    def page(self, path: str, port: int | None = None) -> tuple[int, str]:
        """Status and text of a page; (0, "") while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port or self.metrics}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def until(self, check: Callable[[], Any], what: str, deadline: float = 60.0) -> Any:
        end = time.monotonic() + deadline
        while not (found := check()):
            assert self.process.poll() is None, f"the operator has ended:\n{self.log.read_text()}"
            assert time.monotonic() < end, f"not within {deadline} s: {what}\n{self.log.read_text()}"
            time.sleep(0.1)
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def namespace(local_apiserver: LocalApiServer) -> str:
    local_apiserver.kubectl("apply", "-f", str(ROOT / "deploy" / "crds"))
    name = f"operator-{uuid.uuid4().hex[:8]}"
    local_apiserver.kubectl("create", "namespace", name)
    return name


@pytest.fixture
def start(local_apiserver: LocalApiServer, namespace: str, tmp_path: Path) -> Iterator[Callable[..., Operator]]:
    running: list[Operator] = []

    def start(**environ: str) -> Operator:
        running.append(Operator(local_apiserver, namespace, tmp_path, YOBAN_NAMESPACES=namespace, **environ))
        return running[-1]

    yield start
    for one in running:
        with contextlib.suppress(ProcessLookupError):
            one.process.kill()
        one.process.wait()


def holder(api: LocalApiServer, namespace: str) -> str:
    with contextlib.suppress(Exception):
        lease = json.loads(api.kubectl("get", "lease", "yoban-operator", "-n", namespace, "-o", "json"))
        return str(lease["spec"].get("holderIdentity") or "")
    return ""


def test_it_leads_serves_and_stops_in_order(
    local_apiserver: LocalApiServer, namespace: str, start: Callable[..., Operator]
) -> None:
    operator = start(YOBAN_LOG_FORMAT="json")
    operator.until(lambda: operator.page("/readyz", operator.health)[0] == 200, "it is ready")
    operator.until(lambda: holder(local_apiserver, namespace), "it leads")
    status, text = operator.page("/metrics")
    assert status == 200
    for name in ("yoban_workqueue_depth", "process_resident_memory_bytes", "target_info"):
        assert re.search(rf"^{name}", text, re.MULTILINE), text
    assert operator.page(f"/traces/{'0' * 32}") == (200, "")
    assert operator.page("/livez", operator.health)[0] == 200
    assert operator.stop() == 0
    assert holder(local_apiserver, namespace) == ""
    lines = [json.loads(line) for line in operator.log.read_text().splitlines()]
    assert {line["service"] for line in lines} == {"yoban-operator"}
    assert any("engines" in line["message"] and namespace in line["message"] for line in lines)


def test_a_standby_serves_and_takes_over(
    local_apiserver: LocalApiServer, namespace: str, start: Callable[..., Operator]
) -> None:
    first = start()
    before = first.until(lambda: holder(local_apiserver, namespace), "the first leads")
    second = start()
    second.until(lambda: second.page("/readyz", second.health)[0] == 200, "the standby is ready")
    assert second.page("/metrics")[0] == 200
    assert holder(local_apiserver, namespace) == before
    assert first.stop() == 0
    second.until(lambda: holder(local_apiserver, namespace) not in ("", before), "the standby leads")
    assert second.stop() == 0


def test_an_object_is_reconciled(
    local_apiserver: LocalApiServer, namespace: str, start: Callable[..., Operator]
) -> None:
    spec = {"provider": "nobody-has-this", "bucket": "backups"}
    store = {
        "apiVersion": "yoban.dev/v1alpha1",
        "kind": "ObjectStore",
        "metadata": {"name": "s", "namespace": namespace},
    }
    local_apiserver.kubectl("apply", "-f", "-", stdin=json.dumps({**store, "spec": spec}))
    operator = start()

    def ready() -> dict[str, Any] | None:
        found = json.loads(local_apiserver.kubectl("get", "objectstore", "s", "-n", namespace, "-o", "json"))
        conditions = {one["type"]: one for one in found.get("status", {}).get("conditions", [])}
        return conditions.get("Ready")

    condition = operator.until(ready, "there is a condition")
    assert condition["status"] == "False"
    assert "nobody-has-this" in condition["message"]


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"YOBAN_WORKERS": "0"}, "settings: cannot be used (YOBAN_WORKERS: "),
        ({"YOBAN_PLUGINS": "nope"}, "YOBAN_PLUGINS names plugin 'nope', which is not installed"),
        ({"YOBAN_KUBECONFIG": "/does/not/exist"}, "kubeconfig /does/not/exist: cannot be read"),
    ],
)
def test_a_wrong_setting_ends_it_with_a_message(
    start: Callable[..., Operator], environ: dict[str, str], text: str
) -> None:
    operator = start(**environ)
    assert operator.process.wait(60) == 1
    assert text in operator.log.read_text()


def test_a_frozen_leader_ends_and_another_takes_over(
    local_apiserver: LocalApiServer, namespace: str, start: Callable[..., Operator]
) -> None:
    first = start()
    before = first.until(lambda: holder(local_apiserver, namespace), "the first leads")
    second = start()
    second.until(lambda: second.page("/readyz", second.health)[0] == 200, "the standby is ready")
    first.process.send_signal(signal.SIGSTOP)
    second.until(lambda: holder(local_apiserver, namespace) not in ("", before), "the standby leads")
    first.process.send_signal(signal.SIGCONT)
    assert first.process.wait(30) != 0
