"""Lines whose segments are their own servers': what leads from a backup to the end, and what is missing on the way.

Line 1 was written by the first server to record 60; line 2 left it at 50 and was written by a server whose oldest file
begins after record 22.
"""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest
from yoban.domain.history import History, Mark, StoredBackup, Term
from yoban.domain.lineage import Extent, Gap
from yoban.domain.recoverability import plan, recoverable
from yoban.errors import IntegrityError
from yoban.plugins import BackupFacts, Fork, Position, RecoveryTarget
from yoban.plugins.lines import StoredLine, runs
from yoban.testing.memory_sets import SetsEngine, SetsLog

from tests.unit.domain.counting import at

ENGINE = SetsEngine()
LOG: SetsLog = ENGINE.log_source  # type: ignore[assignment]


def name(line: int, number: int, before: int) -> str:
    return f"{line:04d}.{number:04d}.{before:08d}"


OLD = [name(1, number, 10 * number) for number in range(6)]
NEW = [name(2, number, 22 + 10 * number) for number in range(5)]


def place(count: int, fork: int = 50) -> Position:
    return Position(f"1:1-{count}" if count <= fork else f"1:1-{fork},2:{fork + 1}-{count}")


def line(number: int, whole: list[str], **tails: int) -> StoredLine:
    chunks = {key: size for key, size in tails.items() if size}
    return StoredLine(
        str(number), runs(whole, lambda one: LOG.successor(one, 0)), chunks, tuple(sorted({*whole, *chunks}))
    )


def backup(id: str, end: int, number: int = 1, position: str = "") -> StoredBackup:
    where = Position(position) if position else place(end)
    return StoredBackup(BackupFacts(id, str(number), where, where, at(end), at(end)))


def mark(term: int, number: int, count: int, segment: str, flushed: int = 5, position: str = "") -> Mark:
    return Mark(term, str(number), at(count), Position(position) if position else place(count), segment, flushed)


def story(**changes: object) -> History:
    given: dict[str, object] = {
        "backups": (backup("b1", 15),),
        "terms": (Term(1, "1"), Term(2, "2", "1", place(50), at(51))),
        "marks": (mark(1, 1, 48, OLD[4]), mark(2, 2, 66, NEW[4])),
        "lines": {"1": line(1, OLD[:4], **{OLD[4]: 9}), "2": line(2, NEW[:4], **{NEW[4]: 7})},
    }
    return History(**(given | changes))  # type: ignore[arg-type]


def segments(history: History, **target: object) -> tuple[str, ...]:
    return plan(history, RecoveryTarget(**target), ENGINE).recovery.segments  # type: ignore[arg-type]


def missing(history: History) -> str:
    found = recoverable(history, ENGINE)
    assert isinstance(found.gap, Gap)
    with pytest.raises(IntegrityError) as caught:
        plan(history, RecoveryTarget(), ENGINE)
    assert caught.value.reason == "LogGap"
    return f"{found.gap.line}/{found.gap.missing}"


def test_the_parent_s_log_is_needed_only_as_far_as_the_new_line_does_not_reach_back():
    found = recoverable(story(), ENGINE)
    assert found.window is not None
    assert (found.window.end, found.window.position, found.window.line) == (at(66), place(66), "2")
    assert segments(story()) == (OLD[1], OLD[2], OLD[3], OLD[4], NEW[2], NEW[3], NEW[4])
    chosen = plan(story(), RecoveryTarget(), ENGINE)
    assert (chosen.last_segment, chosen.tail_bytes, set(chosen.partial)) == (NEW[4], 7, {OLD[4], NEW[4]})


def test_a_backup_that_the_new_line_continues_needs_nothing_of_the_old_one():
    history = story(backups=(backup("b1", 30),), lines={"2": story().lines["2"]})
    assert segments(history) == (NEW[0], NEW[1], NEW[2], NEW[3], NEW[4])


def test_a_backup_after_the_new_line_began_and_before_the_fork_counts():
    assert segments(story(backups=(backup("b1", 49),))) == (NEW[2], NEW[3], NEW[4])


def test_a_backup_past_the_fork_is_of_another_history():
    found = recoverable(story(backups=(backup("b1", 15), backup("x", 55, position="1:1-55"))), ENGINE)
    assert "left before its end" in dict(found.unusable)["x"]
    assert [item.facts.id for item in found.backups] == ["b1"]


