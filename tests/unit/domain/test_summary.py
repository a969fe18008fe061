from __future__ import annotations

from datetime import timedelta

import pytest
from yoban.domain import retention, settings, summary, version
from yoban.domain.recoverability import moment
from yoban.domain.summary import DatabaseFacts, Fault, Truth, database_ready
from yoban.errors import AccessDenied, InvalidInput, Unavailable
from yoban.plugins import SettingClass

from tests.unit.domain.counting import CountingEngine

ENGINE = CountingEngine()
WELL = DatabaseFacts(wanted=3, ready=3, primary="db-1", primary_ready=True)
BAD = Fault("StoreUnavailable", "the store does not answer", "check it", blocking=False)
WORSE = Fault("SettingRefused", "a setting cannot be", "remove it", terminal=True)


@pytest.mark.parametrize(
    "facts, truth, reason, words",
    [
        (WELL, "True", "AllReady", "3 of 3"),
        (DatabaseFacts(3, 2, "db-1", True, "cloning db-3"), "True", "Degraded", "2 of 3 instances are ready; cloning"),
        (DatabaseFacts(3, 2, "db-1", True), "True", "Degraded", "2 of 3"),
        (DatabaseFacts(3, 0, activity="restoring 40 %"), "False", "Progressing", "restoring 40 %"),
        (DatabaseFacts(3, 2), "False", "NoPrimary", "no primary; 2 of 3"),
        (
            DatabaseFacts(3, 2, "db-1"),
            "False",
            "PrimaryNotReady",
            "db-1 does not accept writes; bring its Pod or node back, or give it up: docs/operations.md; 2 of 3",
        ),
        (
            DatabaseFacts(3, 3, "db-1", True, primary_served=False),
            "False",
            "PrimaryNotServed",
            "db-1 has not its label",
        ),
        (DatabaseFacts(3, 3, "db-1", True, paused=True), "True", "Paused", "nothing planned is begun"),
        (DatabaseFacts(3, 3, "db-1", True, faults=(BAD,)), "True", "Degraded", "check it"),
        (DatabaseFacts(3, 3, "db-1", True, faults=(BAD, WORSE)), "False", "SettingRefused", "remove it (and 1 more)"),
        (DatabaseFacts(3, 0, faults=(Fault("X", "blocks"),)), "False", "X", "blocks"),
        (DatabaseFacts(3, 0, data_lost=True, faults=(WORSE,)), "False", "DataLost", "Restore it into a new Database"),
        (DatabaseFacts(3, 3, deleting=True), "False", "Deleting", "being deleted"),
    ],
)
def test_ready_sums_up(facts, truth, reason, words):
    found = database_ready(facts)
    assert (found.truth.value, found.reason) == (truth, reason)
    assert words in found.message


def test_errors_become_faults():
    wrong = summary.fault(AccessDenied("the key is wrong", object="bucket b", cause="403", fix="change it"))
    assert (wrong.reason, str(wrong)) == ("AccessDenied", "bucket b: the key is wrong (403); change it")
    assert wrong.terminal and wrong.blocking
    assert not summary.fault(Unavailable("down")).blocking
    assert summary.fault(TimeoutError()).reason == "DeadlineExceeded"


def test_what_is_no_error_of_ours_keeps_its_text_to_itself():
    found = summary.fault(RuntimeError("password=hunter2"))
    assert found.reason == "InternalError" and "hunter2" not in str(found)


def test_the_worst_is_what_somebody_must_act_on():
    assert summary.worst([]) is None
    assert summary.worst([BAD, WORSE]) is WORSE
    assert summary.not_ready("Ready", WORSE).truth is Truth.FALSE


@pytest.mark.parametrize(
    "count, text", [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (200 << 20, "200 MiB"), (3 << 60, "3072 PiB")]
)
def test_sizes(count, text):
    assert summary.size(count) == text


@pytest.mark.parametrize(
    "seconds, text",
    [(0.85, "850ms"), (2.5, "2.5s"), (12, "12s"), (200, "3m20s"), (18120, "5h02m"), (3599.7, "1h00m")],
)
def test_spans(seconds, text):
    assert summary.span(seconds) == text


def test_refused_settings_are_all_named():
    with pytest.raises(InvalidInput) as caught:
        settings.check(ENGINE, "2", {"unsafe": "1", "memory": "1", "listen": "*", "other": "x"})
    assert caught.value.reason == "SettingRefused"
    assert caught.value.cause == (
        "listen is set by the operator: the operator decides where it listens; unsafe is refused"
    )
    assert [item.kind for item in settings.refused(ENGINE, "2", {"listen": "*"})] == [SettingClass.FIXED]
    settings.check(ENGINE, "2", {"memory": "1"})


@pytest.mark.parametrize(
    "wanted, image, expected",
    [
        ("2", None, ("2", "example/counting:2")),
        ("1.7", None, ("1", "example/counting:1")),
        ("2", "mine:latest", ("2", "mine:latest")),
        (None, "registry:5000/counting:2.3-slim", ("2", "registry:5000/counting:2.3-slim")),
        (None, "counting:1@sha256:abc", ("1", "counting:1@sha256:abc")),
        ("22", None, "VersionUnsupported"),
        (None, "counting:latest", "VersionUnknown"),
        (None, "registry:5000/counting", "VersionUnknown"),
    ],
)
def test_version_and_image(wanted, image, expected):
    if isinstance(expected, str):
        with pytest.raises(InvalidInput, match="2, 1") as caught:
            version.choose(ENGINE, wanted, image)
        assert caught.value.reason == expected
    else:
        found = version.choose(ENGINE, wanted, image)
        assert (found.version, found.image) == expected


def test_retention_keeps_something_and_gives_grace():
    hour = timedelta(hours=1)
    assert retention.keep(None, None, hour) is None
    kept = retention.keep(None, timedelta(days=14), timedelta(0))
    assert kept is not None
    assert (kept.count, kept.window, kept.grace) == (1, timedelta(days=14), retention.SHORTEST_GRACE)
    assert retention.keep(7, None, hour) == retention.Keep(7, timedelta(0), hour)
    assert retention.look_again(kept) == retention.SHORTEST_GRACE


def test_moments_are_utc():
    from tests.unit.domain.counting import at

    assert moment(at(0)) == "2026-03-01T00:00:00Z"
    assert moment(at(0.001)) == "2026-03-01T00:00:00.060000Z"
