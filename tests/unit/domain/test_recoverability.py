from __future__ import annotations

from dataclasses import replace

import pytest
from yoban.domain.history import History
from yoban.domain.recoverability import describe, hindrance, plan, recoverable
from yoban.errors import IntegrityError, InvalidInput, NotFound, NotReady, Unsupported
from yoban.plugins import Fork, Position, RecoveryTarget, TargetType

from tests.unit.domain.counting import (
    SIZE,
    CountingEngine,
    LoglessEngine,
    PickyTargets,
    SkippingEngine,
    at,
    backup,
    forked,
    mark,
    plain,
    segment,
    stored,
    term,
)

ENGINE = CountingEngine()


def target(type: str = "latest", value: str = "", **more: object) -> RecoveryTarget:
    return RecoveryTarget(TargetType(type), value, **more)  # type: ignore[arg-type]


def time(minutes: float, **more: object) -> RecoveryTarget:
    return target("time", at(minutes).isoformat(), **more)


# -- the window ------------------------------------------------------------------------------------------------------


def test_the_window_reaches_from_the_oldest_backup_to_the_moment_proven():
    found = recoverable(plain(), ENGINE)
    assert found.window is not None
    assert (found.window.start, found.window.end) == (at(120), at(960))
    assert found.window.last_commit == at(930)
    assert (found.window.position, found.window.line) == ("940", "1")
    assert [item.facts.id for item in found.backups] == ["b1", "b2"]
    assert found.extent is not None
    assert (found.extent.segment, found.extent.tail_bytes) == (segment("1", 9), 40)


def test_nothing_stored_is_no_window():
    assert recoverable(History(), ENGINE).window is None
    assert recoverable(History(terms=(term(1, "1"),)), ENGINE).lines == ("1",)


def test_without_terms_the_line_of_the_newest_backup_counts():
    assert recoverable(plain(terms=()), ENGINE).lines == ("1",)
    assert recoverable(History(lines={"7": stored("7", (0, 1))}), ENGINE).lines == ("7",)


def test_a_backup_newer_than_the_mark_ends_the_window():
    found = recoverable(plain(marks=(mark(1, "1", 600),)), ENGINE)
    assert found.window is not None
    assert (found.window.position, found.window.end) == ("650", at(650))


def test_without_a_mark_the_window_is_the_backups():
    found = recoverable(plain(marks=()), ENGINE)
    assert found.window is not None
    assert (found.window.position, found.window.end) == ("650", at(650))
    assert found.extent is not None and found.extent.segment == segment("1", 9)


def test_a_mark_at_the_start_of_a_segment_needs_nothing_of_it():
    fresh = replace(mark(1, "1", 900), segment=segment("1", 9), flushed=0)
    found = recoverable(plain(marks=(fresh,), lines={"1": stored("1", (0, 8))}), ENGINE)
    assert found.window is not None and found.window.position == "900"
    assert found.extent is not None
    assert (found.extent.segment, found.extent.tail_bytes) == (segment("1", 8), 0)


@pytest.mark.parametrize(
    "line, missing",
    [
        (stored("1", (0, 2), (4, 8), s9=40), 3),  # failure 1: a hole in the middle, before the newest backup
        (stored("1", (0, 6), (8, 8), s9=40), 7),
        (stored("1", (0, 7), s9=40), 8),
        (stored("1", (0, 8)), 9),
        (stored("1", (0, 8), s9=39), 9),  # the chunks end before what the mark promises
    ],
)
def test_failure_1_a_gap_is_found_wherever_it_is(line, missing):
    found = recoverable(plain(lines={"1": line}), ENGINE)
    if missing == 3:
        # The newest backup and all after it are whole: the window is shorter, and nothing else is wrong.
        assert found.gap is None and found.window is not None
        assert found.window.start == at(650)
        assert dict(found.unusable)["b1"] == f"log/1/{segment('1', 3)} is missing after it"
    else:
        assert found.gap is not None and found.gap.missing == segment("1", missing)
        assert found.window is not None
        assert (found.window.start, found.window.end) == (at(650), at(650))


