"""Sets up logs, traces and metrics of one process, and takes them down again.

Guarantees that telemetry never stops the work: an exporter that cannot be made is a warning, and one that does not answer
costs nothing but memory that is bounded. OTLP is imported only when `OTEL_EXPORTER_OTLP_ENDPOINT` is set.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from yoban import __version__
from yoban.telemetry import logs, process, propagation
from yoban.telemetry.prometheus import PrometheusReader
from yoban.telemetry.spans import SpanKeeper, encode

log = logging.getLogger(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""Environment variable: base URL of an OTLP/HTTP collector; with it, traces and metrics go there too."""

SHUTDOWN = 2.0
"""Seconds that the last export may take; what a collector has not taken by then is lost."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Bounds of the buckets of every histogram of seconds; the SDK's own are meant for milliseconds."""


@dataclass(frozen=True)
class Telemetry:
    """What `setup` made.

    Attributes:
        reader: renders the metrics.
        keeper: holds finished spans.
        tracers, meters: the SDK's providers.
    """

    reader: PrometheusReader
    keeper: SpanKeeper
    tracers: TracerProvider
    meters: MeterProvider

    def metrics_text(self) -> tuple[bytes, str]:
        """Return the page for `/metrics` and its content type. Blocks for the observers: call it in a thread."""
        return self.reader.text()

    def trace_lines(self, trace_id: str) -> bytes:
        """Return the spans of a trace that this process has, as JSON lines, for `/traces/{trace id}`."""
        return encode(self.keeper.spans(trace_id))

    def shutdown(self) -> None:
        """Send what is left and end the exporters' threads. May be called twice; blocks for a few seconds at most."""

        def end() -> None:
            try:
                self.tracers.shutdown()
                self.meters.shutdown()
            except Exception as error:
                log.warning("the last traces and metrics are lost: %s", error)

        # The SDK waits half a minute for each; a thread that is a daemon does not keep the process.
        ending = threading.Thread(target=end, name="yoban-telemetry-end", daemon=True)
        ending.start()
        ending.join(SHUTDOWN)


_made: Telemetry | None = None


def setup(
    service: str,
    *,
    instance: str = "",
    log_format: logs.Format = "auto",
    log_level: str = "info",
    stream: TextIO | None = None,
) -> Telemetry:
    """Set up the process: once, before its first span. Called again it only configures the logs anew.

    Args:
        service: `yoban-operator`, `yoban-agent`, …
        instance: which one: the Pod's name.
        log_format: `auto` is readable on a terminal, JSON elsewhere.
        log_level: `debug`, `info`, `warning` or `error`.
        stream: where logs go, standard error by default.
    """
    global _made
    logs.configure(service, instance=instance, format=log_format, level=log_level, stream=stream)
    if _made is None:
        _made = build(service, instance, os.environ)
        trace.set_tracer_provider(_made.tracers)
        metrics.set_meter_provider(_made.meters)
        process.observe(_made.meters.get_meter("yoban.process"))
        propagation.on_crossing(_made.keeper.pin)
    return _made


def build(service: str, instance: str, environ: Mapping[str, str]) -> Telemetry:
    """Make providers without installing them: for `setup`, and for tests."""
    facts = {"service.name": service, "service.version": __version__}
    if instance:
        facts["service.instance.id"] = instance
    resource = Resource(facts)
    reader = PrometheusReader()
    keeper = SpanKeeper(f"{service.removeprefix('yoban-')}/{instance}" if instance else service.removeprefix("yoban-"))
    processors: list[SpanProcessor] = [keeper]
    readers: list[MetricReader] = [reader]
    if environ.get(ENDPOINT):
        try:
            processor, otlp_reader = _otlp()
        except ImportError as error:
            log.warning("%s is set, but OTLP is not installed (%s); install yoban[otlp]", ENDPOINT, error)
        except Exception as error:
            log.warning("%s is set, but its exporters cannot be made (%s); going on without it", ENDPOINT, error)
        else:
            processors.append(processor)
            readers.append(otlp_reader)
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    for processor in processors:
        tracers.add_span_processor(processor)
    seconds = View(
        instrument_type=Histogram, instrument_unit="s", aggregation=ExplicitBucketHistogramAggregation(SECONDS)
    )
    meters = MeterProvider(metric_readers=readers, resource=resource, views=[seconds], shutdown_on_exit=False)
    return Telemetry(reader, keeper, tracers, meters)


def _otlp() -> tuple[SpanProcessor, MetricReader]:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    processor: SpanProcessor = BatchSpanProcessor(OTLPSpanExporter())
    try:
        return processor, PeriodicExportingMetricReader(OTLPMetricExporter())
    except Exception:
        processor.shutdown()
        raise
