"""Where results go: series by name, single numbers beside them."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.bench.figures import Series, paired, series


@dataclass
class Found:
    """What a run has found. `found` has the series by name, `facts` single numbers and words."""

    found: dict[str, Series] = field(default_factory=dict, kw_only=True)
    facts: dict[str, object] = field(default_factory=dict, kw_only=True)

    def record(self, name: str, unit: str, values: list[float]) -> Series:
        """Keep what was measured."""
        self.found[name] = series(unit, values)
        return self.found[name]

    def compare(self, name: str, above: str, below: str) -> Series:
        """Keep the paired ratio of two series."""
        self.found[name] = paired(self.found[above], self.found[below])
        return self.found[name]
