"""What a bench ends with: tables on the terminal, JSON, plots and, to be kept, a page in the documentation."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.figures import Series, short
from tests.bench.found import Found
from tests.bench.verdict import Goal, Row, markdown, rows, table

ROOT = Path(__file__).parents[2]
MANY = 50
"""Longer series are told by their percentiles."""


@dataclass(frozen=True)
class Subject:
    """What a bench measures, for its report.

    Attributes:
        command: the command that saves its results.
        title: of the page.
        entry: the line of the page in docs/index.md, "" when it has one already.
        folder: where saved results go, below docs/benchmarks; unsaved ones go to the same place below .cache/bench.
        goals: what is judged.
        pairs: measures that the plot shows with all contestants side by side.
        labels: how the contestants are called there, by the endings of their series, in order.
        latencies: titles of the series that are shown as a distribution, and not in the table.
    """

    command: str
    title: str
    entry: str
    folder: str
    goals: tuple[Goal, ...]
    pairs: tuple[str, ...]
    labels: Mapping[str, str]
    latencies: Mapping[str, str]


def report(found: Found, subject: Subject, sizes: Any, machine: dict[str, object], *, save: bool, quick: bool) -> None:
    """Print the tables; write JSON, plots and, when asked to save, the page with them.

    Args:
        found: what was measured.
        subject: what that is.
        sizes: a dataclass with the sizes of the run.
        machine: what it ran on.
        save: write to docs/benchmarks, else to .cache/bench.
        quick: it was a smoke run.
    """
    judged = rows(found.found, subject.goals)
    tables = _tables(found, subject, judged)
    print("\n" + "\n\n".join(tables))
    if quick:
        print("This was a smoke run: its figures mean nothing.")
    where = (ROOT / "docs/benchmarks" if save else ROOT / ".cache/bench") / subject.folder
    where.mkdir(parents=True, exist_ok=True)
    document = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "sizes": dataclasses.asdict(sizes),
        "facts": found.facts,
        "verdicts": {row.goal.measure: {"goal": str(row.goal), "verdict": row.verdict} for row in judged},
        "series": {name: _document(one) for name, one in found.found.items()},
    }
    (where / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    from tests.bench import plots

    files = plots.draw(where, judged, found.found, subject.pairs, subject.labels, subject.latencies)
    if save:
        page = where / "results.md"
        page.write_text(_page(subject, machine, tables, [file.name for file in files]))
        files.append(page)
        index = ROOT / "docs/index.md"
        index.write_text(listed(index.read_text(), subject))
    print("Written: " + ", ".join(os.path.relpath(file, ROOT) for file in [where / "results.json", *files]))


def listed(index: str, subject: Subject) -> str:
    """The documentation's index with the page in it, behind the last line about benchmarks; unchanged when it is there."""
    link = f"({_address(subject)})"
    if not subject.entry or link in index:
        return index
    lines = index.splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("- [Benchmark"))
    lines.insert(last + 1, subject.entry.format(link=link))
    return "\n".join(lines) + "\n"


def _address(subject: Subject) -> str:
    return (Path("benchmarks") / subject.folder / "results.md").as_posix()


def _tables(found: Found, subject: Subject, judged: list[Row]) -> list[str]:
    """Goals, all series, facts, and where it falls short."""
    shown = [(name, str(one)) for name, one in found.found.items() if name not in subject.latencies]
    shorts = [f"{row.goal.what}: {row.found}, goal {row.goal}" for row in judged if row.verdict.startswith("SHORT")]
    return [
        table(judged),
        f"Falls short: {'; '.join(shorts) or 'nowhere'}",
        markdown([("What", "Median (min-max)"), *shown]),
        markdown([("Fact", ""), *((name, _text(value)) for name, value in found.facts.items())]),
    ]


def _page(subject: Subject, machine: dict[str, object], tables: list[str], plots: list[str]) -> str:
    """The page results.md."""
    about = ", ".join(_about(name, value) for name, value in machine.items())
    method = "../" * (len(Path(_address(subject)).parents) - 1) + "benchmarks.md"
    lines = [
        f"# {subject.title}",
        "",
        f"Written by `{subject.command}` on {datetime.now(UTC):%Y-%m-%d}; [the method]({method}) says how each",
        "figure comes about, [results.json](results.json) has all of them.",
        "",
        f"The machine: {about}.",
        "",
        "\n\n".join(tables),
        "",
        *(f"![{Path(name).stem}]({name})\n" for name in plots),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _document(found: Series) -> dict[str, object]:
    document = found.document()
    if len(found.values) > MANY:
        shares = (0.5, 0.9, 0.95, 0.99, 1.0)
        document["values"] = {f"p{share * 100:g}": round(found.percentile(share), 4) for share in shares}
        document["count"] = len(found.values)
    return document


def _about(name: str, value: object) -> str:
    unit = " GB" if name.endswith("_gb") else ""
    return f"{name.removesuffix('_gb').replace('_', ' ')} {_text(value)}{unit}"


def _text(value: object) -> str:
    return short(value) if isinstance(value, float) else str(value)
