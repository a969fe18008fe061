"""Figures of repeated measurements: medians, spread, percentiles, paired ratios. Pure.

Does not judge: that is `tests.bench.verdict`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Series:
    """The same thing measured again and again, in order of rounds; `unit` of each value."""

    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The value in the middle."""
        return statistics.median(self.values)

    def percentile(self, share: float) -> float:
        """The smallest value that at least this share (0 to 1) of all values do not exceed."""
        ordered = sorted(self.values)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    def document(self) -> dict[str, object]:
        """As in the JSON file."""
        return {"unit": self.unit, "median": self.median, "values": list(self.values)}

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        return f"{short(self.median)} {self.unit} ({short(low)}-{short(high)})"


def series(unit: str, values: Sequence[float]) -> Series:
    """Make a series. Raises ValueError when nothing was measured."""
    if not values:
        raise ValueError("nothing was measured")
    return Series(unit, tuple(values))


def paired(above: Series, below: Series) -> Series:
    """The ratio of each round; rounds are compared with each other, so that a slow minute of the machine hits both."""
    pairs = zip(above.values, below.values, strict=True)
    return Series("x", tuple(one / other for one, other in pairs))


def short(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"
