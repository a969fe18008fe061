"""Plots of a run as SVG: goals at a glance, contestants side by side, and how latencies are spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from tests.bench.figures import Series
from tests.bench.verdict import Row

OURS, THEIRS, FLOOR, SHORT = "#1f77b4", "#b0b0b0", "#6a9f58", "#d1495b"
_COLOURS = {"floor": FLOOR, "ours": OURS}
mpl.rcParams |= {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "bench"}


def draw(
    folder: Path,
    judged: list[Row],
    found: Mapping[str, Series],
    pairs: Sequence[str],
    labels: Mapping[str, str],
    latencies: Mapping[str, str],
) -> list[Path]:
    """Draw what was measured and return the files.

    Args:
        folder: where they go.
        judged: goals and what was reached.
        found: all series.
        pairs: measures to be shown with all contestants.
        labels: names of the contestants, by the endings of their series.
        latencies: titles of the series that are shown as a distribution.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [goals(folder / "goals.svg", judged)]
    pairs = [name for name in pairs if f"{name}.ours" in found]
    if pairs:
        files.append(_contestants(folder / "contestants.svg", pairs, labels, found))
    spread = {name: title for name, title in latencies.items() if name in found}
    if spread:
        files.append(_spread(folder / "latencies.svg", spread, found))
    return files


def goals(file: Path, judged: list[Row]) -> Path:
    """How far each measure is from its goal: 1 is the goal, further right is better. Goals of nothing are left out."""
    rows = [row for row in judged if row.found is not None and row.goal.limit and min(row.found.values) > 0]
    figure, axes = plt.subplots(figsize=(6.4, 0.9 + 0.32 * len(rows)))
    for place, row in enumerate(reversed(rows)):
        assert row.found is not None
        values = [value / row.goal.limit if row.goal.at_least else row.goal.limit / value for value in row.found.values]
        middle = row.found.median / row.goal.limit if row.goal.at_least else row.goal.limit / row.found.median
        axes.barh(place, middle, color=OURS if row.goal.met(row.found.median) else SHORT, height=0.6)
        axes.plot([min(values), max(values)], [place, place], color="black", linewidth=1)
    axes.axvline(1, color="black", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(rows)), [f"{row.goal.what} ({row.goal})" for row in reversed(rows)])
    axes.set_xlabel("how well the goal is met (1 = just met, more is better)")
    return save(figure, file)


def _contestants(file: Path, pairs: Sequence[str], labels: Mapping[str, str], found: Mapping[str, Series]) -> Path:
    figure, all_axes = plt.subplots(1, len(pairs), figsize=(1.7 * len(pairs), 2.4), squeeze=False)
    for axes, name in zip(all_axes[0], pairs, strict=True):
        shown = [part for part in labels if f"{name}.{part}" in found]
        for place, part in enumerate(shown):
            one = found[f"{name}.{part}"]
            axes.bar(place, one.median, color=_COLOURS.get(part, THEIRS), width=0.65)
            axes.plot([place] * len(one.values), one.values, "k.", markersize=3)
        axes.set_xticks(range(len(shown)), [labels[part] for part in shown], rotation=30, ha="right")
        axes.set_title(f"{name}, {found[f'{name}.ours'].unit}")
        axes.set_ylim(bottom=0)
    return save(figure, file)


def _spread(file: Path, titles: Mapping[str, str], found: Mapping[str, Series]) -> Path:
    figure, all_axes = plt.subplots(1, len(titles), figsize=(3.2 * len(titles), 2.2), squeeze=False)
    for axes, (name, title) in zip(all_axes[0], titles.items(), strict=True):
        ordered = sorted(found[name].values)
        axes.plot(ordered, [(place + 1) / len(ordered) * 100 for place in range(len(ordered))], color=OURS)
        axes.axhline(99, color="black", linestyle=":", linewidth=1)
        axes.set_xlim(left=0)
        axes.set_xlabel(found[name].unit)
        axes.set_ylabel("% within")
        axes.set_title(title)
    return save(figure, file)


def save(figure: Figure, file: Path) -> Path:
    """Write a figure, the same bytes for the same figures."""
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
    return file
