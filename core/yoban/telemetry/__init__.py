"""Logs, metrics and traces of a process.

The names here are public to plugins, too: get a tracer by `opentelemetry.trace.get_tracer(__name__)`, a meter likewise, log
by `logging`, and give every secret that you hold to `remember_secret`. Importing this package costs next to nothing;
`yoban.telemetry.setup.setup` loads the SDK, once a process.
"""

from yoban.telemetry.propagation import continued, trace_id, traceparent
from yoban.telemetry.redaction import redact
from yoban.telemetry.redaction import remember as remember_secret

__all__ = ["continued", "redact", "remember_secret", "trace_id", "traceparent"]
