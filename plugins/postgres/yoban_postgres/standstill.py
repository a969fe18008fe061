"""Tells that replay stands still: the server tries to read on at one place again and again, and cannot.

Guarantees: a server that replays, or waits for a file that is being fetched, never counts, however long that takes; what
the server complains of need not be understood. Time is the caller's clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

AFTER = 30.0
"""Seconds of trying at one place. A try takes the pause between two of them (200 ms) and the fetching of a segment."""
_MOST = 1 << 20
_FETCHED = re.compile(rb'(?:restored log|archive) file "([0-9A-F]{24})"')
"""Taken from the archive, or refused for its size."""


@dataclass(slots=True)
class _Stand:
    """A place, how far the log is read, what was fetched there, and since when the server is known to try again."""

    replayed: int
    offset: int
    files: set[bytes] = field(default_factory=set)
    since: float | None = None


class Standstill:
    """Remembers for each recovery, by its log, where it stands."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stands: dict[Path, _Stand] = {}

    def forget(self, log: Path) -> None:
        """The recovery begins anew."""
        self._stands.pop(log, None)

    def lasts(self, log: Path, replayed: int, *, retrying: bool) -> bool:
        """Take note of an observation; tell whether the server has tried at this place for long. Blocking, short.

        Args:
            log: the server's log of this recovery.
            replayed: how far it is, 0 while it does not say.
            retrying: whether it rests between two tries just now; it does not when a try takes longer than the pause.
        """
        size = log.stat().st_size if log.exists() else 0
        stand = self._stands.get(log)
        if stand is None or stand.replayed != replayed or size < stand.offset:
            stand = self._stands[log] = _Stand(replayed, size)
        again = retrying
        for name in _fetched(log, stand):
            if name in stand.files:
                again = True
            else:
                # Something new: it gets on, though it may take many segments to the end of one record.
                stand.files.add(name)
                stand.since, again = None, retrying
        if not again:
            return False
        if stand.since is None:
            stand.since = self._clock()
        return self._clock() - stand.since >= AFTER


def _fetched(log: Path, stand: _Stand) -> list[bytes]:
    """Return the segments that the server fetched since the last look, in order."""
    try:
        with log.open("rb") as file:
            file.seek(stand.offset)
            text = file.read(_MOST)
    except FileNotFoundError:
        return []
    text = text[: text.rfind(b"\n") + 1]
    stand.offset += len(text)
    return _FETCHED.findall(text)
