"""A trace on a terminal."""

from __future__ import annotations

import pytest
from yoban.telemetry.spans import SpanRecord
from yoban.telemetry.waterfall import ALIKE, duration, lines, render

SECOND = 1_000_000_000


def span(
    name: str, start: float, end: float, parent: str = "", *, id: str = "", service: str = "operator", error: str = ""
) -> SpanRecord:
    return SpanRecord("t", id or name, parent, name, service, int(start * SECOND), int(end * SECOND), error)


def test_no_span_is_no_waterfall() -> None:
    assert render([]) == ""


def test_children_stand_below_their_parent_in_order_of_start() -> None:
    spans = [
        span("manifest", 9, 10, "backup"),
        span("policy", 0, 10),
        span("backup", 1, 10, "policy", service="agent/orders-2"),
        span("upload", 2, 8, "backup"),
        span("orphan", 5, 6, "not-here"),
    ]
    assert [(line.depth, line.name) for line in lines(spans)] == [
        (0, "policy"), (1, "backup"), (2, "upload"), (2, "manifest"), (0, "orphan"),
    ]  # fmt: skip


def test_bars_are_to_scale() -> None:
    text = render([span("whole", 0, 10), span("half", 5, 10, "whole")], width=80).splitlines()
    first, second = text[0], text[1]
    assert first.count("█") == 2 * second.count("█")
    assert second.index("█") > first.index("█")
    assert first.endswith("10.0 s")
    assert second.endswith("5.0 s")
    assert max(map(len, text)) <= 80


def test_many_alike_are_one_line() -> None:
    parts = [span("part", i, i + 0.1, "root", id=f"p{i}") for i in range(ALIKE + 1)]
    below = [span("retry", 3, 3.05, "p3")]
    found = lines([span("root", 0, 20), *parts, *below])
    assert [(line.name, line.count) for line in found] == [("root", 1), ("part", ALIKE + 1), ("retry", 1)]
    assert found[1].busy == pytest.approx((ALIKE + 1) * SECOND / 10, rel=1e-6)
    text = render([span("root", 0, 20), *parts])
    assert f"part x{ALIKE + 1}" in text
    assert "▒" in text


def test_an_error_is_shown_with_its_words() -> None:
    text = render([span("root", 0, 1, error="the store does not answer")])
    assert "!" in text
    assert "! the store does not answer" in text


def test_an_instant_still_has_a_bar_and_long_names_are_cut() -> None:
    text = render([span("n" * 200, 1, 1, service="s" * 50)], width=60)
    assert "…" in text
    assert "█" in text
    assert max(map(len, text.splitlines())) <= 60 + 2


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0000004, "0 µs"), (0.00084, "840 µs"), (0.012, "12 ms"), (3.44, "3.4 s"), (125, "2m05s")]
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds * 1e9) == text
