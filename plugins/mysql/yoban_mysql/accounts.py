"""Accounts of a Database on its primary: the owner of its schema, and the account of its instances.

Guarantees: what is there is not changed again; whether a password is current is tried by logging in with it; the server keeps
only a digest, and only that reaches the log. An interrupted `apply` is taken up by the next `plan`. Objects of users are
never dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yoban.plugins import InstanceContext
from yoban.telemetry import remember_secret

from yoban_mysql.names import AGENT, OWNER, REPLICATION_USER
from yoban_mysql.session import Session, identifier, password_works

if TYPE_CHECKING:
    from yoban.plugins import Account

REPLICATION_STATEMENTS = (
    f"CREATE USER '{REPLICATION_USER}'@'%' IDENTIFIED WITH caching_sha2_password BY ''"
    f" REQUIRE SUBJECT '/CN={REPLICATION_USER}' PASSWORD EXPIRE NEVER",
    f"GRANT REPLICATION SLAVE, REPLICATION CLIENT, BACKUP_ADMIN, SHOW VIEW ON *.* TO '{REPLICATION_USER}'@'%'",
)
"""Instances know each other by certificate: there is no password to know, and without the certificate no way in.

Some privilege on a table is what it takes to be told that it exists and of which engine it is.
"""

SYSTEM = (AGENT, REPLICATION_USER, "mysql.infoschema", "mysql.session", "mysql.sys")
_GRANTS = "SELECT Drop_priv AS drops, Event_priv AS events FROM mysql.db WHERE db = %s AND user = %s AND host = '%%'"
_USER = "SELECT account_locked AS locked, password_lifetime AS lifetime FROM mysql.user WHERE user = %s AND host = '%%'"


@dataclass(frozen=True, slots=True)
class Change:
    """Something to change: what it is in words without secrets, a statement, and its arguments (which may be secret)."""

    words: str
    statement: str
    arguments: tuple[str, ...] = ()


async def plan(session: Session, ctx: InstanceContext, owner: Account) -> list[Change]:
    """Return what `apply` must change so that the accounts exist with their current passwords. Only looks."""
    remember_secret(owner.password)
    changes: list[Change] = []
    instances = await session.row(_USER, REPLICATION_USER)
    if instances is None:
        changes += [Change(f"user {REPLICATION_USER} created", text) for text in REPLICATION_STATEMENTS[:1]]
        changes += [Change(f"user {REPLICATION_USER} may replicate", text) for text in REPLICATION_STATEMENTS[1:]]
    elif instances["lifetime"] != 0:  # NULL is the server's default_password_lifetime
        statement = f"ALTER USER '{REPLICATION_USER}'@'%' PASSWORD EXPIRE NEVER"
        changes.append(Change(f"user {REPLICATION_USER} never expires", statement))
    found = await session.row(_USER, owner.user)
    user, words = owner.user, (owner.user, owner.password)
    if found is None:
        statement = "CREATE USER %s@'%%' IDENTIFIED WITH caching_sha2_password BY %s"
        changes.append(Change(f"user {user} created", statement, words))
    else:
        if found["locked"] == "Y":
            changes.append(Change(f"user {user} may log in again", "ALTER USER %s@'%%' ACCOUNT UNLOCK", (user,)))
        elif not await password_works(ctx, owner):
            statement = "ALTER USER %s@'%%' IDENTIFIED WITH caching_sha2_password BY %s"
            changes.append(Change(f"password of user {user} changed", statement, words))
    name = identifier(OWNER)
    if not await session.value("SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = %s", OWNER):
        changes.append(Change(f"schema {OWNER} created", f"CREATE SCHEMA IF NOT EXISTS {name}"))
    if not await _owns(session, user):
        changes.append(Change(f"user {user} owns schema {OWNER}", f"GRANT ALL ON {name}.* TO %s@'%%'", (user,)))
    return changes


async def apply(session: Session, changes: Sequence[Change], *, deadline: float) -> list[str]:
    """Make the changes, in order; return what was changed.

    Args:
        session: a connection of the agent's account on the primary.
        changes: as planned just before.
        deadline: seconds for each statement. One whose commit waits for replicas keeps everybody from logging in, those
            replicas too: it is for a session whose commits wait for none, or while enough of them are there.
    """
    for change in changes:
        await session.execute(change.statement, *change.arguments, deadline=deadline)
    return [change.words for change in changes]


async def nobody_else(session: Session) -> bool:
    """Whether there is no account yet by which anybody but agents could write."""
    places = ", ".join(["%s"] * len(SYSTEM))
    return not await session.value(f"SELECT COUNT(*) FROM mysql.user WHERE user NOT IN ({places})", *SYSTEM)  # noqa: S608


async def _owns(session: Session, user: str) -> bool:
    row = await session.row(_GRANTS, OWNER, user)
    return row is not None and row["drops"] == "Y" and row["events"] == "Y"
