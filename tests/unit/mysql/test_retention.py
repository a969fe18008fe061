"""Retention with the names and positions of binary logs: what a kept backup, a restore or a fork needs stays."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from yoban.domain.gathering import history
from yoban.domain.recoverability import plan
from yoban.plugins import RecoveryTarget
from yoban.repository import BackupSummary, Catalog, Hold, Mark, RetentionPolicy, TermRecord, plan_retention, survey
from yoban.repository.tail import TailChunk
from yoban_mysql.engine import MySqlEngine
from yoban_mysql.segments import segment_name

A, B = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"
OLD, NEW = f"{A}.0000000001", f"{B}.0000000002"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ENGINE = MySqlEngine()


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def place(count: int) -> str:
    """The first fifty transactions are the first server's."""
    return f"{A}:1-{count}" if count <= 50 else f"{A}:1-50,{B}:1-{count - 50}"


OLD_FILES = tuple(segment_name(OLD, number + 1, 10 * number) for number in range(5))
NEW_FILES = tuple(segment_name(NEW, number + 2, 35 + 10 * number) for number in range(5))


def backup(id: str, end: int) -> BackupSummary:
    """A backup that ended at a count of transactions, and as many minutes after noon."""
    line = OLD if end <= 50 else NEW
    return BackupSummary(
        id=id, engine="mysql", begin_line=line, begin_position=place(end - 1), begin_time=at(end - 1), line=line,
        end_position=place(end), end_time=at(end), started=at(end - 1), completed=at(end),
    )  # fmt: skip


def mark(term: int, line: str, count: int, segment: str) -> Mark:
    return Mark(
        term=term, instance="a", time=at(count), position=place(count), last_commit=at(count), line=line, segment=segment,
        flushed=400, segment_bytes=0, written=at(count),
    )  # fmt: skip


def catalog(*backups: BackupSummary, **changes: Any) -> Catalog:
    """Line 1 from its first transaction to the 50th; line 2 left it there, and its files begin behind the 35th."""
    values: dict[str, Any] = {
        "root": "shop/orders/0123456789ab",
        "taken": at(90),
        "terms": (
            TermRecord(term=1, instance="orders-1", line=OLD, time=at(0)),
            TermRecord(term=2, instance="orders-2", line=NEW, parent=OLD, position=place(50), time=at(51)),
        ),
        "mark": mark(2, NEW, 80, NEW_FILES[4]),
        "marks": (mark(1, OLD, 50, OLD_FILES[4]), mark(2, NEW, 80, NEW_FILES[4])),
        "backups": backups,
        "lines": {OLD: OLD_FILES, NEW: NEW_FILES[:4]},
        "tails": (TailChunk(NEW, 2, NEW_FILES[4], 0, 400),),
    }
    return Catalog(**(values | changes))


def kept(found: Catalog, keep: int, **more: Any) -> Catalog:
    """What is left when a policy that keeps so many backups was carried out, and its grace has passed."""
    log = ENGINE.log_source
    for moment in (at(100), at(1000)):
        view = survey(found, log, ENGINE.positions)
        done = plan_retention(found, view, RetentionPolicy(keep_count=keep), moment, log=log, **more)
        left = {
            line: tuple(name for name in names if name not in done.log.get(line, ()))
            for line, names in found.lines.items()
        }
        found = replace(
            found,
            backups=tuple(one for one in found.backups if one.id not in done.remove),
            lines=left,
            expired={**found.expired, **dict.fromkeys(done.mark, moment)},
        )
    return found


def fed(found: Catalog, backup: str = "") -> tuple[str, ...]:
    return plan(history(found, ENGINE.log_source), RecoveryTarget(backup=backup), ENGINE).recovery.segments


@pytest.mark.parametrize(
    "ends, keep, staying",
    [
        ((15, 25, 45), 3, ("b15", "b25", "b45")),
        ((15, 25, 45), 2, ("b25", "b45")),
        ((15, 45, 60), 2, ("b45", "b60")),  # the kept one lies before the fork, and where both lines have it
        ((15, 45, 60), 1, ("b60",)),
        ((10, 20, 40), 2, ("b20", "b40")),  # each ends with its file
    ],
)
def test_failure_19_every_kept_backup_is_restored_as_before(
    ends: tuple[int, ...], keep: int, staying: tuple[str, ...]
) -> None:
    before = catalog(*(backup(f"b{end}", end) for end in ends))
    after = kept(before, keep)
    assert tuple(one.id for one in after.backups) == staying
    for id in staying:
        assert fed(after, id) == fed(before, id), id
    assert fed(after) == fed(before)
    if staying[0] != "b15" and "b10" not in staying:
        assert sum(map(len, after.lines.values())) < sum(map(len, before.lines.values())), "what nobody needs goes"


def test_failure_19_log_of_a_backup_that_is_being_made_stays() -> None:
    """It ends before the newest finished one began, and no manifest names what it needs."""
    note = Hold(id="slow", started=at(12), expires=at(2000))
    before = catalog(backup("b15", 15), backup("b60", 60), running={"slow": note})
    assert kept(before, 1).lines == before.lines
    unknown = catalog(backup("b15", 15), backup("b60", 60))
    assert kept(unknown, 1, running=frozenset({"slow"})).lines == unknown.lines