@pytest.mark.parametrize(
    "line, last, tail",
    [
        (stored("1", (0, 8), (10, 12), s9=40), 9, 40),
        (stored("1", (0, 9), (11, 12), s13=7), 9, 0),
        (stored("1", (0, 10), s11=7), 11, 7),
    ],
)
def test_a_hole_beyond_what_is_proven_is_no_gap(line, last, tail):
    # Segments are uploaded several at once: a later one may be there before an earlier one.
    found = recoverable(plain(lines={"1": line}), ENGINE)
    assert found.gap is None and found.extent is not None
    assert (found.extent.segment, found.extent.tail_bytes) == (segment("1", last), tail)
    assert found.window is not None and found.window.end == at(960)


def test_failure_2_a_backup_whose_last_segment_is_missing_does_not_count():
    found = recoverable(plain(lines={"1": stored("1", (0, 5), s6=50)}, marks=()), ENGINE)
    assert [item.facts.id for item in found.backups] == ["b1"]
    assert "not consistent" in dict(found.unusable)["b2"]
    alone = recoverable(plain(backups=(backup("b2", 500, 650),), lines={"1": stored("1", (0, 5))}), ENGINE)
    assert alone.window is None and alone.gap is not None and alone.gap.missing == segment("1", 6)


def test_segments_beyond_the_mark_hang_together():
    found = recoverable(plain(lines={"1": stored("1", (0, 12))}), ENGINE)
    assert found.gap is None
    assert found.extent is not None and found.extent.segment == segment("1", 12)


# -- forks -----------------------------------------------------------------------------------------------------------


def test_failure_4_the_newest_term_is_followed_across_a_fork():
    found = recoverable(forked(), ENGINE)
    assert found.lines == ("1", "2")
    assert found.window is not None
    assert (found.window.start, found.window.end, found.window.line) == (at(120), at(940), "2")
    assert [item.facts.id for item in found.backups] == ["b1", "b2"]
    assert "line 1" in dict(found.unusable)["x1"]


def test_failure_4_a_reign_whose_record_is_lost_is_not_taken_for_the_end():
    history = forked(terms=(term(1, "1"),))
    with pytest.raises(IntegrityError) as caught:
        plan(history, target(), ENGINE)
    assert (caught.value.reason, caught.value.object) == ("TermMissing", "terms/2")
    assert plan(history, target(line="1"), ENGINE).window.end == at(700), "who names a line gets it"


def test_failure_4_a_lost_record_of_the_newest_reign_is_told_with_cause_and_fix():
    found = recoverable(forked(terms=(term(1, "1"),)), ENGINE)
    assert found.lost is not None and found.lost.newest and str(found.lost) == "terms/2"
    assert found.window is not None and found.window.end == at(700), "what can be restored by naming line 1"
    wrong = hindrance(found)
    assert wrong is not None and (wrong.reason, wrong.blocking) == ("TermMissing", True)
    assert "terms/2" in wrong.message and "its log is stored on line 2 up to 2026-03-01T15:40:00Z" in wrong.message
    assert "bring the object back" in wrong.fix


def test_failure_4_no_record_at_all_of_a_later_reign_is_told_too():
    found = recoverable(forked(terms=()), ENGINE)
    assert found.lost is not None and (found.lost.term, found.lost.newest) == (2, True)
    assert recoverable(plain(terms=()), ENGINE).lost is None, "the first reign left no other"


def twice_forked(**more):
    """Line 3 left line 2 at 700, which had left line 1 at 450."""
    given = {
        "backups": (backup("b1", 50, 120), backup("b3", 750, 800, "3")),
        "terms": (term(1, "1"), term(2, "2", "1", 450, 470), term(3, "3", "2", 700, 710)),
        "marks": (mark(3, "3", 940, commit=930),),
        "lines": {"1": stored("1", (0, 6)), "2": stored("2", (4, 7)), "3": stored("3", (7, 8), s9=40)},
    }
    return forked(**(given | more))


