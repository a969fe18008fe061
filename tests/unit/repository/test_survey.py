"""What a listing proves. Most of it pure, over catalogues made by hand."""

from __future__ import annotations

from typing import Any

import msgspec
from yoban.plugins import Fork, Position
from yoban.repository import Catalog, Gap, Mark, Survey, TailChunk, TermRecord, gaps_in_words, survey
from yoban.testing.memory_sets import SetsEngine

from tests.unit.repository.parts import EPOCH, ROOT, SEGMENT, NumberLog, NumberPositions, at, segment, summary

LOG, POSITIONS = NumberLog(), NumberPositions()
FIRST = TermRecord(term=1, instance="a", line="1", time=EPOCH)


def mark(
    line: str = "1", number: int = 9, flushed: int = 50, minute: float = 60, term: int = 1, **changes: Any
) -> Mark:
    values: dict[str, Any] = {
        "term": term,
        "instance": "a",
        "time": at(minute),
        "position": str(number * SEGMENT + flushed),
        "last_commit": at(minute - 1),
        "line": line,
        "segment": segment(line, number),
        "flushed": flushed,
        "segment_bytes": SEGMENT,
        "written": at(minute),
    }
    return Mark(**(values | changes))


def tails(line: str, number: int, *ends: int) -> tuple[TailChunk, ...]:
    starts = (0, *ends)
    return tuple(
        TailChunk(line, 1, segment(line, number), start, stop) for start, stop in zip(starts, ends, strict=False)
    )


def names(line: str, first: int, last: int, *, without: tuple[int, ...] = ()) -> tuple[str, ...]:
    return tuple(segment(line, number) for number in range(first, last + 1) if number not in without)


def catalog(**changes: Any) -> Catalog:
    values: dict[str, Any] = {
        "root": ROOT,
        "taken": at(61),
        "terms": (FIRST,),
        "mark": mark(),
        "backups": (
            summary("b1", end_minute=10, first=1, last=2),
            summary("b2", end_minute=30, first=5, last=6),
        ),
        "lines": {"1": names("1", 0, 8)},
        "tails": tails("1", 9, 20, 50),
    }
    return Catalog(**(values | changes))


def judged(view: Survey) -> dict[str, tuple[bool, bool]]:
    return {use.summary.id: (use.restorable, use.usable) for use in view.backups}


def look(**changes: Any) -> Survey:
    return survey(catalog(**changes), LOG, POSITIONS)


def test_everything_there() -> None:
    view = look()
    assert view.window is not None
    assert (view.window.start, view.window.end, view.window.last_commit) == (at(10), at(60), at(59))
    assert (view.window.position, view.window.line) == ("950", "1")
    assert judged(view) == {"b1": (True, True), "b2": (True, True)}
    assert (view.gaps, view.forks, view.problem) == ((), (), "")


def test_the_last_segment_may_be_whole() -> None:
    assert look(lines={"1": names("1", 0, 9)}, tails=()).window is not None


def test_nothing_of_the_last_segment_needs_to_be_there() -> None:
    view = look(mark=mark(flushed=0), tails=())
    assert view.window is not None
    assert view.window.position == "900"


def test_failure_01_a_missing_segment_cuts_the_window() -> None:
    view = look(lines={"1": names("1", 0, 8, without=(4,))})
    assert view.gaps == (Gap("1", segment("1", 4), segment("1", 4), 1),)
    assert judged(view) == {"b1": (True, False), "b2": (True, True)}
    assert view.window is not None
    assert view.window.start == at(30)
    assert segment("1", 4) in view.backups[0].why


def test_failure_02_a_backup_without_its_last_segment_is_none() -> None:
    view = look(lines={"1": names("1", 0, 8, without=(2,))})
    assert judged(view) == {"b1": (False, False), "b2": (True, True)}


