"""Prints what a test run came to: tests by kind, coverage by package, each failed test with why, and the closing count.

Reads pytest's JUnit files and coverage's data. The exit code is 1 when the coverage is below the minimum.
"""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from pathlib import Path

MINIMUM = 90.0  # branch coverage in percent, of core and plugins together
WHY = 10  # lines of a failure's own words, at most
KINDS = ("unit", "contract", "simulation", "integration", "e2e", "chaos")


def kind_of(classname: str) -> str:
    """The kind of a test, from its dotted module name `tests.<kind>.…`."""
    parts = classname.split(".")
    return next((part for part in parts[1:2] if part in KINDS), "other")


def outcome_of(case: ElementTree.Element) -> str:
    """`passed`, `failed` or `skipped`; an error in a fixture is a failure."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


def tests(*reports: Path) -> Counter[str]:
    """Print the table of tests by kind; return the counts of all."""
    by_kind: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: Counter[str] = Counter()
    for case in (case for report in reports for case in ElementTree.parse(report).iter("testcase")):
        kind = kind_of(case.get("classname", ""))
        by_kind[kind][outcome_of(case)] += 1
        seconds[kind] += float(case.get("time", 0))  # type: ignore[assignment]
    print(f"\n{'tests':<14}{'passed':>8}{'failed':>8}{'skipped':>8}{'seconds':>10}")
    total: Counter[str] = Counter()
    for kind in (*KINDS, "other"):
        if kind in by_kind:
            counts = by_kind[kind]
            total += counts
            row = "".join(f"{counts[name]:>8}" for name in ("passed", "failed", "skipped"))
            print(f"{kind:<14}{row}{seconds[kind]:>10.1f}")
    return total


def failures(*reports: Path) -> list[str]:
    """Name every failed test with the last words of its traceback that say why, for whoever sees only the end of a log."""
    lines = []
    for case in (case for report in reports for case in ElementTree.parse(report).iter("testcase")):
        for problem in (*case.iter("failure"), *case.iter("error")):
            lines.append(f"failed: {case.get('classname', '')}::{case.get('name', '')}")
            words = [line for line in (problem.text or "").splitlines() if line.startswith("E ")]
            words = words or (problem.get("message") or "").splitlines()
            lines += [f"    {line[:200]}" for line in words[-WHY:]]
    return lines


def coverage() -> float:
    """Print branch coverage by package; return it for all together, in percent."""
    report = Path(".cache/coverage.json")
    command = [sys.executable, "-m", "coverage"]
    subprocess.run([*command, "combine", "--quiet"], check=False)
    subprocess.run([*command, "json", "--quiet", "-o", str(report)], check=True)
    data = json.loads(report.read_text())
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for name, file in data["files"].items():
        parts = Path(name).with_suffix("").parts
        start = next((i for i, part in enumerate(parts) if part.startswith("yoban")), 0)
        package = ".".join(parts[start : start + 2] if parts[start] == "yoban" else parts[start : start + 1])
        for key in ("covered_lines", "num_statements", "covered_branches", "num_branches"):
            sums[package][key] += file["summary"].get(key, 0)
    print(f"\n{'coverage':<28}{'lines':>8}{'branches':>10}{'together':>10}")
    for package, counts in sorted(sums.items()):
        print(f"{package:<28}{_percents(counts)}")
    total: Counter[str] = sum(sums.values(), Counter())
    print(f"{'all':<28}{_percents(total)}")
    return _percent(total["covered_lines"] + total["covered_branches"], total["num_statements"] + total["num_branches"])


def _percents(counts: Counter[str]) -> str:
    lines = _percent(counts["covered_lines"], counts["num_statements"])
    branches = _percent(counts["covered_branches"], counts["num_branches"])
    together = _percent(
        counts["covered_lines"] + counts["covered_branches"], counts["num_statements"] + counts["num_branches"]
    )
    return f"{lines:>7.1f}%{branches:>9.1f}%{together:>9.1f}%"


def _percent(part: float, whole: float) -> float:
    return 100.0 * part / whole if whole else 100.0


def main() -> int:
    """Print everything; the last line is the count."""
    total = tests(*map(Path, sys.argv[1:]))
    covered = coverage()
    enough = covered >= MINIMUM
    if not enough:
        print(f"\ncoverage {covered:.1f} % is below {MINIMUM:.0f} %")
    if failed := failures(*map(Path, sys.argv[1:])):
        print("", *failed, sep="\n")
    skipped = f", {total['skipped']} skipped" if total["skipped"] else ""
    print(f"\n{total['passed']} passed, {total['failed']} failed{skipped}")
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
