"""Each rule of the runtime and each known way of a backup to fail silently has a test that bears its number.

A rule's test is called `test_3_4_…` (its chapter; the reflector's rules are counted: `test_3_2_8_…`), a failure's test has
`failure_12` in its name. A failure often has several tests: of the decision, of the store, of the server.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
PAGE = TESTS.parent / "docs" / "failures.md"
CORES = frozenset({13})
"""Failures whose path has nothing of an engine in it."""

RULES = {
    "3_1": "bugs that others had",
    "3_2_1": "a list comes before a watch, and the watch starts at its version",
    "3_2_2": "which version a list asks for",
    "3_2_3": "a version is opaque; bookmarks move it on",
    "3_2_4": "parameters of a watch",
    "3_2_5": "a watch that ends",
    "3_2_6": "errors of a watch, each with its own answer",
    "3_2_7": "back-off",
    "3_2_8": "a list tells of what vanished",
    "3_2_9": "silence",
    "3_2_10": "lines of a stream",
    "3_2_11": "a stream that is left",
    "3_2_12": "a silent cache shows",
    "3_3": "store, indexers, delivery",
    "3_4": "work queue",
    "3_5": "priorities",
    "3_6": "controller loop",
    "3_7": "election of a leader",
    "3_8": "order of start and stop",
    "3_9": "finalizers",
    "3_10": "writes",
    "3_11": "conditions and events",
    "3_12": "thousands of objects",
}
"""Chapters and rules of what a controller's runtime has to do."""

FAILURES = {
    1: "a gap in the log, with success reported",
    2: "a backup whose last log is missing",
    3: "a gap before a fork",
    4: "a missing or refused history",
    5: "a line of another database",
    6: "one name, two contents",
    7: "another database's log",
    8: "an object cut short",
    9: "a fetched file half written",
    10: "a miss of the look-ahead taken for the end",
    11: "a store that does not answer taken for an empty one",
    12: "a part missing, a byte flipped",
    13: "checksums that a store does not know",
    14: "a label lost",
    15: "files outside the data directory",
    16: "files that no backup should hold",
    17: "a damaged page copied",
    19: "retention removes what is needed",
    20: "log purged before it was stored",
    21: "the primary moves, and logs of two servers overlap",
    22: "one file name, two servers",
    23: "transactions taken for executed that were not",
    24: "a damaged log file that blocks what comes after it",
    25: "a time without its zone",
    26: "a target after the last commit",
    27: "a target inside a backup",
    28: "a restore over something that is there",
    29: "a restore of nothing",
    31: "the metadata went down with the database",
    32: "a job that hangs or leaves something behind",
}
"""What these tests inject. 18 needs incremental backups, 30 encryption with keys of our own: neither exists here yet."""


def names() -> Iterator[str]:
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield node.name


@pytest.fixture(scope="module")
def found() -> list[str]:
    return list(names())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"rule-{rule.replace('_', '.')}")
def test_each_rule_has_its_test(rule: str, found: list[str]) -> None:
    assert [name for name in found if name.startswith(f"test_{rule}_")], f"{rule}: {RULES[rule]}"


@pytest.mark.parametrize("failure", FAILURES)
def test_each_failure_has_its_test(failure: int, found: list[str]) -> None:
    assert [name for name in found if failure in failures_of(name)], f"{failure}: {FAILURES[failure]}"


def told() -> dict[int, list[tuple[str, str]]]:
    """What the page says of MySQL: files and tests by failure."""
    rows = re.findall(r"^\| (\d+) \|.*$", PAGE.read_text(), re.MULTILINE)
    lines = re.findall(r"^\| \d+ \|.*$", PAGE.read_text(), re.MULTILINE)
    return {int(row): re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", line) for row, line in zip(rows, lines, strict=True)}


@pytest.mark.parametrize("failure", FAILURES)
def test_the_page_leads_to_tests_of_each_failure_for_mysql(failure: int) -> None:
    tests = told()[failure]
    for file, name in tests:
        assert re.search(rf"def {name}\(", (TESTS.parent / file).read_text()), f"{file} has no {name}"
        assert failure in failures_of(name)
    mysql = [file for file, _ in tests if "mysql" in file]
    assert mysql or failure in CORES, "proven for MySQL by itself"


def test_the_page_tells_of_every_failure() -> None:
    assert list(told()) == list(FAILURES)


def test_no_number_is_made_up(found: list[str]) -> None:
    told = {rule for name in found for rule in re.findall(r"^test_(3_\d+(?:_\d+)?)_", name)}
    assert {rule for rule in told if rule not in RULES} == set()
    assert {number for name in found for number in failures_of(name)} <= set(FAILURES)


def failures_of(name: str) -> set[int]:
    return {
        int(number) for run in re.findall(r"failure_(\d+(?:_and_\d+)*)", name) for number in re.findall(r"\d+", run)
    }
