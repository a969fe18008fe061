"""The parts of MySQL's bench that decide: blocked commits, goals, what is written, and the page in the index."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from yoban.errors import Unavailable

from tests.bench.figures import series
from tests.bench.machine import BenchError
from tests.bench.mysql.data import NAMES, enlarged, procedure
from tests.bench.mysql.goals import GOALS, SUBJECT
from tests.bench.mysql.stalls import Commit, blocked, within
from tests.bench.report import listed
from tests.bench.rig import known
from tests.bench.verdict import rows

ROOT = Path(__file__).parents[3]


def test_quick_commits_are_not_blocked() -> None:
    assert blocked([Commit(n, n + 0.4) for n in range(10)], 0, 10) == 0


def test_writers_that_wait_together_count_once_and_only_within_the_backup() -> None:
    commits = [Commit(1.0, 3.0), Commit(1.5, 3.5), Commit(3.2, 3.3), Commit(5.0, 6.0)]
    assert blocked(commits, 0, 10) == pytest.approx(2.5 + 1.0)
    assert blocked(commits, 2.0, 5.5) == pytest.approx(1.5 + 0.5)
    assert blocked(list(reversed(commits)), 2.0, 3.0) == pytest.approx(1.0)


def test_a_commit_that_spans_a_whole_backup_is_seen() -> None:
    """The worst of all: no commit begins or ends while the backup runs."""
    commits = [Commit(0.0, 9.0)]
    assert within(commits, 2.0, 5.0) == commits
    assert blocked(commits, 2.0, 5.0) == pytest.approx(3.0)
    assert within(commits, 9.0, 12.0) == []


def test_no_blocked_second_is_the_goal() -> None:
    verdicts = {row.goal.measure: row.verdict for row in rows({"blocked.seconds": series("s", [0.0])}, GOALS)}
    assert verdicts["blocked.seconds"] == "met"
    assert verdicts["replay.ratio"] == "not run"
    (row,) = rows(
        {"blocked.seconds": series("s", [0.7])}, [goal for goal in GOALS if goal.measure == "blocked.seconds"]
    )
    assert row.verdict == "SHORT by 0.700 s"


def test_each_kind_of_transaction_reaches_each_table() -> None:
    text = procedure()
    for name in NAMES:
        for words in (f"UPDATE {name} SET", f"INSERT INTO {name} VALUES", f"DELETE FROM {name} WHERE"):
            assert words in text
    # RAND() in a condition would be another number for each row, and the statement a scan of the table.
    assert not re.search(r"WHERE[^;]*RAND", text)


def test_rows_are_chosen_by_the_condition() -> None:
    assert enlarged("id BETWEEN 1 AND 9").endswith("FROM app.base WHERE id BETWEEN 1 AND 9 ORDER BY id")


def test_the_saved_page_is_listed_in_the_index_once() -> None:
    index = (ROOT / "docs/index.md").read_text()
    once = listed(index, SUBJECT)
    assert once.count("(benchmarks/mysql/results.md)") == 1
    assert listed(once, SUBJECT) == once
    lines = once.splitlines()
    entry = next(number for number, line in enumerate(lines) if "benchmarks/mysql/results.md" in line)
    assert lines[entry - 1].startswith("- [Benchmark")
    assert [line for line in lines if line not in index.splitlines()] in ([], [lines[entry]])


def test_what_a_measure_says_is_told_from_a_defect_of_the_bench() -> None:
    """A backup that fails under load does so within a group of tasks."""
    assert known(BenchError("no"))
    assert known(ExceptionGroup("tasks", [BenchError("no"), Unavailable("gone", object="server")]))
    assert not known(ExceptionGroup("tasks", [BenchError("no"), KeyError("x")]))
    assert not known(asyncio.CancelledError())
