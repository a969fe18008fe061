"""Spans are kept within bounds, and traces that cross processes longest."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Status, StatusCode, format_trace_id
from yoban.telemetry import spans
from yoban.telemetry.spans import SpanKeeper, decode, encode


@pytest.fixture
def keeper() -> SpanKeeper:
    return SpanKeeper("agent/orders-1")


def make(keeper: SpanKeeper, *names: str) -> str:
    """Make one trace of a root span `root` with children of those names; return its id."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(keeper)
    tracer = provider.get_tracer("t")
    with tracer.start_as_current_span("root") as root:
        for name in names:
            with tracer.start_as_current_span(name):
                pass
    return format_trace_id(root.get_span_context().trace_id)


def test_a_span_is_kept_with_its_parent(keeper: SpanKeeper) -> None:
    trace = make(keeper, "child")
    root, child = keeper.spans(trace)
    assert (root.name, root.parent, root.service) == ("root", "", "agent/orders-1")
    assert (child.name, child.parent, child.trace) == ("child", root.span, trace)
    assert root.start <= child.start <= child.end <= root.end


def test_an_error_and_attributes_are_kept_and_redacted(keeper: SpanKeeper) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(keeper)
    attributes: dict[str, Any] = {"n": 1, "uri": "db://a:secret@h", "list": ("password=x", "y")}
    with provider.get_tracer("t").start_as_current_span("work", attributes=attributes) as span:
        span.set_status(Status(StatusCode.ERROR, "password=hunter2 refused"))
    with provider.get_tracer("t").start_as_current_span("bare") as bare:
        bare.set_status(Status(StatusCode.ERROR))
    (record,) = keeper.spans(format_trace_id(span.get_span_context().trace_id))
    assert record.error == "password=*** refused"
    assert record.attributes == {"n": 1, "uri": "db://a:***@h", "list": "['password=***', 'y']"}
    assert keeper.spans(format_trace_id(bare.get_span_context().trace_id))[0].error == "failed"


def test_only_so_many_traces_are_kept(keeper: SpanKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "RECENT_TRACES", 2)
    first, second, third = make(keeper), make(keeper), make(keeper)
    assert [bool(keeper.spans(trace)) for trace in (first, second, third)] == [False, True, True]


def test_only_so_many_spans_of_a_trace_are_kept(keeper: SpanKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "RECENT_SPANS", 2)
    monkeypatch.setattr(spans, "PINNED_SPANS", 3)
    trace = make(keeper, "a", "b", "c")
    assert [span.name for span in keeper.spans(trace)] == ["a", "b"]
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(keeper)
    tracer = provider.get_tracer("t")
    with tracer.start_as_current_span("root") as root:
        pinned = format_trace_id(root.get_span_context().trace_id)
        keeper.pin(pinned)
        for name in "abcde":
            with tracer.start_as_current_span(name):
                pass
    assert [span.name for span in keeper.spans(pinned)] == ["a", "b", "c"]


def test_a_pinned_trace_outlives_others(keeper: SpanKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "RECENT_TRACES", 1)
    monkeypatch.setattr(spans, "PINNED_TRACES", 2)
    kept = make(keeper, "child")
    keeper.pin(kept)
    keeper.pin(kept)
    make(keeper)
    make(keeper)
    assert len(keeper.spans(kept)) == 2
    keeper.pin("1" * 32)
    keeper.pin("2" * 32)
    assert keeper.spans(kept) == []


def test_spans_travel_as_json_lines(keeper: SpanKeeper) -> None:
    trace = make(keeper, "child")
    found = keeper.spans(trace)
    data = encode(found)
    assert data.count(b"\n") == 2
    assert decode(data) == found
    newer = data.replace(b'{"trace"', b'{"invented":1,"trace"')
    assert decode(newer + b"\n") == found
    assert encode([]) == b""
    with pytest.raises(ValueError, match="Expecting"):
        decode(b"<html>")
