"""The meter's figures as Prometheus text (exposition format 0.0.4), read when somebody asks.

Guarantees names and labels that Prometheus accepts, cumulative values, and a stable order. Keeps nothing between two
readings. Exponential histograms are left out: nothing of ours makes them.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from opentelemetry.sdk.metrics.export import (
    DataPointT,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricReader,
    MetricsData,
    NumberDataPoint,
    Sum,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_UNITS = {"s": "seconds", "ms": "milliseconds", "By": "bytes", "By/s": "bytes_per_second"}


class PrometheusReader(MetricReader):
    """A metric reader whose `text` renders everything that the meter provider has."""

    def __init__(self) -> None:
        super().__init__()
        self._reading = threading.Lock()
        self._data: MetricsData | None = None

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> None:
        self._data = metrics_data

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Nothing is held that would have to be given back."""

    def text(self) -> tuple[bytes, str]:
        """Return the page and its content type. Calls the observers; may be called from any thread."""
        with self._reading:
            self._data = None
            self.collect()
            data = self._data
        return render(data).encode(), CONTENT_TYPE


def render(data: MetricsData | None) -> str:
    """Return the page for what a reader received; metrics sorted by name."""
    families: dict[str, list[str]] = {}
    for resource in data.resource_metrics if data else ():
        facts = {
            key: str(value) for key, value in resource.resource.attributes.items() if not key.startswith("telemetry")
        }
        families["target_info"] = [
            "# HELP target_info What this process is.",
            "# TYPE target_info gauge",
            f"target_info{_labels(facts)} 1",
        ]
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                name, kind = _name_and_kind(metric)
                if kind:
                    head = [f"# HELP {name} {_help(metric.description)}", f"# TYPE {name} {kind}"]
                    families.setdefault(name, head).extend(_samples(name, kind, metric))
    return "".join(f"{line}\n" for name in sorted(families) for line in families[name])


def _name_and_kind(metric: Metric) -> tuple[str, str]:
    name = re.sub(r"[^a-zA-Z0-9_]", "_", metric.name)
    unit = _UNITS.get(metric.unit or "", "")
    if unit and not name.endswith(f"_{unit}"):
        name += f"_{unit}"
    if isinstance(metric.data, Sum) and metric.data.is_monotonic:
        return name if name.endswith("_total") else f"{name}_total", "counter"
    if isinstance(metric.data, (Sum, Gauge)):
        return name, "gauge"
    return name, "histogram" if isinstance(metric.data, Histogram) else ""


def _samples(name: str, kind: str, metric: Metric) -> Iterator[str]:
    for point in sorted(metric.data.data_points, key=_order):
        labels = dict(point.attributes or {})
        if isinstance(point, NumberDataPoint):
            yield f"{name}{_labels(labels)} {_number(point.value)}"
        elif isinstance(point, HistogramDataPoint):
            yield from _histogram(name, labels, point)


def _order(point: DataPointT) -> list[tuple[str, str]]:
    return sorted((key, str(value)) for key, value in (point.attributes or {}).items())


def _histogram(name: str, labels: Mapping[str, Any], point: HistogramDataPoint) -> Iterator[str]:
    total = 0
    for bound, count in zip(_bounds(point), point.bucket_counts, strict=True):
        total += count
        yield f"{name}_bucket{_labels({**labels, 'le': _number(bound)})} {total}"
    yield f"{name}_sum{_labels(labels)} {_number(point.sum)}"
    yield f"{name}_count{_labels(labels)} {point.count}"


def _bounds(point: HistogramDataPoint) -> Iterable[float]:
    return [*point.explicit_bounds, math.inf]


def _labels(labels: Mapping[str, Any]) -> str:
    if not labels:
        return ""
    pairs = (f'{re.sub(r"[^a-zA-Z0-9_]", "_", key)}="{_escape(str(value))}"' for key, value in sorted(labels.items()))
    return "{" + ",".join(pairs) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _help(text: str | None) -> str:
    return (text or "").replace("\\", r"\\").replace("\n", " ")


def _number(value: float) -> str:
    if isinstance(value, float):
        if value == math.inf:  # the last bucket; the SDK takes no other value that is not finite
            return "+Inf"
        if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
    return repr(value)
