"""Replication slots of members, on the primary.

Guarantees that each member has one slot and nobody else has one of ours; slots of other owners are never touched. What a
slot may hold back is bounded by `max_slot_wal_keep_size`; one that was cut off is made anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yoban.errors import NotReady

from yoban_postgres.names import SLOT_PREFIX, slot_name

if TYPE_CHECKING:
    import asyncpg
    from yoban.plugins import Peer

_SLOTS = """
select slot_name, active, coalesce(wal_status, '') as wal_status from pg_replication_slots
 where slot_type = 'physical' and starts_with(slot_name, $1)
"""


async def manage(connection: asyncpg.Connection[asyncpg.Record], members: Sequence[Peer]) -> list[str]:
    """Create, renew and drop slots; return what was changed."""
    changed: list[str] = []
    wanted = {slot_name(member.name) for member in members}
    present = {row["slot_name"]: row for row in await connection.fetch(_SLOTS, SLOT_PREFIX)}
    for name, row in present.items():
        lost = row["wal_status"] == "lost"
        if (name in wanted and not lost) or row["active"]:
            continue
        await connection.execute("select pg_drop_replication_slot($1)", name)
        changed.append(f"slot {name} dropped" + (", it was cut off" if lost else ""))
        if lost:
            present = {key: value for key, value in present.items() if key != name}
    for name in sorted(wanted - present.keys()):
        await connection.execute("select pg_create_physical_replication_slot($1, true)", name)
        changed.append(f"slot {name} created")
    return changed


async def reserve(connection: asyncpg.Connection[asyncpg.Record], instance: str) -> str:
    """Make the slot of an instance hold back log from now on, before it copies data; return the slot's name.

    A slot that is left over is used again; one that was cut off, or never held anything, is made anew.

    Args:
        connection: a user that may replicate, on the primary.
        instance: name of the instance that is about to copy.

    Raises:
        NotReady: something is connected to the slot still, such as a copy that was given up.
    """
    from asyncpg import DuplicateObjectError, ObjectInUseError, UndefinedObjectError

    name = slot_name(instance)
    found = await connection.fetchrow(
        "select active, restart_lsn is not null and wal_status <> 'lost' as holds from pg_replication_slots"
        " where slot_name = $1",
        name,
    )
    if found is not None and found["active"]:
        raise NotReady("an earlier connection to its slot has not ended yet", object=f"slot {name}")
    try:
        if found is not None and not found["holds"]:
            await connection.execute("select pg_drop_replication_slot($1)", name)
        if found is None or not found["holds"]:
            await connection.execute("select pg_create_physical_replication_slot($1, true)", name)
    except (DuplicateObjectError, ObjectInUseError, UndefinedObjectError) as error:
        raise NotReady("the primary is making its slot just now", object=f"slot {name}") from error
    return name


def forget(data: Path) -> None:
    """Remove our slots from stopped data: on a replica they would hold back log for nobody."""
    folder = data / "pg_replslot"
    if folder.is_dir():
        for entry in folder.iterdir():
            if entry.name.startswith(SLOT_PREFIX):
                shutil.rmtree(entry)