def test_bug_a_reign_without_a_record_cut_the_window():
    """It ended before it could be recorded; the one after it tells where its line began."""
    told = replace(term(3, "3", "2", 700, 710), ancestors=(Fork("2", "1", Position("450")),))
    whole, found = recoverable(twice_forked(), ENGINE), recoverable(twice_forked(terms=(term(1, "1"), told)), ENGINE)
    assert found.window == whole.window and found.lost is None
    assert found.lines == ("1", "2", "3")
    given = twice_forked(terms=(term(1, "1"), term(2, "2", "1", 470, 480), told))
    assert recoverable(given, ENGINE).forks[0].position == "470", "a record of its own says it better"
    restored = twice_forked(terms=(term(1, "2"), told))
    assert recoverable(restored, ENGINE).lines == ("2", "3"), "nothing lies before the first reign"


def test_bug_a_reign_within_one_segment_that_it_never_stored_was_a_gap():
    told = replace(term(3, "3", "2", 480, 490), ancestors=(Fork("2", "1", Position("450")),))
    lines = {"1": stored("1", (0, 3)), "3": stored("3", (4, 8), s9=40)}
    given = {"terms": (term(1, "1"), told), "backups": (backup("b1", 50, 120),)}
    found = recoverable(twice_forked(lines=lines, **given), ENGINE)
    assert found.window is not None and (found.window.start, found.window.end) == (at(120), at(940))
    wanted = plan(twice_forked(lines=lines, **given), target(), ENGINE)
    assert wanted.backup.facts.id == "b1"
    lines["3"] = stored("3", (5, 8), s9=40)
    found = recoverable(twice_forked(lines=lines, **given), ENGINE)
    assert found.window is not None and found.window.end == at(120), "nobody has what was written in segment 4"


def test_failure_4_a_lost_record_of_an_earlier_reign_is_told_and_the_window_is_what_is_left():
    whole = recoverable(twice_forked(), ENGINE)
    assert whole.lost is None and hindrance(whole) is None
    assert whole.window is not None and whole.window.start == at(120)
    terms = (term(1, "1"), term(3, "3", "2", 700, 710))
    found = recoverable(twice_forked(terms=terms), ENGINE)
    assert found.lost is not None and (found.lost.line, found.lost.newest) == ("2", False)
    assert found.window is not None and (found.window.start, found.window.end) == (at(800), at(940))
    assert "terms (the reign on line 2), which joins it to the newest one, is missing" in dict(found.unusable)["b1"]
    wrong = hindrance(found)
    assert wrong is not None and (wrong.reason, wrong.blocking) == ("TermMissing", False)
    assert "b1" in wrong.message and "the recoverable window is 2026-03-01T13:20:00Z to" in wrong.fix
    assert plan(twice_forked(terms=terms), target(), ENGINE).backup.facts.id == "b3", "latest is not concerned"


def test_failure_4_with_nothing_after_an_earlier_loss_a_restore_names_it_and_a_new_backup_ends_it():
    history = twice_forked(terms=(term(1, "1"), term(3, "3", "2", 700, 710)), backups=(backup("b1", 50, 120),))
    found = recoverable(history, ENGINE)
    wrong = hindrance(found)
    assert wrong is not None and (wrong.reason, wrong.blocking) == ("TermMissing", True)
    assert "take a new Backup" in wrong.fix
    with pytest.raises(IntegrityError) as caught:
        plan(history, target(), ENGINE)
    assert caught.value.reason == "TermMissing"


def test_a_line_that_was_left_for_good_is_no_loss():
    """Two instances took over from line 1, one after the other: line 2 leads nowhere, and nothing is missing."""
    history = forked(terms=(term(1, "1"), term(2, "2", "1", 450, 470), term(3, "3", "1", 650, 660)))
    assert recoverable(history, ENGINE).lost is None


def test_a_gap_is_told_as_what_hinders():
    found = recoverable(forked(lines={"1": stored("1", (0, 2)), "2": stored("2", (4, 8), s9=40)}), ENGINE)
    assert hindrance(found) is None, "the newest backup lies behind it"
    found = recoverable(plain(lines={"1": stored("1", (0, 1))}), ENGINE)
    wrong = hindrance(found)
    assert wrong is not None and (wrong.reason, wrong.blocking) == ("LogGap", True)


