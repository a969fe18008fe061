"""Accounts of a Database on its primary: the owner of its data, and the replication user of its instances.

Guarantees: what is there is not changed again; a password that changed is replaced by a verifier of the new one, so no
clear password leaves the agent; names are quoted by the server. The replication user comes with all its rights or not at
all. An interrupted `apply` is taken up by the next `plan`, also when the server goes on with what was interrupted. Objects
of users are never dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yoban_postgres import scram
from yoban_postgres.names import OWNER, REPLICATION_USER

if TYPE_CHECKING:
    import asyncpg
    from yoban.plugins import Account

REWIND_FUNCTIONS = (
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
)
"""What a former primary needs of its successor to rejoin (documented for the program that rewinds)."""

UNLOGGED = {
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_min_duration_sample": "-1",
    "log_transaction_sample_rate": "0",
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
    "debug_print_parse": "off",
    "debug_print_rewritten": "off",
    "debug_print_plan": "off",
}
"""Settings of a session that changes accounts: verifiers of passwords stay out of the server's log."""

_ROLE = "select rolpassword, rolcanlogin, rolsuper, rolreplication from pg_authid where rolname = $1"


@dataclass(frozen=True, slots=True)
class Change:
    """Something to change.

    Attributes:
        words: what it is, without secrets.
        template: statements for the server's `format()`; several are one transaction.
        names: what `format()` fills in and quotes.
    """

    words: str
    template: str
    names: tuple[str, ...]


async def plan(connection: asyncpg.Connection[asyncpg.Record], owner: Account) -> list[Change]:
    """Return what `apply` must change so that the accounts exist with their current passwords. Only looks.

    Args:
        connection: superuser on the primary, in the database `postgres`.
        owner: user and password of the owner; its database has the owner's default name.
    """
    changes = await _replication(connection)
    found = await connection.fetchrow(_ROLE, owner.user)
    user = owner.user
    if found is None:
        verifier = await _verifier(owner.password)
        changes.append(Change(f"user {user} created", "create role %I login password %L", (user, verifier)))
    else:
        if not await asyncio.to_thread(scram.belongs, found["rolpassword"], owner.password):
            verifier = await _verifier(owner.password)
            changes.append(Change(f"password of user {user} changed", "alter role %I password %L", (user, verifier)))
        if not found["rolcanlogin"]:
            changes.append(Change(f"user {user} may log in again", "alter role %I login", (user,)))
    if not await connection.fetchval("select exists(select from pg_database where datname = $1)", OWNER):
        changes.append(Change(f"database {OWNER} created", "create database %I owner %I", (OWNER, user)))
    return changes


async def apply(connection: asyncpg.Connection[asyncpg.Record], changes: Sequence[Change]) -> list[str]:
    """Make the changes, in order; return what was changed. A database takes its time: its files are copied.

    Args:
        connection: superuser on the primary, in the database `postgres`, with time for each statement, `UNLOGGED`.
        changes: as planned just before.
    """
    from asyncpg import DuplicateDatabaseError, DuplicateObjectError, UniqueViolationError

    made: list[str] = []
    for change in changes:
        places = ", ".join(f"${index}::text" for index in range(2, len(change.names) + 2))
        statement = await connection.fetchval(f"select format($1::text, {places})", change.template, *change.names)
        try:
            await connection.execute(statement)
        except (DuplicateDatabaseError, DuplicateObjectError, UniqueViolationError):
            continue  # an earlier call was interrupted, and the server finished its statement after we had looked
        made.append(change.words)
    return made


async def _replication(connection: asyncpg.Connection[asyncpg.Record]) -> list[Change]:
    user = (REPLICATION_USER,)
    found = await connection.fetchrow(_ROLE, REPLICATION_USER)
    if found is None:
        statements = ["create role %1$I login replication password null"]
        statements += [f"grant execute on function pg_catalog.{function} to %1$I" for function in REWIND_FUNCTIONS]
        statements.append("grant pg_read_all_stats to %1$I")
        return [Change(f"user {REPLICATION_USER} created", "; ".join(statements), user)]
    changes: list[Change] = []
    if not (found["rolcanlogin"] and found["rolreplication"]):
        words = f"user {REPLICATION_USER} may replicate again"
        changes.append(Change(words, "alter role %I login replication", user))
    for function in REWIND_FUNCTIONS:
        may = await connection.fetchval(
            "select has_function_privilege($1::name, $2::text, 'execute')", REPLICATION_USER, f"pg_catalog.{function}"
        )
        if not may:
            words = f"user {REPLICATION_USER} may read files to rejoin"
            changes.append(Change(words, f"grant execute on function pg_catalog.{function} to %I", user))
    monitor = await connection.fetchval(
        "select pg_has_role($1::name, 'pg_read_all_stats'::name, 'member')", REPLICATION_USER
    )
    if not monitor:
        words = f"user {REPLICATION_USER} may read statistics"
        changes.append(Change(words, "grant pg_read_all_stats to %I", user))
    return changes


async def _verifier(password: str) -> str:
    return await asyncio.to_thread(scram.verifier, password)
