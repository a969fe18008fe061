"""What the servers hold: the flights that left New York in 2013, enlarged, and tables of small rows for what is replayed.

Flights are written without a log: what is measured of them is their backup. The small transactions change one row each, with
a commit of its own, and differ in kind: of ten six update, two insert, two delete.
"""

from __future__ import annotations

import asyncio
import dataclasses

from deploy.demo import flights
from deploy.demo.mysql import columns, inserts
from tests.bench.machine import BenchError
from tests.bench.mysql.ours import Ours

TABLES = 6
ROWS = 20_000
"""Rows that each of the small tables begins with."""
CLIENTS = 8
FILES = 4
NAMES = [f"app.small{number}" for number in range(TABLES)]


async def small(ours: Ours) -> None:
    """Make the tables that are changed by small transactions, and the procedure that changes them."""
    await ours.sql("; ".join(_tables()))
    await ours.sql(f"DELIMITER //\n{procedure()}\n//\nDELIMITER ;\nSELECT 1")


def _tables() -> list[str]:
    rows = f"WITH RECURSIVE n AS (SELECT 1 AS id UNION ALL SELECT id + 1 FROM n WHERE id < {ROWS})"
    found = ["USE app", f"SET SESSION cte_max_recursion_depth = {ROWS}"]
    for name in NAMES:
        found += [
            f"CREATE TABLE {name} (id bigint unsigned NOT NULL PRIMARY KEY, k int NOT NULL, c char(120) NOT NULL,"
            " pad char(60) NOT NULL, KEY (k))",
            f"INSERT INTO {name} {rows} SELECT id, FLOOR(RAND() * {ROWS}), {_TEXT}, SHA2(RAND(), 224) FROM n",
        ]
    return found


_TEXT = "CONCAT(SHA2(RAND(), 224), SHA2(RAND(), 224))"


def procedure() -> str:
    """Return the procedure `work(client, n)`: n transactions, each of which changes one row. Pure.

    A client inserts and deletes under ids of its own, so that no statement changes nothing, and no two clients wait long.
    """

    def choose(variable: str, statement: str) -> str:
        cases = " ".join(f"WHEN {number} THEN {statement.format(table=name)};" for number, name in enumerate(NAMES))
        return f"CASE {variable} MOD {TABLES} {cases} END CASE;"

    update = choose("at", f"UPDATE {{table}} SET k = k + 1, c = {_TEXT} WHERE id = at")
    insert = choose("fresh", f"INSERT INTO {{table}} VALUES (fresh, dice * {ROWS}, {_TEXT}, SHA2(dice, 224))")
    delete = choose("gone", "DELETE FROM {table} WHERE id = gone")
    return (
        "CREATE PROCEDURE app.work(client bigint unsigned, n int) BEGIN"
        " DECLARE i int DEFAULT 0; DECLARE dice double; DECLARE at bigint unsigned;"
        " DECLARE fresh, gone bigint unsigned DEFAULT (client + 1) * 100000000;"
        " WHILE i < n DO"
        f" SET i = i + 1, dice = RAND(), at = 1 + FLOOR(RAND() * {ROWS});"
        f" IF dice < 0.6 THEN {update}"
        f" ELSEIF dice < 0.8 AND gone < fresh THEN {delete} SET gone = gone + 1;"
        f" ELSE {insert} SET fresh = fresh + 1;"
        " END IF; END WHILE; END"
    )


async def work(ours: Ours, transactions: int) -> None:
    """Commit so many small transactions, from several clients at once, into several files of the log."""
    each = -(-transactions // (CLIENTS * FILES))
    for part in range(FILES):
        numbers = range(part * CLIENTS, (part + 1) * CLIENTS)
        await asyncio.gather(*(ours.sql(f"CALL app.work({number}, {each})", deadline=1800) for number in numbers))
        await ours.sql("FLUSH BINARY LOGS")


async def load(ours: Ours, size: int) -> None:
    """Fill `app.flights` with about so many bytes, its index included; make `app.base` to take rows from."""
    found = dataclasses.replace(next(table for table in flights.load() if table.name == "flights"), name="app.base")
    key = "id bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY"
    made = [
        "SET SESSION sql_log_bin = 0",
        f"CREATE TABLE app.base ({columns(found)})",
        *(
            f"CREATE TABLE app.{name} ({key}, {columns(found)}, KEY (time_hour, carrier))"
            for name in ("flights", "written")
        ),
        "CREATE TABLE app.stamps (id bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY, writer int)",
    ]
    await ours.sql("; ".join(made), stdin=b"".join(inserts(found)))
    await ours.sql(f"SET SESSION sql_log_bin = 0; ALTER TABLE app.base ADD {key} FIRST")
    file = ours.data / "app/flights.ibd"
    before = -1
    while before < (now := file.stat().st_size) < size:
        before = now
        await ours.sql(f"SET SESSION sql_log_bin = 0; INSERT INTO app.flights {enlarged('1 = 1', 'month, RAND()')}")
    if before == now:
        raise BenchError("the tables do not grow")
    await ours.sql("ANALYZE NO_WRITE_TO_BINLOG TABLE app.flights")


def enlarged(where: str, order: str = "id") -> str:
    """Return a query for rows that differ from those they are made of in their order and by some minutes. Pure."""
    return (
        "SELECT NULL, year, month, day, dep_time + FLOOR(RAND() * 40) - 20, sched_dep_time, dep_delay,"
        " arr_time + FLOOR(RAND() * 40) - 20, sched_arr_time, arr_delay, carrier, flight, tailnum, origin, dest, air_time,"
        f" distance, hour, minute, time_hour FROM app.base WHERE {where} ORDER BY {order}"
    )
