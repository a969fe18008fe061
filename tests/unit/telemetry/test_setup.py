"""Setting up a process: nothing is exported unless it is asked for, and telemetry never stops the work."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from yoban.telemetry import process, setup
from yoban.telemetry.setup import ENDPOINT, build


def run(code: str, **environ: str) -> str:
    """Run code in a process of its own, as providers are global; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PATH": "/usr/bin:/bin", **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_process_serves_its_metrics_and_traces() -> None:
    code = """
from opentelemetry import metrics, trace
early = metrics.get_meter("early").create_counter("early")
from yoban.telemetry import traceparent, trace_id
from yoban.telemetry.setup import setup
t = setup("yoban-agent", instance="orders-1-0", log_format="json")
assert setup("yoban-agent", log_format="text") is t
early.add(1)
with trace.get_tracer("x").start_as_current_span("work"):
    sent = traceparent()
text, kind = t.metrics_text()
for name in ("early_total 1", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
    assert name in text.decode(), text
print(t.trace_lines(trace_id(sent)).decode())
t.shutdown()
import sys
assert not [name for name in sys.modules if "otlp" in name]
"""
    assert json.loads(run(code))["name"] == "work"


def test_otlp_goes_where_the_environment_says() -> None:
    received: list[str] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        code = """
from opentelemetry import metrics, trace
from yoban.telemetry.setup import setup
t = setup("yoban-agent")
metrics.get_meter("x").create_counter("x").add(1)
with trace.get_tracer("x").start_as_current_span("work"):
    pass
t.shutdown()
"""
        run(code, **{ENDPOINT: f"http://127.0.0.1:{server.server_port}"})
        server.shutdown()
        thread.join()
    assert set(received) == {"/v1/traces", "/v1/metrics"}


def test_without_the_exporter_it_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if "otlp" in name:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    made = build("yoban-test", "", {ENDPOINT: "http://127.0.0.1:9"})
    assert "install yoban[otlp]" in caplog.text
    made.shutdown()


@pytest.mark.parametrize("name", ["OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_METRIC_EXPORT_INTERVAL"])
def test_bug_a_setting_that_an_exporter_refuses_stopped_the_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv(name, "0")
    made = build("yoban-test", "", {ENDPOINT: "http://127.0.0.1:9"})
    assert "without it" in caplog.text
    assert not [thread for thread in threading.enumerate() if "Otel" in thread.name]
    made.shutdown()


class Exporter:
    """A provider whose shutdown waits for a collector."""

    def __init__(self) -> None:
        self.asked, self.answered, self.ended = threading.Event(), threading.Event(), threading.Event()

    def shutdown(self) -> None:
        self.asked.set()
        self.answered.wait(10)
        self.ended.set()


def test_bug_a_collector_that_is_silent_kept_the_process_from_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "SHUTDOWN", 0.1, raising=False)
    tracers, meters = Exporter(), Exporter()
    made: Any = replace(build("yoban-test", "", {}), tracers=tracers, meters=meters)
    made.shutdown()
    assert tracers.asked.is_set()
    assert not tracers.ended.is_set()
    for one in (tracers, meters):
        one.answered.set()
        assert one.ended.wait(10)


def test_an_exporter_that_fails_at_the_end_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        def shutdown(self) -> None:
            raise RuntimeError("no more")

    made: Any = replace(build("yoban-test", "", {}), tracers=Failing())
    made.shutdown()
    assert "no more" in caplog.text


def test_a_system_without_proc_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert (process.resident_bytes() or 0) > 1_000_000
    assert (process.open_files() or 0) > 0
    monkeypatch.setattr(process, "_PROC", tmp_path / "nothing")
    assert process.resident_bytes() is None
    assert process.open_files() is None
    made = build("yoban-test", "", {})
    process.observe(made.meters.get_meter("p"))
    text = made.metrics_text()[0].decode()
    assert "resident" not in text
    assert "process_start_time_seconds" in text
