"""`kubectl yoban trace`: spans of several Pods become one waterfall."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from yoban.cli import trace
from yoban.cli.cluster import Cluster, default_kubeconfig
from yoban.cli.main import kubectl_main
from yoban.errors import Unavailable
from yoban.kube.client import Client
from yoban.kube.resource import POD
from yoban.telemetry.spans import SpanRecord, encode
from yoban.testing.apiserver import FakeApiServer

TRACE = "4" * 32
OPERATOR = SpanRecord(TRACE, "a" * 16, "", "policy", "operator", 0, 9_000_000_000)
AGENT = SpanRecord(TRACE, "b" * 16, "a" * 16, "backup", "agent/orders-2", 1_000_000_000, 8_000_000_000)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A cluster with a Backup and two Pods; what each Pod serves, by name."""
    served = {"yoban-0": encode([OPERATOR]), "orders-2-0": encode([AGENT])}

    class Pages(Cluster):
        async def pod_page(self, namespace: str, pod: str, port: int, path: str) -> bytes:
            assert path == f"traces/{TRACE}"
            assert (namespace, port) == (("yoban-system", 8080) if pod.startswith("yoban") else ("shop", 9187))
            if pod not in served:
                raise Unavailable("answered 503", object=f"Pod {pod}")
            return served[pod]

    @asynccontextmanager
    async def connect(_: Any) -> AsyncIterator[Cluster]:
        server = FakeApiServer()
        server.register(trace.BACKUP)
        for name, status in (("nightly", {"traceId": TRACE}), ("young", {})):
            meta = {"namespace": "shop", "name": name}
            server.put(trace.BACKUP, {"metadata": meta, "spec": {"database": "orders"}, "status": status})
        operator = {"app.kubernetes.io/name": "yoban", "app.kubernetes.io/component": "operator"}
        for namespace, name, labels in (
            ("yoban-system", "yoban-0", operator),
            ("yoban-system", "yoban-1", operator),
            ("shop", "orders-2-0", {"yoban.dev/database": "orders"}),
            ("shop", "other-1-0", {"yoban.dev/database": "other"}),
        ):
            server.put(POD, {"metadata": {"namespace": namespace, "name": name, "labels": labels}})
        async with Client(server) as client:
            yield Pages(client, "shop")

    monkeypatch.setattr(trace, "connect", connect)
    yield served


def test_the_spans_of_all_pods_are_joined(pages: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    assert kubectl_main(["trace", "nightly", "--width", "90"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == f"Backup nightly, trace {TRACE}, 2 spans"
    assert lines[2].startswith("policy ")
    assert lines[3].startswith("  backup ")
    assert shown.err == "left out: Pod yoban-1: answered 503\n"


def test_a_pod_that_answers_nonsense_is_left_out(pages: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    pages["orders-2-0"] = b"<html>"
    pages["yoban-1"] = b""
    assert kubectl_main(["trace", "nightly"]) == 0
    shown = capsys.readouterr()
    assert "1 spans" in shown.out
    assert "left out" in shown.err


def test_a_backup_without_a_trace_yet(pages: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    assert kubectl_main(["trace", "young"]) == 1
    assert "Backup shop/young: has no trace yet; wait until it has begun" in capsys.readouterr().err


def test_a_trace_that_is_forgotten(pages: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    pages.update({"yoban-0": b"", "yoban-1": b"", "orders-2-0": b""})
    assert kubectl_main(["trace", "nightly"]) == 1
    assert "no process has spans of it any more" in capsys.readouterr().err


def test_the_kubeconfig_is_found_as_kubectl_finds_it(tmp_path: Path) -> None:
    home, other = tmp_path / ".kube" / "config", tmp_path / "other"
    assert default_kubeconfig({"HOME": str(tmp_path)}) is None
    assert default_kubeconfig({}) is None
    home.parent.mkdir()
    home.touch()
    other.touch()
    assert default_kubeconfig({"HOME": str(tmp_path)}) == home
    assert default_kubeconfig({"HOME": str(tmp_path), "KUBECONFIG": f"{tmp_path}/no:{other}"}) == other
    assert default_kubeconfig({"HOME": str(tmp_path), "KUBECONFIG": f"{tmp_path}/no"}) is None


def test_without_a_kubeconfig_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kubectl_main(["trace", "nightly"]) == 1
    assert "no kubeconfig was found; set KUBECONFIG, or pass --kubeconfig FILE" in capsys.readouterr().err


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Path]:
    """A kubeconfig of an HTTP server that answers like an API server with Pods behind its proxy."""
    backup = {
        "metadata": {"namespace": "shop", "name": "nightly"},
        "spec": {"database": "orders"},
        "status": {"traceId": TRACE},
    }
    pods = [{"metadata": {"namespace": "shop", "name": "orders-2-0"}}, {"metadata": {"name": "gone"}}]
    api = "/api/v1/namespaces"
    answers: dict[str, bytes] = {
        "/apis/yoban.dev/v1alpha1/namespaces/shop/backups/nightly": json.dumps(backup).encode(),
        f"{api}/shop/pods": json.dumps({"metadata": {"resourceVersion": "1"}, "items": pods}).encode(),
        f"{api}/yoban-system/pods": json.dumps({"metadata": {"resourceVersion": "1"}, "items": []}).encode(),
        f"{api}/shop/pods/orders-2-0:9187/proxy/traces/{TRACE}": encode([AGENT]),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path.split("?")[0])
            self.send_response(200 if body is not None else 502)
            body = body if body is not None else b"no route to the Pod"
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        path = tmp_path / "kubeconfig"
        path.write_text(
            yaml.safe_dump(
                {
                    "current-context": "c",
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
                    "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                    "users": [{"name": "u", "user": {"token": "t"}}],
                }
            )
        )
        yield path
        server.shutdown()
        thread.join()


def test_pods_are_reached_through_the_api_server(proxy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kubectl_main(["trace", "nightly", "--kubeconfig", str(proxy)]) == 0
    shown = capsys.readouterr()
    assert "1 spans" in shown.out
    assert shown.err == "left out: Pod shop/gone port 9187: answered 502 (no route to the Pod)\n"
