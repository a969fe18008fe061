"""Events of Databases.

Guarantees: never blocks; what is told once is not told again by this process while its Database exists, and a problem of an
instance once each time that it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from yoban.kube.objects import Obj, ObjectKey
from yoban.reconcilers.database.observed import Observed

RECORDED = {
    "ReplicaBroken": " cannot follow: ",
    "ArchiveFailing": ": ",
    "ServerProblem": ": ",
    "LogFilling": ": ",
    "LogNearlyFull": ": ",
}
"""What agents tell that is an event, too, each time that it begins: its reason, and what follows the instance's name."""

Tell = Callable[[Obj, str, str, bool], None]
"""(object, reason, note, warning): records an event; never blocks."""


class Events:
    """Records events of any Database.

    Args:
        tell: where they go; None keeps them to itself.
    """

    def __init__(self, tell: Tell | None) -> None:
        self._tell = tell
        self._told: dict[ObjectKey, set[str]] = {}

    def tell(self, obj: Obj, reason: str, note: str, *, warning: bool = False, once: bool = False) -> None:
        """Record one; `once` leaves it out when it was told before."""
        if once and not self._new(obj, f"{reason} {note}"):
            return
        if self._tell is not None:
            self._tell(obj, reason, note, warning)

    def problems(self, obj: Obj, observed: Observed, numbers: Iterable[int]) -> None:
        """Record what agents tell of their instances, once each time that it begins."""
        for number in numbers:
            agent = observed.agent(number)
            name = observed.names.instance(number)
            for problem in agent.problems if agent is not None else ():
                if problem.reason in RECORDED and self._new(obj, f"{problem.reason} {name} {problem.since}"):
                    text = "; ".join(part for part in (problem.message, problem.fix) if part)
                    self.tell(obj, problem.reason, f"{name}{RECORDED[problem.reason]}{text}", warning=True)

    def forget(self, key: ObjectKey) -> None:
        """The Database is gone; nothing breaks when this is not called."""
        self._told.pop(key, None)

    def _new(self, obj: Obj, mark: str) -> bool:
        told = self._told.setdefault(ObjectKey(obj["metadata"]["namespace"], obj["metadata"]["name"]), set())
        if mark in told:
            return False
        told.add(mark)
        return True
