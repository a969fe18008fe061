"""The Prometheus page, as a Prometheus parser reads it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from prometheus_client.parser import text_string_to_metric_families
from yoban.telemetry.prometheus import CONTENT_TYPE, PrometheusReader, render
from yoban.telemetry.setup import Telemetry, build


@pytest.fixture
def telemetry() -> Telemetry:
    return build("yoban-test", "pod-0", {})


def page(telemetry: Telemetry) -> dict[str, Any]:
    text, kind = telemetry.metrics_text()
    assert kind == CONTENT_TYPE
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def test_a_counter(telemetry: Telemetry) -> None:
    counter = telemetry.meters.get_meter("m").create_counter("yoban.things", unit="1", description="Things\nseen.")
    counter.add(2, {"kind": 'a"b\\c\nd', "other.label": "x"})
    counter.add(3, {"kind": "z"})
    counter.add(1, {"kind": "z"})
    family = page(telemetry)["yoban_things"]
    assert (family.type, family.documentation) == ("counter", "Things seen.")
    assert [(s.name, s.labels, s.value) for s in family.samples] == [
        ("yoban_things_total", {"kind": 'a"b\\c\nd', "other_label": "x"}, 2.0),
        ("yoban_things_total", {"kind": "z"}, 4.0),
    ]


def test_values_stay_cumulative_between_readings(telemetry: Telemetry) -> None:
    counter = telemetry.meters.get_meter("m").create_counter("n_total")
    counter.add(1)
    assert page(telemetry)["n"].samples[0].value == 1
    counter.add(1)
    assert page(telemetry)["n"].samples[0].value == 2


def test_units_become_part_of_the_name(telemetry: Telemetry) -> None:
    meter = telemetry.meters.get_meter("m")
    meter.create_up_down_counter("held", unit="By").add(-5)

    def lag(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(1.5)]

    meter.create_observable_gauge("lag", [lag], unit="s")
    families = page(telemetry)
    assert families["held_bytes"].type == "gauge"
    assert families["held_bytes"].samples[0].value == -5
    assert families["lag_seconds"].samples[0].value == 1.5


def test_a_histogram(telemetry: Telemetry) -> None:
    histogram = telemetry.meters.get_meter("m").create_histogram(
        "parts", unit="1", explicit_bucket_boundaries_advisory=[0.1, 1]
    )
    for value in (0.05, 0.5, 0.7, 9):
        histogram.record(value, {"verb": "get"})
    samples = {(s.name, s.labels.get("le")): s.value for s in page(telemetry)["parts"].samples}
    assert samples == {
        ("parts_bucket", "0.1"): 1,
        ("parts_bucket", "1"): 3,
        ("parts_bucket", "+Inf"): 4,
        ("parts_sum", None): 10.25,
        ("parts_count", None): 4,
    }


def test_a_histogram_of_seconds_has_buckets_that_fit(telemetry: Telemetry) -> None:
    telemetry.meters.get_meter("m").create_histogram("took", unit="s").record(0.003)
    samples = {s.labels.get("le"): s.value for s in page(telemetry)["took_seconds"].samples}
    assert (samples["0.0025"], samples["0.005"], samples["+Inf"]) == (0, 1, 1)


def test_what_cannot_be_shown_is_left_out() -> None:
    from opentelemetry.sdk.metrics import MeterProvider

    reader = PrometheusReader()
    view = View(instrument_name="*", aggregation=ExponentialBucketHistogramAggregation())
    provider = MeterProvider([reader], views=[view], shutdown_on_exit=False)
    provider.get_meter("m").create_histogram("h").record(1)
    assert b"h" not in reader.text()[0].split(b"target_info")[0]
    provider.shutdown()


def test_what_the_process_is(telemetry: Telemetry) -> None:
    telemetry.meters.get_meter("m").create_counter("x").add(1)
    (sample,) = page(telemetry)["target_info"].samples
    assert sample.labels["service_name"] == "yoban-test"
    assert sample.labels["service_instance_id"] == "pod-0"


def test_an_empty_page() -> None:
    assert render(None) == ""