def test_a_gap_after_every_backup_leaves_the_last_backup_s_own_moment() -> None:
    view = look(lines={"1": names("1", 0, 8, without=(7,))})
    assert judged(view) == {"b1": (True, False), "b2": (True, False)}
    assert view.window is not None
    assert (view.window.start, view.window.end, view.window.position) == (at(30), at(30), "690")
    assert segment("1", 7) in view.problem


def test_gaps_are_joined_to_runs() -> None:
    view = look(lines={"1": names("1", 0, 8, without=(3, 4, 7))})
    assert view.gaps == (
        Gap("1", segment("1", 3), segment("1", 4), 2),
        Gap("1", segment("1", 7), segment("1", 7), 1),
    )
    assert gaps_in_words(view.gaps).count("gap") == 2
    assert gaps_in_words(()) == ""


def test_a_tail_that_is_too_short_is_a_gap() -> None:
    assert look(tails=tails("1", 9, 20)).gaps == (Gap("1", segment("1", 9), segment("1", 9), 1),)
    assert look(tails=tails("1", 9, 20, 50)[1:]).gaps
    assert look(tails=()).gaps


def test_no_backup_no_window() -> None:
    view = look(backups=())
    assert view.window is None
    assert "no base backup" in view.problem


def test_no_backup_that_can_be_restored() -> None:
    view = look(lines={"1": ()}, tails=())
    assert view.window is None
    assert view.problem


def test_without_a_mark_only_the_backups_count() -> None:
    view = look(mark=None)
    assert view.window is not None
    assert (view.window.start, view.window.end) == (at(30), at(30))
    assert judged(view) == {"b1": (True, False), "b2": (True, False)}
    assert "no log" in view.problem
    assert look(mark=None, lines={}).window is None
    assert look(mark=None, backups=()).window is None


def test_an_engine_without_a_log_has_its_backups() -> None:
    backups = (
        summary("b1", end_minute=10, first=0, last=0, first_segment="", last_segment=""),
        summary("b2", end_minute=30, first=0, last=0, first_segment="", last_segment=""),
    )
    view = survey(catalog(backups=backups, mark=None, lines={}, tails=()), None, POSITIONS)
    assert judged(view) == {"b1": (True, True), "b2": (True, True)}
    assert view.window is not None
    assert (view.window.start, view.window.end, view.problem) == (at(10), at(30), "")


def test_a_backup_that_names_no_segments_goes_on_from_its_end() -> None:
    backups = (summary("b1", end_minute=10, first=2, last=2, first_segment="", last_segment=""),)
    view = look(backups=backups, lines={"1": names("1", 2, 8)})
    assert judged(view) == {"b1": (True, True)}
    assert view.window is not None
    assert (view.window.start, view.window.end) == (at(10), at(60))
    for without in (2, 5):
        assert judged(look(backups=backups, lines={"1": names("1", 2, 8, without=(without,))})) == {"b1": (True, False)}


def test_a_backup_newer_than_the_mark_moves_the_window_s_end() -> None:
    newest = summary("b3", end_minute=70, first=9, last=10)
    view = look(backups=(*catalog().backups, newest), lines={"1": names("1", 0, 10)}, tails=())
    assert view.window is not None
    assert (view.window.end, view.window.position) == (at(70), "1090")
    alone = look(backups=(summary("b3", end_minute=70, first=10, last=11),), lines={"1": names("1", 10, 11)}, tails=())
    assert judged(alone) == {"b3": (True, True)}


# Across forks: line 1 is left within segment 3 (position 350), line 2 within segment 6 (650).

SECOND = TermRecord(term=2, instance="b", line="2", parent="1", position="350", time=at(20))
THIRD = TermRecord(term=3, instance="a", line="3", parent="2", position="650", time=at(40))


def forked(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "terms": (FIRST, SECOND, THIRD),
        "mark": mark("3", 9, term=3),
        "backups": (
            summary("b1", end_minute=10, first=1, last=2),
            summary("b2", end_minute=30, first=4, last=5, line="2"),
            summary("b3", end_minute=50, first=7, last=7, line="3"),
        ),
        "lines": {"1": names("1", 0, 2), "2": names("2", 3, 5), "3": names("3", 6, 8)},
        "tails": tails("3", 9, 50),
    }
    return values | changes