def test_an_abandoned_line_is_followed_when_it_is_named():
    found = recoverable(forked(), ENGINE, "1")
    assert found.lines == ("1",)
    assert [item.facts.id for item in found.backups] == ["b1", "x1"]
    assert found.window is not None and found.window.end == at(700)


def test_failure_3_a_gap_before_the_fork_is_found():
    found = recoverable(forked(lines={"1": stored("1", (0, 2)), "2": stored("2", (4, 8), s9=40)}), ENGINE)
    assert found.window is not None and found.window.start == at(650)
    assert dict(found.unusable)["b1"] == f"log/1/{segment('1', 3)} is missing after it"


def test_the_shared_segment_may_lie_with_the_parent_only():
    found = recoverable(forked(lines={"1": stored("1", (0, 3), s4=50), "2": stored("2", (5, 8), s9=40)}), ENGINE)
    assert "b1" in [item.facts.id for item in found.backups]


def test_the_shared_segment_may_be_nowhere():
    lines = {"1": stored("1", (0, 3)), "2": stored("2", (5, 8), s9=40)}
    found = recoverable(forked(lines=lines), ENGINE)
    assert dict(found.unusable)["b1"] == f"log/2/{segment('2', 4)} is missing after it"


@pytest.mark.parametrize("started, expected", [(470, 470), (None, 700)])
def test_a_new_reign_without_a_mark_is_proven_up_to_its_start(started, expected):
    terms = (term(1, "1"), term(2, "2", "1", 450, started))
    history = forked(
        backups=(backup("b1", 50, 120),), terms=terms, marks=(mark(1, "1", 700),), lines={"1": stored("1", (0, 6))}
    )
    found = recoverable(history, ENGINE)
    assert found.window is not None
    assert (found.window.position, found.window.end) == ("450", at(expected))
    assert found.extent is not None and found.extent.segment == ""


def test_a_fork_with_nothing_known_of_the_parent_ends_with_the_backup():
    terms = (term(1, "1"), term(2, "2", "1", 450))
    history = forked(backups=(backup("b1", 50, 120),), terms=terms, marks=(), lines={"1": stored("1", (0, 6))})
    found = recoverable(history, ENGINE)
    assert found.window is not None
    assert (found.window.position, found.window.end) == ("450", at(120))


def test_several_forks_in_a_row():
    history = forked(
        terms=(term(1, "1"), term(2, "2", "1", 450, 470), term(3, "3", "2", 820, 830)),
        marks=(mark(3, "3", 1010, commit=1000),),
        lines={"1": stored("1", (0, 4)), "2": stored("2", (4, 8)), "3": stored("3", (8, 9), s10=10)},
    )
    found = recoverable(history, ENGINE)
    assert found.lines == ("1", "2", "3")
    assert found.window is not None and found.window.end == at(1010)
    assert [item.facts.id for item in found.backups] == ["b1", "b2"]


# -- plans -----------------------------------------------------------------------------------------------------------


def test_latest_takes_the_newest_backup_and_all_that_is_stored():
    chosen = plan(plain(), target(), ENGINE)
    assert chosen.backup.facts.id == "b2"
    assert (chosen.recovery.line, chosen.recovery.end, chosen.recovery.has_log) == ("1", "940", True)
    assert (chosen.last_segment, chosen.tail_bytes, chosen.lines) == (segment("1", 9), 40, ("1",))


def test_a_time_takes_the_newest_backup_that_ended_before():
    assert plan(plain(), time(640), ENGINE).backup.facts.id == "b1"
    assert plan(plain(), time(650), ENGINE).backup.facts.id == "b2"
    chosen = plan(plain(), time(700, exclusive=True), ENGINE)
    assert chosen.recovery.target == time(700, exclusive=True)


def test_failure_27_a_time_inside_a_backup_takes_the_one_before():
    assert plan(plain(), time(600), ENGINE).backup.facts.id == "b1"


