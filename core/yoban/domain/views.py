"""Which Backup objects stand for which stored base backups: what is missing, what is left over.

Objects are a view of the repository, rebuilt when they are lost. Names are deterministic, so that two passes make one.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Shown:
    """A Backup object: its name, ids in the repository that it stands for (every attempt has its own)."""

    name: str
    ids: frozenset[str]


def missing(stored: Iterable[str], shown: Iterable[Shown], *, most: int = 20) -> tuple[str, ...]:
    """Return ids of stored base backups that no object stands for, at most so many at once, oldest first."""
    known = {id for item in shown for id in item.ids}
    return tuple([id for id in stored if id not in known][:most])


def found_name(database: str, id: str) -> str:
    """Return the name of the object for a base backup found in the repository."""
    return f"{database}-{id.lower()}"[:253].rstrip("-.")


def asked_name(database: str, slot: datetime, attempt: int, taken: Container[str] = ()) -> str:
    """Return the name of the object for a need: the same need and attempt, the same name.

    A name that is `taken` says nothing of the need: others have it, or an earlier attempt whose number was lost. The
    next that is free is used.
    """
    base = f"{database}-{slot:%Y%m%d-%H%M%S}"
    while True:
        name = base if attempt == 1 else f"{base}-{attempt}"
        if name not in taken:
            return name
        attempt += 1
