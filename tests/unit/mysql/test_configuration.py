"""What is set beside, and over, a user's settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from yoban.errors import Terminal
from yoban.plugins import InstanceContext, Peer, Role
from yoban.testing.context import make_context
from yoban_mysql import carried, configure, options
from yoban_mysql.configuration import fixed_settings, most_sessions
from yoban_mysql.names import MAIN_CONF, USER_CONF

from tests.unit.mysql.scripted import Scripted


def started(ctx: InstanceContext, role: Role, settings: dict[str, str]) -> dict[str, str]:
    """Write the file that a server is started with, and return what is in it."""
    for path in (ctx.tls.ca, ctx.tls.certificate, ctx.tls.key):
        path.touch()
    ctx.data.mkdir(exist_ok=True)
    (ctx.data / USER_CONF).write_text(options.text(settings))
    configure._write_main(ctx, role, settings)
    return options.parse((ctx.data / MAIN_CONF).read_text())


@pytest.mark.parametrize(
    ("role", "settings", "expected"),
    [
        (Role.PRIMARY, {}, "MEMORY"),
        (Role.REPLICA, {"disabled-storage-engines": "MyISAM, CSV"}, "MEMORY,MyISAM, CSV"),
        (Role.PRIMARY, {"disabled_storage_engines": " "}, "MEMORY"),
        (Role.RECOVERY, {}, None),
        (Role.RECOVERY, {"disabled_storage_engines": "MyISAM"}, None),  # what was logged is applied
    ],
)
def test_bug_tables_in_memory_were_made_that_no_backup_has(
    tmp_path: Path, role: Role, settings: dict[str, str], expected: str | None
) -> None:
    """Their rows are lost at a restart; a change of one then stops the applier, and a replica's own DELETE the replica."""
    ctx = make_context(tmp_path)
    assert started(ctx, role, settings).get("disabled_storage_engines") == expected
    if role is not Role.RECOVERY:
        assert configure.pending_restart(ctx) == ()


def test_a_change_of_the_engines_that_are_off_waits_for_a_restart(tmp_path: Path) -> None:
    ctx = make_context(tmp_path)
    started(ctx, Role.PRIMARY, {"disabled_storage_engines": "MyISAM"})
    for settings in ({}, {"disabled_storage_engines": "CSV"}):
        (ctx.data / USER_CONF).write_text(options.text(settings))
        assert configure.pending_restart(ctx) == ("disabled_storage_engines",)
    # A server that was started before there was any is left alone until it is restarted.
    (ctx.data / MAIN_CONF).write_text(options.text({}))
    (ctx.data / USER_CONF).write_text(options.text({}))
    assert configure.pending_restart(ctx) == ()


async def test_bug_tables_in_memory_made_backups_that_could_not_be_restored() -> None:
    session = Scripted({"engine <> 'InnoDB'": [{"schema": "app", "name": "m", "engine": "MEMORY"}]})
    with pytest.raises(Terminal) as caught:
        await carried.survey(session)  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.object) == ("TablesNotCarried", "app.m (MEMORY)")
    assert "InnoDB" in caught.value.fix


@pytest.mark.parametrize(
    ("connections", "instances", "expected"),
    [(151, 1, 143), (151, 3, 137), (28, 3, 14), (20, 3, 14), (1, 1, 8)],
)
def test_how_many_sessions_an_account_may_have(connections: int, instances: int, expected: int) -> None:
    assert most_sessions(connections, instances) == expected


@pytest.mark.parametrize(
    ("settings", "expected"), [({}, "140"), ({"max-connections": "500"}, "489"), ({"max_connections": "x"}, "140")]
)
def test_bug_sessions_that_wait_for_a_replica_left_no_connection_for_it(
    tmp_path: Path, settings: dict[str, str], expected: str
) -> None:
    ctx = make_context(tmp_path, settings=settings, peers=(Peer("orders-2", "b", 3306),))
    assert fixed_settings(ctx, Role.PRIMARY)["max_user_connections"] == expected


async def test_the_limit_keeps_in_step_with_what_the_server_has(tmp_path: Path) -> None:
    """It takes fewer connections than it is told where it may open too few files."""
    ctx = make_context(tmp_path, settings={"max_connections": "500"})
    fixed = fixed_settings(ctx, Role.PRIMARY)
    running = {name: fixed[name] for name in configure.LIVE} | {"max_connections": "214"}
    session = Limited(running)
    await configure.Configuration(None)._keep(session, ctx, Role.PRIMARY, {})  # type: ignore[arg-type]
    assert session.told == ["SET GLOBAL `max_user_connections` = 206"]
    session.running["max_user_connections"] = "206"
    session.told.clear()
    await configure.Configuration(None)._keep(session, ctx, Role.PRIMARY, {})  # type: ignore[arg-type]
    assert session.told == []
    joined = replace(ctx, peers=(Peer("orders-2", "b", 3306),))
    await configure.Configuration(None)._keep(session, joined, Role.PRIMARY, {})  # type: ignore[arg-type]
    assert session.told == ["SET GLOBAL `max_user_connections` = 203"]


class Limited(Scripted):
    """A server with these variables."""

    def __init__(self, running: dict[str, str]) -> None:
        super().__init__()
        self.running = running

    async def rows(self, statement: str, *arguments: object, deadline: float = 4.0) -> list[dict[str, Any]]:
        return [{"name": name, "value": self.running[str(name)]} for name in arguments if name in self.running]