@pytest.mark.parametrize(
    "minutes, exclusive, type",
    [
        (929, False, "time"),
        (930, False, "latest"),
        (930, True, "time"),
        (931, False, "latest"),
        (931, True, "latest"),
        (960, False, "latest"),
    ],
)
def test_failure_26_a_time_after_the_last_commit_is_latest(minutes, exclusive, type):
    chosen = plan(plain(), time(minutes, exclusive=exclusive), ENGINE)
    assert chosen.recovery.target.type.value == type
    if type == "latest":
        assert (chosen.recovery.target.value, chosen.recovery.target.exclusive) == ("", False)


@pytest.mark.parametrize(
    ("line", "tail"),
    [(stored("1", (0, 8), s9=40), 40), (stored("1", (0, 8), s9=90), 90), (stored("1", (0, 12)), 0)],
    ids=["what was proven", "more of the segment", "the whole segment and others"],
)
def test_bug_what_was_stored_after_a_moment_was_replayed_though_it_was_committed_later(line, tail):
    """Nothing is known of it but that it lies behind the proof: it may be the accident that the moment lies before."""
    history = plain(lines={"1": line})
    chosen = plan(history, time(950), ENGINE)
    assert chosen.recovery.target.type is TargetType.LATEST
    assert (chosen.last_segment, chosen.tail_bytes, chosen.most) == (segment("1", 9), tail, 40)
    assert plan(history, target(), ENGINE).most is None, "the latest is all that is stored"
    assert plan(history, time(900), ENGINE).most is None, "the engine stops by itself"


def test_bug_behind_the_last_proof_a_time_was_taken_for_the_end():
    """The newest backup ended at 650 and proves that place; the commit before the last mark is not the last one."""
    history = plain(marks=(mark(1, "1", 600, commit=590),))
    window = recoverable(history, ENGINE).window
    assert window is not None and (window.end, window.last_commit) == (at(650), None)
    assert plan(history, time(640), ENGINE).recovery.target == time(640)


def test_bug_before_its_first_mark_what_is_stored_of_a_reign_was_taken_for_none_of_it():
    history = forked(backups=(backup("b1", 50, 120),), marks=(mark(1, "1", 700, commit=440),))
    window = recoverable(history, ENGINE).window
    assert window is not None and (window.end, window.last_commit) == (at(470), None)
    assert plan(history, time(460), ENGINE).recovery.target == time(460)


def test_an_unknown_last_commit_leaves_the_time_to_the_engine():
    assert plan(plain(marks=(mark(1, "1", 940),)), time(935), ENGINE).recovery.target.type is TargetType.TIME


def test_the_last_commit_of_an_earlier_reign_counts():
    history = forked(marks=(mark(1, "1", 700, commit=690), mark(2, "2", 940, commit=680)))
    window = recoverable(history, ENGINE).window
    assert window is not None and window.last_commit == at(690)


def test_bug_a_reign_whose_last_commit_is_unknown_was_taken_for_one_without_any():
    """A time after the last commit of the reign before it became latest, and what was done later was replayed."""
    history = forked(marks=(mark(1, "1", 700, commit=440), mark(2, "2", 940)))
    window = recoverable(history, ENGINE).window
    assert window is not None and window.last_commit is None
    assert plan(history, time(800), ENGINE).recovery.target == time(800)


def test_before_its_first_mark_a_reign_has_the_last_commit_of_the_one_before():
    terms = (term(1, "1"), term(2, "2", "1", 450, 470))
    history = forked(
        backups=(backup("b1", 50, 120),),
        terms=terms,
        marks=(mark(1, "1", 700, commit=440),),
        lines={"1": stored("1", (0, 6))},
    )
    window = recoverable(history, ENGINE).window
    assert window is not None and window.last_commit == at(440)


@pytest.mark.parametrize("minutes", [0, 119.9, 960.1, 5000])
def test_failure_26_a_time_outside_the_window_is_refused_and_the_window_named(minutes):
    with pytest.raises(InvalidInput) as caught:
        plan(plain(), time(minutes), ENGINE)
    assert caught.value.reason == "TargetOutsideWindow"
    window = recoverable(plain(), ENGINE).window
    assert window is not None and describe(window) in str(caught.value)
    assert "2026-03-01T02:00:00Z to 2026-03-01T16:00:00Z, last commit 2026-03-01T15:30:00Z" in str(caught.value)


