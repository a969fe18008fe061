"""Finished spans, kept in memory for `kubectl yoban trace`: those of work that crosses processes for long, others briefly.

Guarantees a bound on memory: so many traces, so many spans of each. A trace that is pinned (its context was sent to
another process, or came from one) is forgotten only for newer pinned ones. Nothing survives the process: who wants to
keep traces for good sends them to a collector by OTLP.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from yoban.telemetry.redaction import redact

PINNED_TRACES = 32
PINNED_SPANS = 2000
RECENT_TRACES = 64
RECENT_SPANS = 64


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """A finished span: ids in hex, times in nanoseconds since the epoch, `error` empty when all went well."""

    trace: str
    span: str
    parent: str
    name: str
    service: str
    start: int
    end: int
    error: str = ""
    attributes: Mapping[str, object] = field(default_factory=dict)


class SpanKeeper(SpanProcessor):
    """Keeps the newest traces.

    Args:
        service: name of this process in records; `service/instance` where there are several.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._pinned: OrderedDict[str, list[SpanRecord]] = OrderedDict()
        self._recent: OrderedDict[str, list[SpanRecord]] = OrderedDict()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is noted before a span has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a finished span; cheap, called on the thread that ended it."""
        record = self._record(span)
        with self._lock:
            kept = self._pinned.get(record.trace)
            if kept is not None:
                if len(kept) < PINNED_SPANS:
                    kept.append(record)
                return
            kept = self._recent.setdefault(record.trace, [])
            self._recent.move_to_end(record.trace)
            if len(kept) < RECENT_SPANS:
                kept.append(record)
            while len(self._recent) > RECENT_TRACES:
                self._recent.popitem(last=False)

    def pin(self, trace: str) -> None:
        """Keep all spans of this trace (32 hex digits) from now on, and those of it that are still here."""
        with self._lock:
            if trace in self._pinned:
                self._pinned.move_to_end(trace)
                return
            self._pinned[trace] = self._recent.pop(trace, [])
            while len(self._pinned) > PINNED_TRACES:
                self._pinned.popitem(last=False)

    def spans(self, trace: str) -> list[SpanRecord]:
        """Return the spans of a trace that are here, by start; empty when none is."""
        with self._lock:
            found = list(self._pinned.get(trace) or self._recent.get(trace) or ())
        return sorted(found, key=lambda one: one.start)

    def _record(self, span: ReadableSpan) -> SpanRecord:
        context = span.get_span_context()
        assert context is not None
        error = ""
        if not span.status.is_ok and not span.status.is_unset:
            error = redact(span.status.description or "failed")
        return SpanRecord(
            trace=f"{context.trace_id:032x}",
            span=f"{context.span_id:016x}",
            parent=f"{span.parent.span_id:016x}" if span.parent else "",
            name=span.name,
            service=self._service,
            start=span.start_time or 0,
            end=span.end_time or 0,
            error=error,
            attributes={key: _plain(value) for key, value in (span.attributes or {}).items()},
        )


def encode(spans: Iterable[SpanRecord]) -> bytes:
    """Return spans as JSON lines."""
    return b"".join(json.dumps(asdict(span), separators=(",", ":")).encode() + b"\n" for span in spans)


def decode(data: bytes) -> list[SpanRecord]:
    """Read what `encode` wrote; fields that this release does not know are left out. Raises ValueError for no JSON."""
    known = set(SpanRecord.__slots__)
    return [
        SpanRecord(**{key: value for key, value in json.loads(line).items() if key in known})
        for line in data.splitlines()
        if line.strip()
    ]


def _plain(value: object) -> object:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, (bool, int, float)):
        return value
    return redact(str(list(value) if isinstance(value, tuple) else value))
