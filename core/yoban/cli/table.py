"""Tables for a terminal: columns as wide as their widest cell, two blanks between."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def render(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return the table; an empty cell is shown as `-`. No line ends in blanks."""
    cells = [[str(cell) if cell not in (None, "") else "-" for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
