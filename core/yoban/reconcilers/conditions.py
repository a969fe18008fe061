"""From what was decided to say, to the conditions of a status."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from yoban.domain.summary import Observation
from yoban.kube import conditions
from yoban.kube.objects import Obj, conditions_of, generation_of


def condition(observation: Observation) -> conditions.Condition:
    """Return an observation as a condition."""
    return conditions.Condition(
        observation.type, conditions.Status(observation.truth.value), observation.reason, observation.message
    )


def conditions_for(
    obj: Obj, observations: Iterable[Observation], known: tuple[str, ...], now: datetime
) -> list[dict[str, Any]]:
    """Return the conditions to write for `obj`: what is observed over what stood there, unknown ones as Unknown."""
    observed = [condition(item) for item in observations]
    return conditions.merge(conditions_of(obj), observed, known=known, generation=generation_of(obj), now=now)
