"""What is changed of accounts, and when it must wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from yoban.errors import NotReady
from yoban.plugins import Account, Durability, DurabilityMode, InstanceContext
from yoban.testing.context import make_context
from yoban_mysql import accounts, server, session
from yoban_mysql.session import Refused

from tests.unit.mysql.scripted import Scripted

SYNCHRONOUS = Durability(DurabilityMode.SYNCHRONOUS, 2)


class Lends:
    """A kept connection to a server of a script."""

    def __init__(self, session: Scripted) -> None:
        self.session = session

    @asynccontextmanager
    async def use(self, ctx: InstanceContext) -> AsyncIterator[Scripted]:
        yield self.session


def existing(lifetime: int | None = 0, **answers: Any) -> Scripted:
    """A server with all accounts, on which the owner's password is another one."""
    return Scripted(
        {
            **answers,
            "SELECT COUNT(*) FROM mysql.user": [{"others": 1}],
            "user = 'yoban-replication'": [{"locked": "N", "lifetime": lifetime}],
            "FROM mysql.user": [{"locked": "N", "lifetime": None}],
            "information_schema.schemata": [{"schemas": 1}],
            "FROM mysql.db": [{"drops": "Y", "events": "Y"}],
        }
    )


def replicas(there: int, *, waits: int = 1) -> dict[str, Any]:
    return {"rpl_semi_sync_source_enabled": [{"waits": waits, "wanted": 2, "there": str(there)}]}


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    answers = [False]

    async def password_works(ctx: InstanceContext, account: Account) -> bool:
        return answers[0]

    monkeypatch.setattr(accounts, "password_works", password_works)
    return answers


@pytest.fixture
def ctx(tmp_path: Path) -> InstanceContext:
    return make_context(tmp_path, durability=SYNCHRONOUS)


def serving(monkeypatch: pytest.MonkeyPatch, found: Scripted) -> server.MySqlServer:
    async def connect(ctx: InstanceContext) -> Scripted:
        return found

    monkeypatch.setattr(server, "connect", connect)
    return server.MySqlServer(Lends(found))  # type: ignore[arg-type]


async def test_bug_a_changed_password_kept_every_replica_from_logging_in(
    ctx: InstanceContext, works: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for replicas with the lock that every login needs. Now it waits before it takes it, and says so."""
    away = existing(**replicas(1))
    with pytest.raises(NotReady) as caught:
        await serving(monkeypatch, away).ensure_accounts(ctx)
    assert away.told == []
    assert "password of user app changed" in caught.value.cause and "1 of 2" in caught.value.cause
    assert caught.value.reason == "AccountsWait" and caught.value.fix
    there = existing(**replicas(2))
    assert await serving(monkeypatch, there).ensure_accounts(ctx) == ["password of user app changed"]


async def test_accounts_do_not_wait_where_commits_do_not(
    ctx: InstanceContext, works: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = existing(**replicas(0, waits=0))
    assert await serving(monkeypatch, alone).ensure_accounts(replace(ctx, durability=Durability()))
    works[0] = True
    done = existing(**replicas(0))
    assert await serving(monkeypatch, done).ensure_accounts(ctx) == [], "nothing to change waits for nobody"


async def test_bug_the_account_of_the_instances_expired(ctx: InstanceContext, works: list[bool]) -> None:
    assert accounts.REPLICATION_STATEMENTS[0].endswith("PASSWORD EXPIRE NEVER")
    works[0] = True
    owner = ctx.accounts["owner"]
    for lifetime, expected in ((None, 1), (90, 1), (0, 0)):
        planned = await accounts.plan(existing(lifetime), ctx, owner)  # type: ignore[arg-type]
        assert len(planned) == expected
        if planned:
            assert planned[0].statement == "ALTER USER 'yoban-replication'@'%' PASSWORD EXPIRE NEVER"


@pytest.mark.parametrize(("number", "works"), [(1203, True), (1226, True), (1820, False)])
async def test_a_login_that_was_one_too_many_proves_the_password(
    ctx: InstanceContext, monkeypatch: pytest.MonkeyPatch, number: int, works: bool
) -> None:
    async def refuse(target: str, **place: object) -> None:
        raise Refused(target, number, "already has more than 'max_user_connections' active connections")

    monkeypatch.setattr(session, "_open", refuse)
    assert await session.password_works(ctx, ctx.accounts["owner"]) is works
