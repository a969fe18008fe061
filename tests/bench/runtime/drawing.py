"""Plots of a run: time to Ready, processor time, memory, latencies and recovery, the contestants side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from tests.bench.plots import FLOOR, OURS, SHORT, THEIRS, goals, plt, save
from tests.bench.runtime import results as names
from tests.bench.runtime.results import Results
from tests.bench.verdict import Row

COLOURS = {
    names.OURS: OURS,
    names.KOPF: THEIRS,
    names.CLIENT_GO: FLOOR,
    names.CLIENT_GO_APPLY: SHORT,
    names.ALONE: "#e0e0e0",
}


def draw(
    folder: Path, judged: list[Row], results: Results, sizes: Sequence[int], latencies: Mapping[str, list[float]]
) -> list[Path]:
    """Draw what was measured and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [goals(folder / "goals.svg", judged)]
    panels = [(f"create.{n}.seconds", f"{n} created to all Ready") for n in sizes]
    files += _bars(folder / "ready.svg", results, panels)
    panels = [(f"create.{n}.cpu", f"CPU a reconcile, {n}") for n in sizes]
    panels += [(f"create.{n}.servers", f"the servers' CPU for it, {n}") for n in sizes[-1:]]
    files += _bars(folder / "cpu.svg", results, panels)
    panels = [("memory.base", "nothing to do"), ("cache.slope", "a cached object")]
    panels += [(f"restart.{n}.peak", f"peak of a start with {n}") for n in sizes[-1:]]
    files += _bars(folder / "memory.svg", results, panels)
    panels = [(f"fault.{name}.seconds", name) for name in ("expired", "refused", "failing", "outage")]
    files += _bars(folder / "faults.svg", results, panels)
    if latencies:
        files.append(_latencies(folder / "latencies.svg", latencies))
    return files


def _bars(file: Path, results: Results, panels: list[tuple[str, str]]) -> list[Path]:
    found = dict(results.measures())
    panels = [(measure, title) for measure, title in panels if measure in found]
    if not panels:
        return []
    figure, all_axes = plt.subplots(1, len(panels), figsize=(2.1 * len(panels), 2.6), squeeze=False)
    for axes, (measure, title) in zip(all_axes[0], panels, strict=True):
        _bar(axes, found[measure], f"{title}, {results.units[measure]}")
    return [save(figure, file)]


def _bar(axes: Axes, by_name: Mapping[str, names.Series], title: str) -> None:
    for place, (name, one) in enumerate(by_name.items()):
        axes.bar(place, one.median, color=COLOURS[name], width=0.65)
        axes.plot([place] * len(one.values), one.values, "k.", markersize=3)
    axes.set_xticks(range(len(by_name)), list(by_name), rotation=30)
    axes.set_title(title, fontsize=7)
    axes.set_ylim(bottom=0)


def _latencies(file: Path, latencies: Mapping[str, list[float]]) -> Path:
    figure, axes = plt.subplots(figsize=(4.6, 2.6))
    for name, values in latencies.items():
        ordered = sorted(values)
        shares = [(place + 1) / len(ordered) * 100 for place in range(len(ordered))]
        axes.plot(ordered, shares, color=COLOURS[name], label=name)
    axes.axhline(99, color="black", linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("ms from a change to its status seen")
    axes.set_ylabel("% within")
    axes.legend(frameon=False)
    return save(figure, file)