def test_failure_21_what_the_old_primary_wrote_past_the_fork_is_not_fed_by_name_only():
    """Its mark lies past the fork: the way ends at the fork, in the segment that holds it."""
    orphaned = story(
        marks=(mark(1, 1, 58, OLD[5], position="1:1-58"), mark(2, 2, 66, NEW[4])),
        lines={"1": line(1, OLD[:5], **{OLD[5]: 9}), "2": line(2, NEW[3:4], **{NEW[4]: 7})},
        backups=(backup("b1", 15),),
    )
    assert missing(orphaned) == "2/*"  # the new line alone begins past the fork
    whole = replace(orphaned, lines=orphaned.lines | {"2": line(2, NEW[2:4], **{NEW[4]: 7})})
    assert segments(whole) == (OLD[1], OLD[2], OLD[3], OLD[4], NEW[2], NEW[3], NEW[4])


@pytest.mark.parametrize(
    "lines, told",
    [
        ({"1": line(1, [OLD[0], OLD[2], OLD[3]], **{OLD[4]: 9})}, "1/0001.0001.*"),
        ({"1": line(1, OLD[2:4], **{OLD[4]: 9})}, "1/*"),
        ({"1": line(1, [*OLD[:2], OLD[3]], **{OLD[4]: 9})}, "1/0001.0002.*"),
        ({"1": line(1, OLD[:4])}, f"1/{OLD[4]}"),
        ({"1": line(1, OLD[:4], **{OLD[4]: 4})}, f"1/{OLD[4]}"),
        ({"2": line(2, [*NEW[:3]], **{NEW[4]: 7})}, "2/0002.0003.*"),
        ({"2": line(2, NEW[:4])}, f"2/{NEW[4]}"),
        ({"2": line(2, [NEW[0], NEW[1], NEW[3]], **{NEW[4]: 7})}, "2/0002.0002.*"),
    ],
)
def test_failure_20_whatever_is_missing_is_named(lines, told):
    history = story(lines=story().lines | lines)
    assert missing(history) == told


def test_without_a_proof_of_the_old_line_nothing_is_taken_over():
    assert missing(story(marks=(mark(2, 2, 66, NEW[4]),))) == "2/*"


def test_a_mark_at_the_start_of_a_file_needs_nothing_of_it():
    fresh = (mark(1, 1, 40, OLD[4], 0), mark(2, 2, 62, NEW[4], 0))
    history = story(marks=fresh, lines={"1": line(1, OLD[:4]), "2": line(2, NEW[:4])})
    assert segments(history) == (OLD[1], OLD[2], OLD[3], NEW[1], NEW[2], NEW[3])


def test_bug_a_line_of_which_nothing_is_stored_ended_the_way_although_the_next_one_reaches_back():
    """The reign on line 2 was over before the store came back; line 3's server had applied all of it."""
    later = [name(3, number, 22 + 10 * number) for number in range(5)]
    end = "1:1-50,2:51-58,3:59-66"
    forks = (Fork("2", "1", place(50)), Fork("3", "2", place(58)))
    history = story(
        terms=(Term(1, "1"), Term(3, "3", "2", forks[1].position, at(59), ancestors=forks[:1])),
        marks=(mark(1, 1, 48, OLD[4]), mark(3, 3, 66, later[4], position=end)),
        lines={"1": story().lines["1"], "3": line(3, later[:4], **{later[4]: 7})},
    )
    assert recoverable(history, ENGINE).forks == forks
    assert segments(history) == (OLD[1], OLD[2], OLD[3], OLD[4], later[2], later[3], later[4])
    assert segments(replace(history, backups=(backup("b1", 30),))) == tuple(later)
    short = replace(history, lines=history.lines | {"3": line(3, later[3:4], **{later[4]: 7})})
    assert missing(short) == "2/*", "what line 1 had after its proof nobody has"


def test_a_backup_newer_than_the_mark_needs_no_log():
    history = story(backups=(backup("b1", 64, 2),), marks=(mark(1, 1, 48, OLD[4]), mark(2, 2, 60, NEW[3])))
    found = recoverable(history, ENGINE)
    assert isinstance(found.extent, Extent)
    assert (found.extent.position, found.extent.stretches) == (place(64), ())
    assert segments(history) == ()


def test_a_long_log_is_walked_once_however_many_backups_stand_on_it():
    names = [name(1, number % 10000, number) for number in range(10000)]
    many = {"1": line(1, names)}
    history = story(
        lines=many,
        terms=(Term(1, "1"),),
        marks=(mark(1, 1, 9999, names[-1], position="1:1-9999"),),
        backups=tuple(backup(f"b{n}", 10 * n + 1, position=f"1:1-{10 * n + 1}") for n in range(50)),
    )
    with patch.object(LOG, "successor", wraps=LOG.successor) as successor:
        assert len(recoverable(history, ENGINE).backups) == 50
    assert successor.call_count <= 2 * len(names)
