"""Rules 3.11: conditions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from yoban.kube.conditions import Condition, Status, find, is_true, merge, set_condition, summarize

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
READY = Condition("Ready", Status.TRUE, "AllGood", "fine")


def test_3_11_transition_time_moves_only_when_the_status_does() -> None:
    first = set_condition([], READY, generation=1, now=NOW)
    assert first == [
        {
            "type": "Ready",
            "status": "True",
            "reason": "AllGood",
            "message": "fine",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "observedGeneration": 1,
        }
    ]
    second = set_condition(first, Condition("Ready", Status.TRUE, "Other", "x"), generation=1, now=LATER)
    assert second[0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert second[0]["reason"] == "Other"
    third = set_condition(second, Condition("Ready", Status.FALSE, "Bad"), generation=1, now=LATER)
    assert third[0]["lastTransitionTime"] == "2026-01-01T01:00:00Z"
    assert first[0]["reason"] == "AllGood", "the argument is not changed"


def test_3_11_observed_generation_is_set_always() -> None:
    first = set_condition([], READY, generation=1, now=NOW)
    second = set_condition(first, READY, generation=2, now=LATER)
    assert second[0]["observedGeneration"] == 2
    assert is_true(second, "Ready", generation=2)
    assert not is_true(first, "Ready", generation=2), "older than the object is stale"
    assert is_true(first, "Ready")
    assert not is_true([], "Ready")


@pytest.mark.parametrize("reason", ["", "not camel", "9Start", "x" * 1025, "End:"])
def test_3_11_a_reason_is_required_and_camel_case(reason: str) -> None:
    with pytest.raises(ValueError, match="CamelCase"):
        Condition("Ready", Status.TRUE, reason)


def test_3_11_the_list_is_a_map_by_type() -> None:
    conditions = set_condition([], READY, generation=1, now=NOW)
    conditions = set_condition(conditions, Condition("Healthy", Status.FALSE, "No"), generation=1, now=NOW)
    conditions = set_condition(conditions, Condition("Ready", Status.FALSE, "No"), generation=1, now=NOW)
    assert [c["type"] for c in conditions] == ["Ready", "Healthy"]
    assert find(conditions, "Healthy") is conditions[1]
    assert find(conditions, "Nobody") is None


def test_3_11_all_known_types_are_unknown_on_the_first_pass() -> None:
    known = ["Ready", "BackupHealthy", "Resizing"]
    conditions = merge([], [READY], known=known, generation=3, now=NOW)
    assert [(c["type"], c["status"]) for c in conditions] == [
        ("Ready", "True"),
        ("BackupHealthy", "Unknown"),
        ("Resizing", "Unknown"),
    ]
    assert all(c["observedGeneration"] == 3 for c in conditions)
    again = merge(conditions, [Condition("Resizing", Status.TRUE, "Growing")], known=known, generation=3, now=LATER)
    assert [(c["type"], c["status"]) for c in again] == [
        ("Ready", "True"),
        ("BackupHealthy", "Unknown"),
        ("Resizing", "True"),
    ]
    extra = merge(again, [Condition("Extra", Status.TRUE, "X")], known=known, generation=3, now=LATER)
    assert extra[-1]["type"] == "Extra"
    assert merge(again, [], known=known, generation=3, now=LATER) == again


def test_3_11_one_summary_for_many() -> None:
    bad = Condition("B", Status.FALSE, "Broken", "b is broken")
    unknown = Condition("C", Status.UNKNOWN, "NoNews", "?")
    assert summarize([READY]) == Condition("Ready", Status.TRUE, "AllReady")
    assert summarize([READY, unknown]) == Condition("Ready", Status.UNKNOWN, "NoNews", "?")
    assert summarize([READY, unknown, bad]) == Condition("Ready", Status.FALSE, "Broken", "b is broken")


def test_3_11_a_message_is_cut_to_what_the_server_takes() -> None:
    long = set_condition([], Condition("Ready", Status.TRUE, "X", "m" * 40000), generation=1, now=NOW)
    assert len(long[0]["message"]) == 32768
