"""Counters that cost an integer addition, exported through the OpenTelemetry API when somebody reads them.

Guarantees: a label set that was initialised is exported as 0 before its first event, so that rates and alerts work from
the start. Reading from a metric reader's thread is safe. Does not export anything itself: that is the SDK's.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

meter = metrics.get_meter("yoban.kube")

T = TypeVar("T")


class Tally:
    """A counter with labels, for the whole process.

    Args:
        name: metric name, dotted.
        description: one line.
        labels: names of the labels, in the order in which values are given.
    """

    def __init__(self, name: str, description: str, labels: tuple[str, ...], *, unit: str = "1") -> None:
        self._labels = labels
        self._counts: dict[tuple[str, ...], float] = {}
        meter.create_observable_counter(name, [self._observe], unit=unit, description=description)

    def init(self, *values: str) -> None:
        """Export this label set from now on; nothing when it is exported already."""
        self._counts.setdefault(values, 0)

    def add(self, *values: str, by: float = 1) -> None:
        """Count `by` for this label set."""
        self._counts[values] = self._counts.get(values, 0) + by

    def value(self, *values: str) -> float:
        """What was counted so far for this label set."""
        return self._counts.get(values, 0)

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        for values, count in list(self._counts.items()):
            yield Observation(count, dict(zip(self._labels, values, strict=True)))


class Gauges(Generic[T]):
    """Gauges read from living objects: each object that is `track`ed gives one observation for each gauge.

    Args:
        labels: the label set of an object.
        gauges: (name, description, unit, value of an object).
    """

    def __init__(
        self,
        labels: Callable[[T], dict[str, str]],
        gauges: Iterable[tuple[str, str, str, Callable[[T], float]]],
    ) -> None:
        self._labels = labels
        self._objects: list[weakref.ref[T]] = []
        for name, description, unit, value in gauges:
            meter.create_observable_gauge(name, [self._callback(value)], unit=unit, description=description)

    def track(self, obj: T) -> None:
        """Observe `obj` as long as it lives."""
        self._objects = [known for known in self._objects if known() is not None]
        self._objects.append(weakref.ref(obj))

    def _callback(self, value: Callable[[T], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for known in list(self._objects):
                obj = known()
                if obj is not None:
                    yield Observation(value(obj), self._labels(obj))

        return observe
