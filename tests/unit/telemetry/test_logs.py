"""Log lines carry the ids of the work, one line each, and no secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from yoban.errors import InvalidInput
from yoban.telemetry import logs, redaction
from yoban.telemetry.context import controller_name, object_name, reconcile_id


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)
    redaction.forget_all()


def log_json(**setup: Any) -> tuple[logging.Logger, Any]:
    stream = io.StringIO()
    logs.configure("yoban-test", stream=stream, **setup)
    return logging.getLogger("yoban.thing"), lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_the_fields() -> None:
    log, lines = log_json(instance="pod-0")
    log.info("took %d ms", 12, extra={"bytes": 7})
    (line,) = lines()
    assert line["message"] == "took 12 ms"
    assert (line["level"], line["logger"], line["service"], line["instance"]) == (
        "info", "yoban.thing", "yoban-test", "pod-0",
    )  # fmt: skip
    assert line["bytes"] == 7
    assert line["time"].endswith("+00:00")
    assert "trace_id" not in line


def test_a_json_line_carries_trace_and_reconcile_ids() -> None:
    log, lines = log_json()
    reconcile_id.set("r-1")
    controller_name.set("database")
    object_name.set("shop/orders")
    with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("work") as span:
        log.warning("slow")
    (line,) = lines()
    assert line["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert line["span_id"] == f"{span.get_span_context().span_id:016x}"
    assert (line["reconcile_id"], line["controller"], line["object"]) == ("r-1", "database", "shop/orders")
    reconcile_id.set("")
    controller_name.set("")
    object_name.set("")


def test_a_message_of_several_lines_stays_one_line() -> None:
    log, lines = log_json()
    log.error("one\ntwo\r\nthree")
    assert lines()[0]["message"] == "one\ntwo\r\nthree"


def test_an_extra_never_replaces_a_field_of_ours() -> None:
    log, lines = log_json()
    log.info("x", extra={"level": "fake", "service": "fake"})
    assert (lines()[0]["level"], lines()[0]["service"]) == ("info", "yoban-test")


def test_an_error_of_ours_shows_object_cause_and_fix() -> None:
    log, lines = log_json()
    try:
        raise InvalidInput("is wrong", object="Database shop/orders", cause="because", fix="mend it")
    except InvalidInput:
        log.exception("failed")
    error = lines()[0]["error"]
    assert error["type"] == "InvalidInput"
    assert (error["object"], error["cause"], error["fix"]) == ("Database shop/orders", "because", "mend it")
    assert error["reason"] == "InvalidSpec"
    assert "Traceback" in error["traceback"]


def test_another_error_shows_its_traceback() -> None:
    log, lines = log_json()
    try:
        _ = 1 // 0
    except ZeroDivisionError:
        log.exception("failed")
    assert lines()[0]["error"]["type"] == "ZeroDivisionError"


def test_wrong_arguments_do_not_hide_the_message() -> None:
    record = logging.LogRecord("yoban.x", logging.INFO, "", 0, "%d parts", ("many",), None)
    assert json.loads(logs.JsonFormatter("x").format(record))["message"] == "%d parts ('many',)"


def test_what_json_cannot_show_is_shown_by_its_repr() -> None:
    log, lines = log_json()
    log.info("x", extra={"thing": {1, 2} - {2}, "nested": {"k": object}, "nothing": None})
    assert lines()[0]["thing"] == [1]
    assert lines()[0]["nested"] == {"k": "<class 'object'>"}
    assert lines()[0]["nothing"] is None


def test_no_secret_reaches_a_line() -> None:
    log, lines = log_json()
    redaction.remember("hunter2hunter2")
    try:
        raise RuntimeError("login with hunter2hunter2 failed")
    except RuntimeError:
        log.exception("password=abc, %s", "hunter2hunter2", extra={"password": "in-clear", "note": ["hunter2hunter2"]})
    text = json.dumps(lines())
    assert "hunter2hunter2" not in text
    assert "abc" not in text
    assert "in-clear" not in text


def test_levels() -> None:
    log, lines = log_json(level="warning")
    log.info("no")
    log.warning("yes")
    assert [line["message"] for line in lines()] == ["yes"]
    log, lines = log_json(level="info")
    logging.getLogger("aiohttp.client").info("no")
    logging.getLogger("aiohttp.client").warning("but this")
    logging.getLogger("yoban_shelf.store").info("a plugin's")
    assert [line["message"] for line in lines()] == ["but this", "a plugin's"]
    log, lines = log_json(level="debug")
    logging.getLogger("aiohttp.client").debug("others too")
    assert [line["message"] for line in lines()] == ["others too"]


def test_configured_again_it_replaces_only_its_own_handler() -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    first = logs.configure("a", stream=io.StringIO())
    second = logs.configure("b", stream=io.StringIO())
    handlers = logging.getLogger().handlers
    assert first not in handlers
    assert second in handlers
    assert other in handlers
    logging.getLogger().removeHandler(other)


def test_a_terminal_gets_readable_lines() -> None:
    stream = Terminal()
    logs.configure("yoban-test", stream=stream)
    object_name.set("shop/orders")
    reconcile_id.set("0123456789")
    log = logging.getLogger("yoban.thing")
    log.info("hello", extra={"n": 3})
    try:
        raise RuntimeError("password=abc")
    except RuntimeError:
        log.exception("broken")
    object_name.set("")
    reconcile_id.set("")
    log.debug("unseen")
    text = stream.getvalue()
    assert "INFO     thing                  hello  [shop/orders reconcile=01234567 n=3]" in text
    assert "\x1b[31m" in text
    assert "RuntimeError: password=***" in text


def test_text_without_a_terminal_has_no_colour() -> None:
    stream = io.StringIO()
    logs.configure("yoban-test", format="text", stream=stream)
    logging.getLogger("yoban.x").warning("plain")
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().endswith("plain\n")
