"""Verdicts on Databases, as the BackupPolicy controller gave them last. In memory: they are made anew at each start."""

from __future__ import annotations

from yoban.domain.compliance import Verdict
from yoban.kube.objects import ObjectKey
from yoban.reconcilers.observers import Listener, Listeners


class Verdicts:
    """By Database."""

    def __init__(self) -> None:
        self._all: dict[ObjectKey, Verdict] = {}
        self._listeners = Listeners()

    def subscribe(self, listener: Listener) -> None:
        """Have `listener` called with a Database's key when the verdict on it is another."""
        self._listeners.add(listener)

    def get(self, key: ObjectKey) -> Verdict | None:
        """Return the verdict on a Database; None when no policy applies to it, or none was given yet."""
        return self._all.get(key)

    def set(self, key: ObjectKey, verdict: Verdict) -> None:
        """Give a verdict."""
        before = self._all.get(key)
        self._all[key] = verdict
        if before is None or (before.satisfied, before.reason) != (verdict.satisfied, verdict.reason):
            self._listeners.tell(key)

    def forget(self, key: ObjectKey) -> None:
        """No policy applies to the Database any more."""
        if self._all.pop(key, None) is not None:
            self._listeners.tell(key)