@pytest.mark.parametrize(("wanted", "now"), [(960.1, 961), (962, 961.5), (970, 975)])
def test_a_time_that_the_window_is_about_to_reach_is_waited_for(wanted, now):
    with pytest.raises(NotReady) as caught:
        plan(plain(), time(wanted), ENGINE, at(now))
    assert caught.value.reason == "TargetAhead"
    window = recoverable(plain(), ENGINE).window
    assert window is not None and describe(window) in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "now"),
    [(963, 961), (970, 976), (119.9, 961)],
    ids=["in the future", "the window stands still", "before the window"],
)
def test_a_time_that_the_window_will_not_reach_is_refused(wanted, now):
    with pytest.raises(InvalidInput) as caught:
        plan(plain(), time(wanted), ENGINE, at(now))
    assert caught.value.reason == "TargetOutsideWindow"


def test_failure_25_a_time_without_an_offset_is_refused():
    with pytest.raises(InvalidInput, match="offset"):
        plan(plain(), target("time", "2026-03-01T10:00:00"), ENGINE)


def test_a_time_with_another_offset_is_the_same_moment():
    assert plan(plain(), target("time", "2026-03-01T19:50:00+09:00"), ENGINE).backup.facts.id == "b2"


def test_a_position_beyond_the_log_names_the_window():
    with pytest.raises(InvalidInput, match="recoverable window is") as caught:
        plan(plain(), target("position", "941"), ENGINE)
    assert caught.value.reason == "TargetOutsideWindow"
    assert "choose an earlier one" in str(caught.value)


def test_a_position_before_every_backup_names_the_window():
    with pytest.raises(InvalidInput, match="outside the recoverable window"):
        plan(plain(), target("position", "100"), ENGINE)


@pytest.mark.parametrize("value, id", [("119", None), ("120", "b1"), ("649", "b1"), ("650", "b2")])
def test_a_position_takes_the_newest_backup_before_it(value, id):
    if id is None:
        with pytest.raises(InvalidInput):
            plan(plain(), target("position", value), ENGINE)
    else:
        assert plan(plain(), target("position", value), ENGINE).backup.facts.id == id


def test_a_name_is_looked_for_from_the_oldest_backup():
    assert plan(plain(), target("name", "before-release"), ENGINE).backup.facts.id == "b1"


def test_a_transaction_with_a_number_in_the_facts_takes_the_newest_that_reaches_it():
    history = plain(backups=(backup("b1", 50, 120, next="10"), backup("b2", 500, 650, next="70")))
    assert plan(history, target("transaction", "69"), ENGINE).backup.facts.id == "b1"
    assert plan(history, target("transaction", "70"), ENGINE).backup.facts.id == "b2"
    with pytest.raises(InvalidInput, match="window"):
        plan(history, target("transaction", "9"), ENGINE)


def test_immediate_stops_at_the_end_of_the_newest_backup():
    chosen = plan(plain(), target("immediate"), ENGINE)
    assert chosen.backup.facts.id == "b2"
    assert (chosen.recovery.end, chosen.last_segment, chosen.tail_bytes) == ("650", segment("1", 6), 0)


def test_a_backup_may_be_named():
    assert plan(plain(), target(backup="b1"), ENGINE).backup.facts.id == "b1"
    assert plan(plain(), target("immediate", backup="b1"), ENGINE).recovery.end == "120"
    assert plan(plain(), time(700, backup="b1"), ENGINE).backup.facts.id == "b1"


def test_a_backup_that_is_not_known_is_refused_with_those_that_are():
    with pytest.raises(InvalidInput, match="b1, b2") as caught:
        plan(plain(), target(backup="b9"), ENGINE)
    assert caught.value.reason == "BackupUnknown"


def test_a_named_backup_after_the_target_is_refused():
    with pytest.raises(InvalidInput, match="after the target") as caught:
        plan(plain(), time(300, backup="b2"), ENGINE)
    assert caught.value.reason == "BackupUnusable"


def test_a_named_backup_of_an_abandoned_line_needs_that_line():
    with pytest.raises(InvalidInput, match="line 1"):
        plan(forked(), target(backup="x1"), ENGINE)
    assert plan(forked(), target(backup="x1", line="1"), ENGINE).recovery.end == "700"