def test_the_window_reaches_across_forks() -> None:
    view = look(**forked())
    assert judged(view) == dict.fromkeys(("b1", "b2", "b3"), (True, True))
    assert view.window is not None
    assert (view.window.start, view.window.line) == (at(10), "3")
    assert view.window.forks == (Fork("2", "1", Position("350")), Fork("3", "2", Position("650")))


TOLD = (Fork("2", "1", Position("350")),)


def test_bug_a_reign_without_a_record_ended_the_window() -> None:
    third = msgspec.structs.replace(THIRD, ancestors=TOLD)
    assert look(**forked(terms=(FIRST, third))) == look(**forked())


def test_bug_a_reign_within_one_segment_that_it_never_stored_was_a_gap() -> None:
    # Line 2 began in segment 3 and was left there; line 3 has a copy of that segment.
    third = TermRecord(term=3, instance="a", line="3", parent="2", position="380", time=at(40), ancestors=TOLD)
    values = forked(
        terms=(FIRST, third),
        backups=(summary("b1", end_minute=10, first=1, last=2),),
        lines={"1": names("1", 0, 2), "3": names("3", 3, 8)},
    )
    view = look(**values)
    assert judged(view) == {"b1": (True, True)}
    assert view.window is not None and not view.gaps
    without = look(**(values | {"lines": {"1": names("1", 0, 2), "3": names("3", 4, 8)}}))
    assert judged(without) == {"b1": (True, False)}
    assert without.gaps


def test_failure_03_a_gap_before_the_fork_is_found() -> None:
    lines = forked()["lines"] | {"1": names("1", 0, 1)}
    view = look(**forked(lines=lines))
    assert judged(view) == {"b1": (False, False), "b2": (True, True), "b3": (True, True)}
    view = look(**forked(lines=forked()["lines"] | {"1": names("1", 0, 2), "2": names("2", 4, 5)}))
    assert judged(view)["b1"] == (True, False)  # the segment of the fork is on neither line
    assert view.gaps[0].first in (segment("1", 3), segment("2", 3))


def test_the_fork_s_segment_may_be_on_either_line() -> None:
    moved = {"1": names("1", 0, 3), "2": names("2", 4, 5), "3": names("3", 6, 8)}
    assert judged(look(**forked(lines=moved)))["b1"] == (True, True)


def test_the_fork_s_segment_may_still_be_a_tail() -> None:
    terms = (FIRST, TermRecord(term=2, instance="b", line="2", parent="1", position="350", time=at(20)))
    view = look(
        terms=terms,
        mark=mark("2", 3, flushed=70, term=2),
        backups=(summary("b1", end_minute=10, first=1, last=2),),
        lines={"1": names("1", 0, 2)},
        tails=tails("2", 3, 70),
    )
    assert judged(view) == {"b1": (True, True)}
    assert view.window is not None


def test_failure_04_a_missing_history_is_a_gap() -> None:
    lines = forked()["lines"] | {"2": (*names("2", 3, 5), "2.history"), "3": (*names("3", 6, 8), "3.history")}
    assert judged(look(**forked(lines=lines)))["b1"] == (True, True)
    view = look(**forked(lines=lines | {"2": names("2", 3, 5)}))
    assert judged(view)["b1"] == (True, False)
    assert "history of line 2" in view.backups[0].why
    assert look(**forked(lines=lines | {"2": (*names("2", 3, 5), "junk file")})).gaps


def test_failure_05_a_backup_past_a_fork_is_not_used() -> None:
    """It ended on line 1 after line 2 had left it: what it holds never happened on the chosen line."""
    past = summary("b1x", end_minute=15, first=3, last=4)
    view = look(**forked(backups=(*forked()["backups"], past), lines=forked()["lines"] | {"1": names("1", 0, 4)}))
    assert judged(view)["b1x"] == (True, False)
    assert "after line 2 left" in {use.summary.id: use.why for use in view.backups}["b1x"]


