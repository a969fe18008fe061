"""Goals and whether they are met: the table that the bench ends with. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.figures import Series, short


@dataclass(frozen=True)
class Goal:
    """What a measure is to reach: `at_least` (else at most) `limit` of `unit`."""

    measure: str
    what: str
    limit: float
    unit: str
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Whether a value reaches it."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {short(self.limit)}{_space(self.unit)}"


GOALS = (
    Goal("archive.ratio", "archive throughput, ours to pgBackRest's", 1.5, "x", at_least=True),
    Goal("hit.p99", "archive command on a look-ahead hit, p99", 5.0, "ms"),
    Goal("replay.ratio", "replay with prefetch, ours to the hard-link floor", 1.2, "x"),
    Goal("backup.ratio", "full backup speed, ours to pgBackRest's", 1.5, "x", at_least=True),
    Goal("restore.ratio", "restore speed, ours to pgBackRest's", 1.0, "x", at_least=True),
    Goal("rpo.p99", "RPO under write load, p99", 5.0, "s"),
    Goal("memory.agent", "agent and supervisor, idle", 90.0, "MB"),
    Goal("memory.operator", "operator, no Database", 60.0, "MB"),
    Goal("memory.operator10", "operator, ten Databases", 80.0, "MB"),
)


@dataclass(frozen=True)
class Row:
    """A goal and what was measured; None when this run left it out."""

    goal: Goal
    found: Series | None

    @property
    def verdict(self) -> str:
        """`met`, `SHORT` with how far, or `not run`."""
        if self.found is None:
            return "not run"
        value = self.found.median
        if self.goal.met(value):
            return "met"
        if not self.goal.limit:
            return f"SHORT by {short(value)}{_space(self.goal.unit)}"
        gap = (self.goal.limit / value if self.goal.at_least else value / self.goal.limit) - 1
        return f"SHORT by {gap:.0%}"


def rows(found: Mapping[str, Series], goals: Sequence[Goal] = GOALS) -> list[Row]:
    """Pair goals with what was measured."""
    return [Row(goal, found.get(goal.measure)) for goal in goals]


def table(judged: Sequence[Row]) -> str:
    """The table as Markdown, columns aligned for a terminal too."""
    lines = [("Measure", "Goal", "Median (min-max)", "Verdict")]
    lines += [(row.goal.what, str(row.goal), str(row.found or "—"), row.verdict) for row in judged]
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of the lines; the first is the head."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def text(line: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([text(lines[0]), rule, *(text(line) for line in lines[1:])])


def _space(unit: str) -> str:
    return unit if unit == "x" else f" {unit}"
