"""What all measures share: sizes, folder, both contestants, and where results go."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.figures import Series, paired, series
from tests.bench.ours import Ours
from tests.bench.peer import Peer


@dataclass(frozen=True)
class Sizes:
    """How much is measured: rounds, bytes of tables, segments of the log, commands timed, seconds of write load."""

    rounds: int
    data: int
    segments: int
    commands: int
    seconds: float


@dataclass
class Bench:
    """A run. `found` has the series by name, `facts` single numbers, `samples` what plots show besides."""

    sizes: Sizes
    folder: Path
    ours: Ours
    peer: Peer
    found: dict[str, Series] = field(default_factory=dict)
    facts: dict[str, object] = field(default_factory=dict)

    def record(self, name: str, unit: str, values: list[float]) -> Series:
        """Keep what was measured."""
        self.found[name] = series(unit, values)
        return self.found[name]

    def compare(self, name: str, above: str, below: str) -> Series:
        """Keep the paired ratio of two series."""
        self.found[name] = paired(self.found[above], self.found[below])
        return self.found[name]
