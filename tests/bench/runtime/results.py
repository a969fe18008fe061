"""What was measured, by measure, contestant and round; ratios are taken within a round. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.bench.figures import Series, series

OURS, KOPF, CLIENT_GO, CLIENT_GO_APPLY = "yoban", "kopf", "client-go", "client-go apply"
ALONE = "no operator"  # the driver does the writes itself


@dataclass
class Results:
    """Values by (measure, contestant), each with its round; what could not be measured is missing and is in `failures`."""

    units: dict[str, str] = field(default_factory=dict)
    values: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def record(self, measure: str, unit: str, contestant: str, number: int, value: float) -> None:
        """Keep a value; ValueError for one of another unit."""
        if self.units.setdefault(measure, unit) != unit:
            raise ValueError(f"{measure} is measured in {self.units[measure]}, not in {unit}")
        self.values.setdefault((measure, contestant), {})[number] = value

    def of(self, measure: str, contestant: str) -> Series | None:
        """All rounds of it, None when there is none."""
        found = self.values.get((measure, contestant))
        return series(self.units[measure], [found[number] for number in sorted(found)]) if found else None

    def ratio(self, measure: str, above: str, below: str) -> Series | None:
        """One contestant's values by another's, for the rounds that both have."""
        ones, others = (self.values.get((measure, contestant), {}) for contestant in (above, below))
        rounds = sorted(number for number in ones if others.get(number))
        return series("x", [ones[number] / others[number] for number in rounds]) if rounds else None

    def measures(self) -> Iterator[tuple[str, dict[str, Series]]]:
        """Each measure with its series by contestant, in the order in which they came."""
        for measure in self.units:
            names = [contestant for name, contestant in self.values if name == measure]
            yield measure, {name: found for name in names if (found := self.of(measure, name)) is not None}

    def document(self) -> dict[str, object]:
        """As in the JSON file: every single value."""
        return {
            measure: {
                "unit": self.units[measure],
                **{
                    name: {"median": statistics.median(one.values), "rounds": list(one.values)}
                    for name, one in by_name.items()
                },
            }
            for measure, by_name in self.measures()
        }
