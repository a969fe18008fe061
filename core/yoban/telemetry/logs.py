"""Log lines: JSON for machines, readable ones for a terminal; both with trace and reconcile ids, both redacted.

Guarantees one line per record in JSON, whatever the message holds, and that no secret that `redaction` knows passes. An
argument that cannot be shown is shown by its repr; formatting never raises.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from opentelemetry import trace

from yoban.errors import YobanError
from yoban.telemetry.context import controller_name, object_name, reconcile_id
from yoban.telemetry.redaction import redact

Format = Literal["auto", "json", "text"]

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}

_COLOURS = {logging.DEBUG: "2", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}


def configure(
    service: str,
    *,
    instance: str = "",
    format: Format = "auto",
    level: str = "info",
    stream: TextIO | None = None,
) -> logging.Handler:
    """Send all records of the process to `stream` (standard error). Called again, it replaces its own handler only.

    Args:
        service: name in each JSON line, `yoban-operator` for example.
        instance: which one of them; left out when empty.
        format: `auto` is `text` on a terminal and `json` elsewhere.
        level: least level of records of `yoban…` loggers; other libraries' stay at warning, unless it is `debug`.
        stream: where to.
    """
    stream = stream or sys.stderr
    if format == "auto":
        format = "text" if stream.isatty() else "json"
    handler = _Handler(stream)
    handler.setFormatter(JsonFormatter(service, instance) if format == "json" else TextFormatter(stream.isatty()))
    root = logging.getLogger()
    for other in root.handlers[:]:
        if isinstance(other, _Handler):
            root.removeHandler(other)
    root.addHandler(handler)
    chosen = logging.getLevelName(level.upper())
    root.setLevel(chosen)
    handler.addFilter(lambda record: _is_wanted(record, chosen))
    logging.captureWarnings(True)
    return handler


def _is_wanted(record: logging.LogRecord, chosen: int) -> bool:
    """Ours and the plugins' (by our convention their names begin so, too) as chosen; libraries' from warnings on."""
    return chosen <= logging.DEBUG or record.levelno >= logging.WARNING or record.name.startswith("yoban")


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that it is found again."""


def ids() -> dict[str, str]:
    """Return the ids of the work that runs now: trace, span, reconcile, controller, object; those that there are."""
    found: dict[str, str] = {}
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        found["trace_id"] = f"{span.trace_id:032x}"
        found["span_id"] = f"{span.span_id:016x}"
    for key, variable in (("reconcile_id", reconcile_id), ("controller", controller_name), ("object", object_name)):
        if value := variable.get():
            found[key] = value
    return found


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the caller gave as `extra`."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, service, ids, extras, error."""

    def __init__(self, service: str, instance: str = "") -> None:
        super().__init__()
        self._fixed = {"service": service, **({"instance": instance} if instance else {})}

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **self._fixed,
            **ids(),
        }
        for key, value in extras(record).items():
            line.setdefault(key, value)
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = _error(record.exc_info[1])
        return json.dumps(_redacted(line), default=repr, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """For people: time of day, level, short name of the logger, message, and the ids that lead on."""

    def __init__(self, coloured: bool = False) -> None:
        super().__init__()
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of its own."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created)) + f".{int(record.msecs):03d}"
        known = ids()
        about = [known[key] for key in ("object",) if key in known]
        about += [f"{key.removesuffix('_id')}={known[key][:8]}" for key in ("reconcile_id", "trace_id") if key in known]
        about += [f"{key}={value}" for key, value in extras(record).items()]
        text = f"{clock} {record.levelname:<8} {record.name.removeprefix('yoban.'):<22} {_message(record)}"
        if about:
            text += f"  [{' '.join(about)}]"
        if record.exc_info and record.exc_info[1] is not None:
            text += "\n" + "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        text = redact(text)
        colour = _COLOURS.get(record.levelno)
        return f"\x1b[{colour}m{text}\x1b[0m" if self._coloured and colour else text


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # wrong arguments must not hide what was to be said
        return f"{record.msg} {record.args!r}"


def _error(error: BaseException) -> dict[str, Any]:
    shown: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, YobanError):
        shown |= {key: value for key in ("object", "cause", "fix", "reason") if (value := getattr(error, key))}
    shown["traceback"] = "".join(traceback.format_exception(error))
    return shown


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {str(key): _entry(str(key), entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_redacted(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return redact(repr(value))


def _entry(key: str, value: Any) -> Any:
    """A value whose name says that it is a secret is masked, whatever its shape."""
    probe = f"{key}={'x' * 8}"
    if isinstance(value, str) and redact(probe) != probe:
        return "***"
    return _redacted(value)
