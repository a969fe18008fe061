"""The trace goes on in another process."""

from __future__ import annotations

import pytest
from opentelemetry import trace as api
from yoban.telemetry import continued, propagation, trace_id, traceparent
from yoban.telemetry.setup import build


def test_a_span_goes_on_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = build("yoban-operator", "", {}), build("yoban-agent", "pod-0", {})
    monkeypatch.setattr(propagation, "_pins", [])
    propagation.on_crossing(here.keeper.pin)
    propagation.on_crossing(there.keeper.pin)
    with here.tracers.get_tracer("t").start_as_current_span("reconcile") as parent:
        text = traceparent()
    assert trace_id(text) == f"{parent.get_span_context().trace_id:032x}"
    with continued(text), there.tracers.get_tracer("t").start_as_current_span("backup"):
        pass
    assert not api.get_current_span().get_span_context().is_valid
    (first,), (second,) = here.keeper.spans(trace_id(text)), there.keeper.spans(trace_id(text))
    assert (first.service, second.service) == ("operator", "agent/pod-0")
    assert second.parent == first.span


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "00-" + "1" * 32 + "-" + "0" * 16 + "-01", "00-xyz"],
)
def test_what_is_no_traceparent_starts_a_new_trace(text: str) -> None:
    assert trace_id(text) == ""
    with continued(text):
        assert not api.get_current_span().get_span_context().is_valid


def test_outside_of_a_span_there_is_nothing_to_send() -> None:
    assert traceparent() == ""