def test_a_named_backup_before_a_gap_cannot_reach_the_end():
    history = plain(lines={"1": stored("1", (0, 2), (4, 8), s9=40)})
    with pytest.raises(InvalidInput, match=f"log/1/{segment('1', 3)}"):
        plan(history, target(backup="b1"), ENGINE)
    assert plan(history, target("immediate", backup="b1"), ENGINE).backup.facts.id == "b1"


def test_a_named_backup_that_is_not_complete_is_refused():
    with pytest.raises(InvalidInput, match="not consistent"):
        plan(plain(lines={"1": stored("1", (0, 0), (2, 8), s9=40)}), target("immediate", backup="b1"), ENGINE)


def test_a_line_that_is_not_known_is_refused_with_those_that_are():
    with pytest.raises(InvalidInput, match="choose one of 1, 2") as caught:
        plan(forked(), target(line="9"), ENGINE)
    assert caught.value.reason == "LineUnknown"


def test_latest_over_a_gap_stops_with_the_objects_name():
    with pytest.raises(IntegrityError) as caught:
        plan(plain(lines={"1": stored("1", (0, 7), (9, 9))}), target(), ENGINE)
    assert (caught.value.reason, caught.value.object) == ("LogGap", f"log/1/{segment('1', 8)}")
    assert "backup b2" in caught.value.fix


def test_a_gap_at_the_very_beginning_has_nothing_before_it():
    with pytest.raises(IntegrityError) as caught:
        plan(plain(backups=(backup("b1", 50, 120),), lines={"1": stored("1", (1, 8))}), target(), ENGINE)
    assert caught.value.object == f"log/1/{segment('1', 0)}"


def test_no_backup_at_all():
    with pytest.raises(NotFound, match="no complete base backup") as caught:
        plan(plain(backups=()), target(), ENGINE)
    assert caught.value.reason == "NoBackup"


def test_only_backups_of_other_lines():
    with pytest.raises(InvalidInput, match="x1: it lies on line 1") as caught:
        plan(forked(backups=(backup("x1", 460, 560),)), target(), ENGINE)
    assert caught.value.reason == "NoBackup"


# -- engines that can do less ----------------------------------------------------------------------------------------


def logless() -> History:
    backups = tuple(replace(item, first_segment="", last_segment="") for item in plain().backups)
    return History(backups=backups, terms=(term(1, ""),))


def logless_of(line: str) -> History:
    backups = tuple(
        replace(item, facts=replace(item.facts, line=line), first_segment="", last_segment="")
        for item in plain().backups
    )
    return History(backups=backups)


@pytest.mark.parametrize("line", ["", "1"])
def test_an_engine_without_a_log_restores_its_newest_backup(line):
    chosen = plan(logless_of(line), target(), LoglessEngine())
    assert (chosen.backup.facts.id, chosen.recovery.has_log) == ("b2", False)
    assert plan(logless_of(line), target(backup="b1"), LoglessEngine()).backup.facts.id == "b1"
    window = recoverable(logless_of(line), LoglessEngine()).window
    assert window is not None and (window.start, window.end) == (at(120), at(650))


def test_an_engine_without_targets_knows_two():
    with pytest.raises(Unsupported, match="time"):
        plan(logless_of(""), time(300), LoglessEngine())


def test_an_engine_may_refuse_a_target():
    engine = CountingEngine()
    engine.targets = PickyTargets()
    with pytest.raises(Unsupported):
        plan(plain(), time(300), engine)


def test_an_engine_without_recovery_restores_nothing():
    engine = CountingEngine()
    engine.recovery = None
    with pytest.raises(Unsupported, match="cannot restore"):
        plan(plain(), target(), engine)


def test_transactions_are_left_out_only_where_the_engine_can():
    wish = target(skip=("7",))
    with pytest.raises(Unsupported, match="leave out"):
        plan(plain(), wish, ENGINE)
    assert plan(plain(), wish, SkippingEngine()).recovery.target.skip == ("7",)


def test_the_segment_size_of_the_fakes_is_the_histories():
    assert plain().segment_bytes == SIZE
