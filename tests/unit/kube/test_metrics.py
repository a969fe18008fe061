"""Counters and gauges: exported from the start, read from living objects only."""

from __future__ import annotations

import gc
from typing import Any

from yoban.kube.metrics import Gauges, Tally

OPTIONS: Any = None


def test_a_tally_exports_what_was_initialised_and_counts() -> None:
    tally = Tally("yoban.test.tally", "A test's", ("kind", "outcome"))
    tally.init("a", "good")
    tally.init("a", "good")
    tally.add("a", "bad")
    tally.add("a", "bad", by=2)
    seen = {tuple((o.attributes or {}).values()): o.value for o in tally._observe(OPTIONS)}
    assert seen == {("a", "good"): 0, ("a", "bad"): 3}
    assert tally.value("a", "bad") == 3
    assert tally.value("nobody", "x") == 0


class Thing:
    def __init__(self, name: str) -> None:
        self.name = name


def test_gauges_observe_living_objects_only() -> None:
    gauges: Gauges[Thing] = Gauges(lambda t: {"name": t.name}, [("yoban.test.gauge", "A test's", "1", lambda t: 7.0)])
    first, second = Thing("first"), Thing("second")
    gauges.track(first)
    gauges.track(second)
    observe = gauges._callback(lambda t: float(len(t.name)))
    assert [(o.attributes, o.value) for o in observe(OPTIONS)] == [({"name": "first"}, 5.0), ({"name": "second"}, 6.0)]
    del first
    gc.collect()
    assert [o.value for o in observe(OPTIONS)] == [6.0]
    gauges.track(Thing("third"))
    assert len(gauges._objects) == 2, "what died is forgotten"
