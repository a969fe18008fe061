"""A trace as a waterfall for a terminal: a line a span, children below their parent, bars to scale.

Pure. Guarantees a line of at most `width` characters a span; spans whose parent is not among those given are roots; many
alike siblings are summed up so that a backup of a thousand parts still fits a screen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from yoban.telemetry.spans import SpanRecord

ALIKE = 8
"""More siblings of one name than this are shown as one line."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a waterfall: depth, text, begin and end in nanoseconds, count of spans, whether any failed."""

    depth: int
    name: str
    service: str
    start: int
    end: int
    busy: int
    count: int
    error: str


def lines(spans: Iterable[SpanRecord]) -> list[Line]:
    """Order spans as a tree, by start; alike siblings beyond `ALIKE` become one line whose `busy` is their sum."""
    by_id = {span.span: span for span in spans}
    children: dict[str, list[SpanRecord]] = defaultdict(list)
    for span in sorted(by_id.values(), key=lambda one: (one.start, one.span)):
        children[span.parent if span.parent in by_id else ""].append(span)
    found: list[Line] = []
    _walk(children, children[""], 0, found)
    return found


def _walk(children: dict[str, list[SpanRecord]], siblings: Sequence[SpanRecord], depth: int, found: list[Line]) -> None:
    alike: dict[tuple[str, str], list[SpanRecord]] = defaultdict(list)
    for span in siblings:
        alike[span.service, span.name].append(span)
    for span in siblings:
        group = alike.get((span.service, span.name), [])
        if len(group) <= ALIKE:
            found.append(_line(depth, [span]))
            _walk(children, children.get(span.span, []), depth + 1, found)
        elif group[0] is span:
            found.append(_line(depth, group))
            below = sorted(
                (one for member in group for one in children.get(member.span, [])), key=lambda one: one.start
            )
            _walk(children, below, depth + 1, found)


def _line(depth: int, group: Sequence[SpanRecord]) -> Line:
    return Line(
        depth,
        group[0].name,
        group[0].service,
        min(span.start for span in group),
        max(span.end for span in group),
        sum(span.end - span.start for span in group),
        len(group),
        next((span.error for span in group if span.error), ""),
    )


def render(spans: Iterable[SpanRecord], width: int = 100) -> str:
    """Return the waterfall, with a scale below it; "" when there is no span."""
    found = lines(spans)
    if not found:
        return ""
    begin = min(line.start for line in found)
    whole = max(max(line.end for line in found) - begin, 1)
    labels = [("  " * line.depth + line.name + (f" x{line.count}" if line.count > 1 else "")) for line in found]
    left = min(max(map(len, labels)), max(width // 3, 16))
    where = min(max(len(line.service) for line in found), 24, width // 4)
    room = max(width - left - where - 12, 10)
    out = []
    for line, label in zip(found, labels, strict=True):
        first = min(int((line.start - begin) * room / whole), room - 1)
        last = max(min(-int(-(line.end - begin) * room // whole), room), first + 1)
        share = line.busy / max(line.end - line.start, 1)
        mark = "!" if line.error else ("▒" if line.count > 1 and share < 0.5 else "█")
        bar = (" " * first + mark * (last - first)).ljust(room)
        row = f"{_cut(label, left):<{left}} {_cut(line.service, where):<{where}} {bar} {duration(line.end - line.start):>8}"
        out.append(row.rstrip())
        if line.error:
            out.append(_cut(f"{'  ' * line.depth}  ! {line.error}", width))
    total = duration(whole)
    out.append(f"{'':<{left}} {'':<{where}} 0{total:>{room - 1}}")
    return "\n".join(out)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def duration(nanoseconds: float) -> str:
    """Return a duration for people: `840 µs`, `12 ms`, `3.4 s`, `2m05s`."""
    seconds = nanoseconds / 1e9
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)}m{int(seconds % 60):02d}s"
