"""Realistic data: the flights that left New York in 2013, enlarged so that zstd -1 shrinks it about threefold.

Copies of the same rows in the same order would shrink far better, and so does what pgbench fills its tables with; so
each copy has the months' rows in an order of its own, and departures and arrivals that differ by some minutes.
"""

from __future__ import annotations

from pathlib import Path

import zstandard

from deploy.demo import flights
from tests.bench.machine import BINARIES, MIB, as_user, run
from tests.bench.server import Session

COPY_BYTES = 41 << 20
"""Size of one copy of the table, its share of the index included."""


def enlarged(rows: int = 0) -> str:
    """A query for one copy; of a random sample when `rows` is given."""
    source = f"(select * from base order by random() limit {rows}) as base" if rows else "base"
    order = "random()" if rows else "month, random()"
    return (
        "select year, month, day, dep_time + (random() * 40)::int - 20, sched_dep_time, dep_delay, "
        "arr_time + (random() * 40)::int - 20, sched_arr_time, arr_delay, carrier, flight, tailnum, origin, dest, "
        f"air_time, distance, hour, minute, time_hour from {source} order by {order}"
    )


async def load(socket: Path, port: int, session: Session, size: int) -> None:
    """Fill the server with about so many bytes of tables and their index."""
    found = next(table for table in flights.load() if table.name == "flights")
    columns = ", ".join(f"{name} {kind}" for name, kind in found.columns)
    await session.ask(
        f"create table base ({columns}); create table flights ({columns}); create table written ({columns})"
    )
    psql = as_user(BINARIES / "psql", "-XAtq", "-h", socket, "-p", str(port), "-U", "postgres", "-d", "postgres")
    await run([*psql, "-c", "copy base from stdin csv header null 'NA'"], stdin=found.csv)
    for _ in range(max(1, size // COPY_BYTES)):
        await session.ask(f"insert into flights {enlarged()}")
    await session.ask("create index on flights (time_hour, carrier); create index on written (time_hour)")
    await session.ask("vacuum (freeze, analyze) flights; checkpoint")


def ratio(paths: list[Path], sample: int = 8) -> float:
    """How many times smaller zstd -1 makes files: of the first 64 MiB of each, at most `sample` of them."""
    plain = stored = 0
    step = max(1, len(paths) // sample)
    for path in paths[::step][:sample]:
        with path.open("rb") as file:
            data = file.read(64 * MIB)
        plain += len(data)
        stored += len(zstandard.ZstdCompressor(level=1).compress(data))
    return plain / stored
