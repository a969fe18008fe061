from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from yoban.domain.candidates import Candidate
from yoban.domain.compliance import Facts, Verdict, judge, worst
from yoban.domain.donor import Donor, choose
from yoban.domain.schedule import Attempts, Cadence, Due, due
from yoban.domain.summary import Fault
from yoban.domain.views import Shown, asked_name, found_name, missing
from yoban.errors import NotReady

from tests.unit.domain.counting import at

PRIMARY = Candidate("db-1", 1, primary=True, ready=True)
FIRST = Candidate("db-2", 2, ready=True, streaming=True, lag_seconds=0.1)
SECOND = Candidate("db-3", 3, ready=True, streaming=True, lag_seconds=0.1)


@pytest.mark.parametrize(
    "instances, expected",
    [
        ([PRIMARY, FIRST, SECOND], Donor("db-3", "db-1")),
        ([PRIMARY, replace(FIRST, lag_seconds=0.0), SECOND], Donor("db-2", "db-1")),
        ([PRIMARY, FIRST, replace(SECOND, synchronous=True)], Donor("db-2", "db-1")),
        ([PRIMARY, replace(FIRST, ready=False)], Donor("db-1", "")),
        ([PRIMARY, replace(FIRST, streaming=False)], Donor("db-1", "")),
        ([PRIMARY, replace(FIRST, lag_seconds=301.0)], Donor("db-1", "")),
        ([PRIMARY, replace(FIRST, lag_seconds=None)], Donor("db-1", "")),
        ([PRIMARY], Donor("db-1", "")),
    ],
)
def test_a_healthy_replica_serves_first(instances, expected):
    assert choose(instances, on_replica=True) == expected


def test_an_engine_that_cannot_on_replicas_takes_the_primary():
    assert choose([PRIMARY, FIRST], on_replica=False) == Donor("db-1", "")


def test_who_failed_is_avoided_while_there_is_another():
    assert choose([PRIMARY, FIRST, SECOND], on_replica=True, avoid=frozenset({"db-3"})).instance == "db-2"
    assert choose([PRIMARY], on_replica=True, avoid=frozenset({"db-1"})).instance == "db-1"


@pytest.mark.parametrize(
    "instances, on_replica, words",
    [
        ([], True, "no instance answers"),
        ([replace(PRIMARY, ready=False)], True, "db-1: not ready"),
        ([FIRST], True, "no primary to ship"),
        ([replace(PRIMARY, ready=False), FIRST], True, "no primary to ship"),
        ([FIRST], False, "backs up primaries only"),
    ],
)
def test_nobody_fit_says_why(instances, on_replica, words):
    with pytest.raises(NotReady, match=words) as caught:
        choose(instances, on_replica=on_replica)
    assert caught.value.reason == "NoFitInstance"


FINE = Due(False, at(0), 1, None, at(60), "the newest satisfies")
LATE = Due(True, at(0), 1, at(5), at(60), "the one for tonight is missing")
GOOD = Facts(due=FINE, rpo=timedelta(seconds=5), lag=1.0)


@pytest.mark.parametrize(
    "facts, satisfied, reason, since",
    [
        (GOOD, True, "Satisfied", None),
        (replace(GOOD, lag=None), True, "Satisfied", None),
        (replace(GOOD, lag=15.0), True, "Satisfied", None),
        (replace(GOOD, lag=15.0, rpo=timedelta(seconds=1)), True, "Satisfied", None),
        (replace(GOOD, lag=60.0), False, "LogBehind", at(99)),
        (replace(GOOD, lag=60.0, has_log=False), True, "Satisfied", None),
        (replace(GOOD, failing_since=at(7)), False, "ArchiveFailing", at(7)),
        (replace(GOOD, store=Fault("Unreachable", "down")), False, "Unreachable", at(100)),
        (replace(GOOD, store=Fault("Unreachable", "down"), failing_since=at(7)), False, "Unreachable", at(7)),
        (replace(GOOD, gap="log/1/x", store=Fault("Unreachable", "down")), False, "LogGap", at(100)),
        (replace(GOOD, lost=Fault("TermMissing", "lost"), gap="log/1/x"), False, "TermMissing", at(100)),
        (replace(GOOD, due=None), None, "Unknown", None),
        (replace(GOOD, due=LATE), False, "BackupOverdue", at(5)),
        (replace(GOOD, due=LATE, failures=2, failure="disk"), False, "BackupFailed", at(5)),
        (replace(GOOD, due=LATE, failures=2), False, "BackupFailed", at(5)),
        (replace(GOOD, kept=Fault("AccessDenied", "no"), kept_since=at(9)), False, "RetentionFailing", at(9)),
        (replace(GOOD, kept=Fault("AccessDenied", "no"), due=LATE), False, "BackupOverdue", at(5)),
    ],
)
def test_the_gravest_fault_is_the_verdict(facts, satisfied, reason, since):
    found = judge(facts, at(100))
    assert (found.satisfied, found.reason, found.since) == (satisfied, reason, since)
    assert found.message


def test_the_worst_is_the_one_that_is_wrong_for_longest():
    fine = Verdict(True, None, "Satisfied", "")
    old, new, timeless = (Verdict(False, since, "X", "") for since in (at(1), at(2), None))
    assert worst([("a", fine), ("b", new), ("c", old)]) == ("c", old)
    assert worst([("a", timeless), ("b", new)]) == ("b", new)
    assert worst([("a", fine)]) is None


def test_names_of_backups_are_deterministic_and_fit():
    assert asked_name("orders", at(0), 1) == "orders-20260301-000000"
    assert asked_name("orders", at(0), 3) == "orders-20260301-000000-3"
    taken = {"orders-20260301-000000", "orders-20260301-000000-2"}
    assert asked_name("orders", at(0), 1, taken) == "orders-20260301-000000-3"
    assert found_name("orders", "20260301T020005Z-ca9781") == "orders-20260301t020005z-ca9781"
    assert len(found_name("x" * 40, "y" * 300)) == 253


def test_only_stored_backups_without_an_object_are_missing():
    shown = [Shown("a", frozenset({"1", "1b"})), Shown("b", frozenset())]
    assert missing(["1", "2", "3"], shown) == ("2", "3")
    assert missing(map(str, range(100)), [], most=5) == ("0", "1", "2", "3", "4")


def test_a_broken_log_is_a_need_of_its_own():
    attempts = Attempts(since=at(0), newest_begin=at(10), broken=True)
    answer = due(Cadence(maximum_age=timedelta(days=9)), attempts, at(20))
    assert answer.now and answer.slot == at(10) and "lost" in answer.why
