"""How a moment of a Database can be named as a recovery target, by engine; each names the same moment in every way it has."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from tests.e2e.world import Space


def mark(space: Space, database: str, name: str, first: int) -> dict[str, str]:
    """Name this moment and write ten rows, from `first` on, right after it; return the values of targets by their type.

    `name` and `time` lie before the ten rows, `transaction` is theirs, `position` lies behind them.
    """
    return (_postgres if space.engine.name == "postgres" else _mysql)(space, database, name, first)


def _postgres(space: Space, database: str, name: str, first: int) -> dict[str, str]:
    client = space.client(database)
    # Named points are the administrator's to make, beside the server, by its socket.
    space.as_admin(database, f"SELECT pg_create_restore_point('{name}')")
    moment = _between_commits(client.now())
    ten = f"INSERT INTO ledger SELECT generate_series({first}, {first + 9})"
    return {
        "name": name,
        "time": moment,
        "transaction": client.sql(f"WITH w AS ({ten}) SELECT pg_current_xact_id()"),
        "position": client.sql("SELECT pg_current_wal_insert_lsn()"),
    }


def _mysql(space: Space, database: str, name: str, first: int) -> dict[str, str]:
    client = space.client(database)
    moment = _between_commits(client.now())
    before = client.sql("SELECT @@global.gtid_executed").replace("\n", "")
    ten = ",".join(f"({number})" for number in range(first, first + 10))
    # The agent writes too: what is new and touched the table is found by the server's own account of our session.
    told = space.as_admin(
        database,
        f"INSERT INTO app.ledger VALUES {ten}; SELECT gtid FROM performance_schema.events_transactions_history"
        " WHERE thread_id = ps_current_thread_id() AND gtid <> 'AUTOMATIC' ORDER BY event_id DESC LIMIT 1",
    )
    position = client.sql("SELECT @@global.gtid_executed").replace("\n", "")
    assert position != before
    return {"time": moment, "transaction": told.strip().splitlines()[-1], "position": position}


def _between_commits(now: str) -> str:
    """A time after `now` at which nothing was committed; returns when it is past."""
    time.sleep(1.2)  # a time target lies between two commits
    return (datetime.fromisoformat(now) + timedelta(milliseconds=500)).isoformat()
