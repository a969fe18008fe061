"""What the runtime is to reach beside kopf and client-go, and which measures say so. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.figures import Series
from tests.bench.runtime.results import CLIENT_GO, CLIENT_GO_APPLY, KOPF, OURS, Results
from tests.bench.verdict import Goal, Row


def judge(results: Results, sizes: Sequence[int]) -> list[Row]:
    """All goals, each with what was measured (None when this run left it out)."""
    rows: list[Row] = []

    def row(measure: str, what: str, limit: float, unit: str, found: Series | None, *, at_least: bool = False) -> None:
        rows.append(Row(Goal(measure, what, limit, unit, at_least), found))

    for n in sizes:
        measure = f"create.{n}.seconds"
        found = results.ratio(measure, KOPF, OURS)
        row(f"create.{n}.kopf", f"time to {n} Ready, kopf's to ours", 4.0, "x", found, at_least=True)
        found = results.ratio(measure, CLIENT_GO, OURS)
        row(f"create.{n}.clientgo", f"time to {n} Ready, client-go's to ours", 0.9, "x", found, at_least=True)
        found = results.ratio(measure, CLIENT_GO_APPLY, OURS)
        if found is not None:
            what = f"time to {n} Ready, client-go's with the same requests to ours"
            row(f"create.{n}.apply", what, 0.9, "x", found, at_least=True)
    found = results.ratio("steady.p99", OURS, CLIENT_GO)
    row("steady.p99.clientgo", "change to status seen, p99, ours to client-go's", 1.3, "x", found)
    found = results.ratio("steady.p99", OURS, CLIENT_GO_APPLY)
    if found is not None:
        row(
            "steady.p99.apply",
            "change to status seen, p99, ours to client-go's with the same requests",
            1.3,
            "x",
            found,
        )
    for n in sizes:
        found = results.ratio(f"create.{n}.cpu", OURS, CLIENT_GO)
        row(f"create.{n}.cpu.clientgo", f"CPU a reconcile at {n}, ours to client-go's", 2.0, "x", found)
    for n in sizes:
        row(f"create.{n}.writes", f"writes to make one of {n}", 2.0, "writes", results.of(f"create.{n}.writes", OURS))
    row("noop.writes", "writes of a pass with nothing to do", 0.0, "writes", results.of("noop.writes", OURS))
    for n in sizes:
        found = results.of(f"restart.{n}.surplus", OURS)
        if found is not None:
            row(f"restart.{n}.surplus", f"needless writes after a restart with {n}", 0.0, "writes", found)
    row("hot.overlaps", "one object worked on twice at once", 0.0, "times", results.of("hot.overlaps", OURS))
    row("cache.slope", "memory of a cached object, with a transform", 4.0, "KiB", results.of("cache.slope", OURS))
    row("memory.base", "memory with nothing to do", 60.0, "MB", results.of("memory.base", OURS))
    row("start.synced", "start to a synced empty cache", 0.4, "s", results.of("start.synced", OURS))
    return rows
