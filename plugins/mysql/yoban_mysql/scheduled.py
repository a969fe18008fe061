"""Events of users: which are switched on with a primary, and stay off.

A server switches off every event that comes to it from its source, whether it was on there or not; and that an event has run
for the last time is never in the log. So a primary notes which of its events are off, in an ordinary replicated table: a
server that becomes primary, or is restored, switches on what is not noted, and off what is.

Guarantees: an event keeps its definer and character sets. One that the server refuses is told and keeps nothing closed. A
note waits for no replica that is away; it is behind by one look of the agent, and without one all events are switched on.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from yoban.errors import Unavailable
from yoban.plugins import InstanceContext

from yoban_mysql import confirm
from yoban_mysql.session import Refused, Session, connect, identifier

logger = logging.getLogger("yoban.mysql")
TABLE = (
    "CREATE TABLE yoban.events (id tinyint unsigned NOT NULL PRIMARY KEY,"
    " names mediumtext CHARACTER SET ascii NOT NULL) ENGINE=InnoDB"
)
NO_SUCH_TABLE = 1146
_PRESENT = (
    "SELECT COUNT(*) AS present FROM information_schema.tables WHERE table_schema = 'yoban' AND table_name = 'events'"
)
_NOTED = "SELECT names FROM yoban.events WHERE id = 1"
_NOTE = "REPLACE INTO yoban.events (id, names) VALUES (1, %s)"
_OFF = (
    "SELECT event_schema AS `schema`, event_name AS name FROM information_schema.events WHERE status <> 'ENABLED'"
    " ORDER BY event_schema, event_name"
)
_NOT_OFF = (
    "SELECT event_schema AS `schema`, event_name AS name, definer, status, originator <> @@GLOBAL.server_id AS"
    " from_elsewhere, character_set_client AS client, collation_connection AS connection"
    " FROM information_schema.events WHERE status <> 'DISABLED'"
)
_CHARACTERS = "SET SESSION character_set_client = %s, collation_connection = %s"


async def take_over(session: Session) -> None:
    """Switch events on and off as they were on the primary before; older data gets the table. Nobody else can write yet."""
    off: set[tuple[str, str]] = set()
    try:
        if await session.value(_PRESENT):
            off = await _noted(session)
        else:
            await session.execute(TABLE)
    except Refused as error:
        logger.warning("which events are off is not known: %s", error.words)
    for row in await session.rows(_NOT_OFF):
        noted = (row["schema"], row["name"]) in off
        if row["status"] == "ENABLED":
            verb = "DISABLE" if noted else ""
        else:
            verb = "ENABLE" if row["from_elsewhere"] and not noted else ""
        try:
            if verb:
                await _alter(session, row, verb)
        except Refused as error:
            logger.warning("event %s.%s stays as it is: %s", row["schema"], row["name"], error.words)


async def note(session: Session, ctx: InstanceContext) -> None:
    """On a primary: note which events are off, where that has changed. Data without the table is left as it is."""
    try:
        present = await _noted(session)
    except Refused as error:
        if error.number != NO_SUCH_TABLE:
            raise
        return
    off = [(str(row["schema"]), str(row["name"])) for row in await session.rows(_OFF)]
    if set(off) == present or await confirm.missing(session):
        return
    # On a connection of its own, for a replica may leave just now. Later notes then wait for this one's row, not for ever.
    with contextlib.suppress(Unavailable):
        writing = await connect(ctx)
        try:
            await writing.execute(_NOTE, json.dumps(off))
        finally:
            writing.drop()


async def _noted(session: Session) -> set[tuple[str, str]]:
    names = await session.value(_NOTED)
    return {(schema, name) for schema, name in json.loads(names)} if names else set()


async def _alter(session: Session, row: Mapping[str, Any], verb: str) -> None:
    """Whoever alters an event becomes its definer, and gives it the character sets of the session."""
    user, _, host = str(row["definer"]).rpartition("@")
    event = f"{identifier(row['schema'])}.{identifier(row['name'])}"
    readable = str(row["client"]).startswith("utf8") or f"{event}{user}{host}".isascii()
    try:
        if readable:
            await session.execute(_CHARACTERS, row["client"], row["connection"])
        await session.execute(f"ALTER DEFINER = %s@%s EVENT {event.replace('%', '%%')} {verb}", user, host)
    finally:
        if readable:
            await session.execute("SET NAMES utf8mb4")
