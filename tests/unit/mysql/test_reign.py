"""What happens to users' events, and to accounts, when a primary is opened."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from yoban.errors import Unavailable
from yoban.plugins import Durability, DurabilityMode, InstanceContext
from yoban.testing.context import make_context
from yoban_mysql import accounts, line, reign, scheduled
from yoban_mysql.accounts import Change
from yoban_mysql.gtid import GtidSet
from yoban_mysql.line import Line
from yoban_mysql.session import Refused

from tests.unit.mysql.scripted import Scripted

CLOSED = {"closed": 1, "shut": 1, "waits": 0, "events": "ON", "away": 0}
OPEN = {**CLOSED, "closed": 0, "shut": 0, "waits": 1}
SYNCHRONOUS = Durability(DurabilityMode.SYNCHRONOUS, 1)


def event(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "schema": "app",
        "name": name,
        "definer": "app@%",
        "status": "REPLICA_SIDE_DISABLED",
        "from_elsewhere": 1,
        "client": "utf8mb4",
        "connection": "utf8mb4_0900_ai_ci",
        **changes,
    }


def server(*found: dict[str, Any], off: Any = None, **answers: Any) -> Scripted:
    """A closed server with these events; `off` are those that its primary had noted as off, None without the table."""
    table = [{"present": 1 if off is not None else 0}]
    noted = [{"names": json.dumps(off)}] if off is not None else []
    return Scripted(
        {
            **answers,
            "super_read_only AS closed": [CLOSED],
            "information_schema.tables": table,
            "SELECT names FROM yoban.events": noted,
            "information_schema.events": found,
        }
    )


def altered(session: Scripted) -> list[str]:
    return [text for text in session.told if text.startswith("ALTER")]


@pytest.fixture
def ctx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InstanceContext:
    async def begin(session: object, ctx: InstanceContext) -> Line:
        return Line("a.1", "", GtidSet())

    monkeypatch.setattr(line, "begin", begin)
    return make_context(tmp_path)


async def test_bug_events_of_users_ran_as_the_agent_after_a_change_of_primary(ctx: InstanceContext) -> None:
    """Whoever alters an event becomes its definer."""
    session = server(event("tick"), event("100%`", definer="o'neil@x@10.0.0.%"))
    await reign.open_writes(session, ctx, {})
    assert altered(session) == [
        "ALTER DEFINER = 'app'@'%' EVENT `app`.`tick` ENABLE",
        "ALTER DEFINER = \"o'neil@x\"@'10.0.0.%' EVENT `app`.`100%``` ENABLE",
    ]


async def test_bug_one_event_that_the_server_refuses_kept_every_server_closed(
    ctx: InstanceContext, caplog: pytest.LogCaptureFixture
) -> None:
    session = server(
        event("bad"), event("good"), **{"`bad`": Refused("server orders-1", 1449, "The user does not exist")}
    )
    with caplog.at_level(logging.WARNING, "yoban.mysql"):
        await reign.open_writes(session, ctx, {})
    assert "SET GLOBAL read_only = OFF" in session.told
    assert altered(session)[-1].endswith("`good` ENABLE")
    assert "app.bad" in caplog.text and "The user does not exist" in caplog.text


async def test_a_server_that_is_gone_is_not_opened(ctx: InstanceContext) -> None:
    session = server(event("tick"), **{"`tick`": Unavailable("it does not answer")})
    with pytest.raises(Unavailable):
        await reign.open_writes(session, ctx, {})
    assert "SET GLOBAL read_only = OFF" not in session.told


async def test_bug_events_that_were_off_ran_after_a_change_of_primary(ctx: InstanceContext) -> None:
    """A replica switches off all events alike; and a copy has as enabled what has run once since."""
    session = server(
        event("tick"), event("off"), event("once", status="ENABLED"), off=[["app", "off"], ["app", "once"]]
    )
    await reign.open_writes(session, ctx, {})
    assert altered(session) == [
        "ALTER DEFINER = 'app'@'%' EVENT `app`.`tick` ENABLE",
        "ALTER DEFINER = 'app'@'%' EVENT `app`.`once` DISABLE",
    ]


async def test_events_of_a_server_s_own_are_left_as_they_are(ctx: InstanceContext) -> None:
    session = server(event("on", status="ENABLED"), event("replicas", from_elsewhere=0), off=[])
    await reign.open_writes(session, ctx, {})
    assert altered(session) == []


async def test_older_data_gets_the_list_when_it_is_opened(ctx: InstanceContext) -> None:
    session = server(event("tick"))
    await reign.open_writes(session, ctx, {})
    assert scheduled.TABLE in session.told
    assert len(altered(session)) == 1
    session = server(event("tick"), off=[])
    await reign.open_writes(session, ctx, {})
    assert scheduled.TABLE not in session.told


async def test_a_list_that_cannot_be_made_keeps_no_server_closed(ctx: InstanceContext) -> None:
    session = server(event("tick"), **{scheduled.TABLE: Refused("server orders-1", 1114, "The table is full")})
    await reign.open_writes(session, ctx, {})
    assert len(altered(session)) == 1
    assert "SET GLOBAL read_only = OFF" in session.told


async def test_bug_events_changed_their_character_set_with_the_primary(ctx: InstanceContext) -> None:
    """Whoever alters an event gives it the character set of the session, by which its body is read then."""
    latin = {"client": "latin1", "connection": "latin1_swedish_ci"}
    session = server(event("old", **latin), event("ä", **latin), event("new"), off=[])
    await reign.open_writes(session, ctx, {})
    begin = session.told.index(
        "SET SESSION character_set_client = 'latin1', collation_connection = 'latin1_swedish_ci'"
    )
    assert session.told[begin + 1 : begin + 7] == [
        "ALTER DEFINER = 'app'@'%' EVENT `app`.`old` ENABLE",
        "SET NAMES utf8mb4",
        "ALTER DEFINER = 'app'@'%' EVENT `app`.`ä` ENABLE",  # a name that latin1 would read otherwise
        "SET SESSION character_set_client = 'utf8mb4', collation_connection = 'utf8mb4_0900_ai_ci'",
        "ALTER DEFINER = 'app'@'%' EVENT `app`.`new` ENABLE",
        "SET NAMES utf8mb4",
    ]


@pytest.mark.parametrize(
    ("noted", "found", "expected"),
    [
        (None, [], []),
        (None, ["a"], [["app", "a"]]),
        ([], [], []),
        ([["app", "a"]], ["a"], []),
        ([["app", "a"]], ["a", "b"], [["app", "a"], ["app", "b"]]),
        ([["app", "a"]], [], []),
    ],
)
async def test_what_is_off_is_noted_when_it_changes(
    ctx: InstanceContext, monkeypatch: pytest.MonkeyPatch, noted: Any, found: list[str], expected: Any
) -> None:
    answers: dict[str, Any] = {
        "SELECT names FROM yoban.events": [{"names": json.dumps(noted)}] if noted is not None else [],
        "information_schema.events": [{"schema": "app", "name": name} for name in found],
    }
    session = writing = Scripted(answers)
    _connect(monkeypatch, writing)
    await scheduled.note(session, ctx)
    changed = (noted or []) != [["app", name] for name in found]
    assert [text for text in writing.told if "REPLACE" in text] == (
        [f"REPLACE INTO yoban.events (id, names) VALUES (1, {json.dumps(expected)!r})"] if changed else []
    )


async def test_a_note_never_waits_for_replicas_that_are_away_nor_fails(
    ctx: InstanceContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: dict[str, Any] = {"information_schema.events": [{"schema": "app", "name": "off"}]}
    away = Scripted({**answers, "rpl_semi_sync_source_enabled": [{"waits": 1, "wanted": 1, "there": "0"}]})
    _connect(monkeypatch, away)
    await scheduled.note(away, ctx)
    assert away.told == []
    there = Scripted({**answers, "rpl_semi_sync_source_enabled": [{"waits": 1, "wanted": 1, "there": "1"}]})
    _connect(monkeypatch, there)
    await scheduled.note(there, ctx)
    assert len(there.told) == 1
    slow = Scripted({**answers, "REPLACE": Unavailable("it did not answer in time")})
    _connect(monkeypatch, slow)
    await scheduled.note(slow, ctx)
    without = Scripted(
        {"SELECT names": Refused("server orders-1", scheduled.NO_SUCH_TABLE, "no such table"), **answers}
    )
    await scheduled.note(without, ctx)
    assert without.told == []


def _connect(monkeypatch: pytest.MonkeyPatch, session: Scripted) -> None:
    async def connect(ctx: InstanceContext) -> Scripted:
        return session

    monkeypatch.setattr(scheduled, "connect", connect)


async def test_bug_a_password_that_was_changed_before_a_server_opened_kept_everybody_from_logging_in(
    ctx: InstanceContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commit waited for a replica that had to log in first. So it is made while nothing waits."""
    ctx = replace(ctx, durability=SYNCHRONOUS)
    session = server(off=[])

    async def plan(session: object, ctx: object, owner: object) -> list[Change]:
        return [Change("password of user app changed", "ALTER USER app")]

    monkeypatch.setattr(accounts, "plan", plan)
    await reign.open_writes(session, ctx, {})
    told = session.told
    assert told.index("SET GLOBAL rpl_semi_sync_source_enabled = OFF") < told.index("ALTER USER app")
    assert told.index("ALTER USER app") < told.index("SET GLOBAL rpl_semi_sync_source_enabled = 'ON'")
    assert told.index("ALTER USER app") < told.index("SET GLOBAL read_only = OFF")


async def test_accounts_that_cannot_be_changed_keep_no_server_closed(
    ctx: InstanceContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = replace(ctx, durability=SYNCHRONOUS)

    async def plan(session: object, ctx: object, owner: object) -> list[Change]:
        raise Refused("server orders-1", 3032, "The server is currently in offline mode")

    monkeypatch.setattr(accounts, "plan", plan)
    session = server(off=[])
    await reign.open_writes(session, ctx, {})
    assert "SET GLOBAL read_only = OFF" in session.told
    bare = server(off=[])
    await reign.open_writes(bare, replace(ctx, accounts={}), {})
    assert "SET GLOBAL read_only = OFF" in bare.told
