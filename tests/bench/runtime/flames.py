"""Flame graphs of collapsed stacks: what a sampling profiler wrote becomes a picture and a table. Pure.

Guarantees: the same stacks give the same bytes; no path of the machine is shown, only packages and modules below them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from tests.bench.verdict import markdown

WIDTH, ROW, MARGIN = 1200.0, 17, 10
LEAST = 0.0015  # share below which a frame is not drawn
CHARACTER = 6.4  # pixels of one at the size of the text
COLOURS = {"yoban/kube": "#7fb3d5", "yoban/runtime": "#a9cce3", "yoban": "#d4e6f1", "asyncio": "#f5cba7", "": "#e5e7e9"}
WAITING = re.compile(r"\bselect \(selectors\.py")
Stack = tuple[str, ...]


@dataclass
class Frame:
    """A function below its callers, and how many samples saw it there."""

    name: str
    samples: int = 0
    below: dict[str, Frame] = field(default_factory=dict)


def parse(text: str) -> Counter[Stack]:
    """Stacks, outermost first, of lines `outer (file);inner (file) 12`. ValueError for a line that is none."""
    found: Counter[Stack] = Counter()
    for line in filter(str.strip, text.splitlines()):
        stack, _, count = line.rpartition(" ")
        found[tuple(relative(frame) for frame in stack.split(";"))] += int(count)
    return found


def working(stacks: Counter[Stack]) -> Counter[Stack]:
    """Without those that only wait for something to happen."""
    return Counter({stack: count for stack, count in stacks.items() if not WAITING.search(stack[-1])})


def relative(frame: str) -> str:
    """`name (module path)` without what is before the package: folders of this machine say nothing."""
    name, opening, place = frame.partition(" (")
    place = place.removesuffix(")")
    for folder in ("site-packages/", "dist-packages/", "lib-dynload/", "core/", "tests/bench/runtime/"):
        place = place.rpartition(folder)[2]
    if place.startswith("/"):  # the standard library: `asyncio/base_events.py`, `ssl.py`
        parts = place.split("/")
        at = next((n + 1 for n, part in enumerate(parts) if part.startswith("python3")), len(parts) - 1)
        place = "/".join(parts[at:])
    return f"{name} ({place})" if opening else name


def tree(stacks: Counter[Stack]) -> Frame:
    """All stacks as one tree."""
    root = Frame("all")
    for stack, count in stacks.items():
        root.samples += count
        frame = root
        for name in stack:
            frame = frame.below.setdefault(name, Frame(name))
            frame.samples += count
    return root


def draw(stacks: Counter[Stack], title: str) -> str:
    """An SVG: callers below, callees above, as wide as their share of the samples. ValueError without a sample."""
    root = tree(stacks)
    if not root.samples:
        raise ValueError("nothing was sampled")
    boxes = list(_boxes(root, 0.0, 0, root.samples))
    deepest = max(depth for _, _, depth, _ in boxes)
    height = (deepest + 1) * ROW + 3 * MARGIN + ROW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 2 * MARGIN:.0f} {height}" '
        'font-family="monospace" font-size="11">',
        f'<rect width="100%" height="100%" fill="white"/><text x="{MARGIN}" y="{MARGIN + 11}">'
        f"{escape(title)}: {root.samples} samples</text>",
    ]
    for frame, left, depth, width in boxes:
        x, y = MARGIN + left * WIDTH, height - MARGIN - (depth + 1) * ROW
        pixels = width * WIDTH
        told = f"{frame.name}: {frame.samples / root.samples:.1%}"
        shown = frame.name[: max(0, int((pixels - 4) / CHARACTER))]
        text = f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(shown)}</text>' if len(shown) > 2 else ""
        lines.append(
            f'<g><title>{escape(told)}</title><rect x="{x:.1f}" y="{y}" width="{pixels:.1f}" height="{ROW - 1}" '
            f'fill="{colour(frame.name)}"/>{text}</g>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _boxes(frame: Frame, left: float, depth: int, whole: int) -> Iterator[tuple[Frame, float, int, float]]:
    share = frame.samples / whole
    if share < LEAST:
        return
    yield frame, left, depth, share
    for name in sorted(frame.below):
        yield from _boxes(frame.below[name], left, depth + 1, whole)
        left += frame.below[name].samples / whole


def colour(name: str) -> str:
    """Of a frame, by the package that it belongs to."""
    place = name.rpartition(" (")[2]
    return next(shade for package, shade in COLOURS.items() if place.startswith(package))


def own_time(stacks: Counter[Stack], most: int = 25) -> str:
    """A Markdown table of the functions that used most themselves, what they called not counted."""
    counts: Counter[str] = Counter()
    for stack, count in stacks.items():
        counts[stack[-1]] += count
    return _table(counts, sum(stacks.values()), "Function, without what it calls", most)


def within(stacks: Counter[Stack], most: int = 25) -> str:
    """A Markdown table of the project's own functions, with all that they call."""
    counts: Counter[str] = Counter()
    for stack, count in stacks.items():
        counts.update(dict.fromkeys((name for name in stack if "(yoban/" in name), count))
    return _table(counts, sum(stacks.values()), "Function, with what it calls", most)


def _table(counts: Counter[str], whole: int, head: str, most: int) -> str:
    rows: Sequence[tuple[str, int]] = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:most]
    cells: Iterable[tuple[str, str]] = [(name, f"{count / whole:.1%}") for name, count in rows]
    return markdown([(head, "Share"), *cells])
