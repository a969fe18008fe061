"""Which instances exist: made, kept, removed, replaced.

Guarantees: a number is never used again; the primary is never removed; an instance that lost its volume is replaced
under a new number while others have the data, and nothing is made when nobody has (`data_lost`): an empty database is
never made in the place of a lost one. Does not choose a primary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Existing:
    """An instance that is there.

    Attributes:
        number: its number.
        ready: really usable.
        primary: it holds the Lease, or held it last.
        lost: its volume was there once and is gone, or holds nothing while the Database is initialised.
        broken: its data must be made anew (a replica that cannot follow).
    """

    number: int
    ready: bool = False
    primary: bool = False
    lost: bool = False
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Topology:
    """What is to be.

    Attributes:
        create: numbers to make, ascending.
        keep: numbers that stay, ascending.
        remove: numbers to take away, in this order.
        last_number: greatest number ever given out, to be recorded before anything of it is made.
        founder: number of the one instance that may create the data; 0 when none may any more.
        data_lost: every instance lost its volume; a person must restore.
        why: sentences about what is not obvious.
    """

    create: tuple[int, ...] = ()
    keep: tuple[int, ...] = ()
    remove: tuple[int, ...] = ()
    last_number: int = 0
    founder: int = 0
    data_lost: bool = False
    why: tuple[str, ...] = ()


def topology(wanted: int, existing: Sequence[Existing], last_number: int, *, initialized: bool) -> Topology:
    """Decide which instances exist.

    Args:
        wanted: `spec.instances`.
        existing: instances there now, those being deleted not among them.
        last_number: greatest number ever given out, as recorded.
        initialized: the data exists, or existed (Lease or repository say so).
    """
    last = max([last_number, *(item.number for item in existing)])
    if not initialized:
        return _founding(wanted, existing, last)
    holders = [item for item in existing if not item.lost]
    if not holders:
        lost = "every volume is gone; nothing is made in its place, restore from a backup into a new Database"
        return Topology(keep=_numbers(existing), last_number=last, data_lost=True, why=(lost,))
    why: list[str] = []
    replaced: list[Existing] = []
    for item in existing:
        if not item.lost and not item.broken:
            continue
        what = "lost its volume" if item.lost else "cannot follow the primary any more"
        if item.primary:
            why.append(f"instance {item.number} {what} and was the primary: another must be made primary first")
        elif not any(other.primary and not other.lost for other in existing) and not item.lost:
            why.append(f"instance {item.number} {what}: it stays until there is a primary to copy from")
        else:
            why.append(f"instance {item.number} {what} and is replaced under a new number")
            replaced.append(item)
    staying = [item for item in existing if item not in replaced]
    surplus = _surplus(wanted, staying)
    staying = [item for item in staying if item not in surplus]
    create = tuple(range(last + 1, last + 1 + max(0, wanted - len(staying))))
    return Topology(
        create=create,
        keep=_numbers(staying),
        remove=tuple(item.number for item in [*replaced, *surplus]),
        last_number=max([last, *create]),
        why=tuple(why),
    )


def _founding(wanted: int, existing: Sequence[Existing], last: int) -> Topology:
    """Nothing holds data yet: the lowest number founds, lost volumes lose nothing, too many go from the top."""
    ordered = sorted(existing, key=lambda item: item.number)
    keep, surplus = ordered[:wanted], ordered[wanted:]
    holder = next((item for item in ordered if item.primary), None)
    if holder is not None and holder in surplus:
        surplus = [item for item in [*keep[-1:], *surplus] if item is not holder]
        keep = [*keep[:-1], holder]
    create = tuple(range(last + 1, last + 1 + max(0, wanted - len(keep))))
    numbers = [*(item.number for item in keep), *create]
    return Topology(
        create=create,
        keep=_numbers(keep),
        remove=tuple(item.number for item in sorted(surplus, key=lambda item: -item.number)),
        last_number=max([last, *create]),
        founder=holder.number if holder is not None else min(numbers),
    )


def _surplus(wanted: int, staying: Sequence[Existing]) -> list[Existing]:
    """Unready ones go first, then the highest number; the primary never."""
    removable = sorted((item for item in staying if not item.primary), key=lambda item: (item.ready, -item.number))
    return removable[: max(0, len(staying) - wanted)]


def _numbers(items: Sequence[Existing]) -> tuple[int, ...]:
    return tuple(sorted(item.number for item in items))