def test_a_backup_of_another_line_is_not_used() -> None:
    other = summary("bx", end_minute=15, first=3, last=3, line="9")
    lines = forked()["lines"] | {"9": names("9", 3, 3)}
    view = look(**forked(backups=(*forked()["backups"], other), lines=lines))
    assert judged(view)["bx"] == (True, False)
    assert "does not lead" in {use.summary.id: use.why for use in view.backups}["bx"]


def test_a_fork_at_the_edge_of_a_segment() -> None:
    terms = (FIRST, TermRecord(term=2, instance="b", line="2", parent="1", position="300", time=at(20)))
    values = {
        "terms": terms,
        "mark": mark("2", 5, flushed=10, term=2),
        "backups": (summary("b1", end_minute=10, first=1, last=1),),
        "tails": tails("2", 5, 10),
    }
    assert look(**values, lines={"1": names("1", 0, 2), "2": names("2", 3, 4)}).gaps == ()
    assert look(**values, lines={"1": names("1", 0, 1), "2": names("2", 3, 4)}).gaps
    assert look(**values, lines={"1": names("1", 0, 2), "2": names("2", 4, 4)}).gaps


def test_a_mark_without_a_segment_needs_none() -> None:
    view = look(mark=mark(segment="", flushed=0), lines={"1": names("1", 0, 8)}, tails=())
    assert view.gaps == ()


# Lines that overlap: the second server's files begin after record 22, the fork is at 50.

SETS = SetsEngine()
OLD = tuple(f"0001.{number:04d}.{10 * number:08d}" for number in range(5))
NEW = tuple(f"0002.{number:04d}.{22 + 10 * number:08d}" for number in range(5))


def overlapping(**changes: Any) -> Survey:
    first = mark(segment=OLD[4], position="1:1-48", minute=20)
    last = mark("2", segment=NEW[4], position="1:1-50,2:51-66", term=2, minute=60)
    fork = TermRecord(term=2, instance="b", line="2", parent="1", position="1:1-50", time=at(21))
    own = {"first_segment": "", "last_segment": "", "begin_position": "1:1-15", "segment_bytes": 0}
    values: dict[str, Any] = {
        "terms": (FIRST, fork),
        "mark": last,
        "marks": (first, last),
        "backups": (
            summary("b1", end_minute=10, first=0, last=0, end_position="1:1-15", **own),
            summary("b2", end_minute=30, first=0, last=0, line="2", end_position="1:1-50,2:51-60", **own),
        ),
        "lines": {"1": OLD[:4], "2": NEW[:4]},
        "tails": (TailChunk("1", 1, OLD[4], 0, 50), TailChunk("2", 2, NEW[4], 0, 50)),
    }
    return survey(catalog(**(values | changes)), SETS.log_source, SETS.positions)


def test_lines_that_overlap() -> None:
    view = overlapping()
    assert judged(view) == {"b1": (True, True), "b2": (True, True)}
    assert view.window is not None
    assert (view.window.start, view.window.end, view.window.line) == (at(10), at(60), "2")
    assert view.gaps == ()


def test_a_gap_where_lines_overlap_is_named_by_what_is_known() -> None:
    view = overlapping(lines={"1": (OLD[0], OLD[1], OLD[3]), "2": NEW[:4]})
    assert judged(view) == {"b1": (True, False), "b2": (True, True)}
    assert view.gaps == (Gap("1", "0001.0002.*", "0001.0002.*", 1),)
    assert view.window is not None and view.window.start == at(30)
    # What the new line holds itself is not needed of the old one.
    assert judged(overlapping(lines={"1": OLD[:4], "2": NEW[1:4]}))["b1"] == (True, True)
    assert judged(overlapping(lines={"1": OLD[:4], "2": NEW[3:4]}))["b1"] == (True, False)
    assert overlapping(marks=(), lines={"1": OLD[:4], "2": (*NEW[:4], "odd name")}).gaps
