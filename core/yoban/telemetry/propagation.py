"""The trace goes on in another process: W3C `traceparent` as text, in a header, a document or an annotation.

Guarantees that a text that is no traceparent starts a new trace instead of failing the work. Baggage is not carried.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

_FORM = re.compile(r"00-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})")

_pins: list[Callable[[str], None]] = []


def on_crossing(pin: Callable[[str], None]) -> None:
    """Have `pin` called with the trace id whenever a trace leaves this process or comes into it."""
    _pins.append(pin)


def traceparent() -> str:
    """Return the current span as `traceparent`, "" outside of one. The trace is kept for `kubectl yoban trace`."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return ""
    _pin(f"{span.trace_id:032x}")
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


def trace_id(text: str) -> str:
    """Return the trace id within a `traceparent`, "" when it is none."""
    found = _FORM.fullmatch(text)
    return found["trace"] if found and _valid(found) else ""


@contextmanager
def continued(text: str) -> Iterator[None]:
    """Spans begun inside are children of the span that `text` (a traceparent) names; "" or nonsense changes nothing."""
    found = _FORM.fullmatch(text)
    if not found or not _valid(found):
        yield
        return
    parent = SpanContext(
        trace_id=int(found["trace"], 16),
        span_id=int(found["span"], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(found["flags"], 16)),
    )
    _pin(found["trace"])
    token = contexts.attach(trace.set_span_in_context(NonRecordingSpan(parent)))
    try:
        yield
    finally:
        contexts.detach(token)


def _valid(found: re.Match[str]) -> bool:
    return int(found["trace"], 16) != 0 and int(found["span"], 16) != 0


def _pin(trace: str) -> None:
    for pin in _pins:
        pin(trace)
