"""RPO: one session writes flights as fast as it can, another commits small transactions, which are followed to the store."""

from __future__ import annotations

import random

from tests.bench.mysql import data
from tests.bench.mysql.bench import Bench
from tests.bench.rpo import follow

ROWS = 5000
"""Rows of one transaction of the load."""
_WRITTEN = (
    "SELECT SUM_NUMBER_OF_BYTES_WRITE FROM performance_schema.file_summary_by_event_name"
    " WHERE EVENT_NAME = 'wait/io/file/sql/binlog'"
)


async def measure(bench: Bench) -> None:
    """Measure, and wait until all is stored."""
    ours = bench.ours
    rows = int(await ours.sql("SELECT COUNT(*) FROM app.base"))
    chance = random.Random(4)

    async def written() -> int:
        return int(await ours.sql(_WRITTEN))

    async with await ours.session() as writer, await ours.session() as committer:

        async def write() -> None:
            first = chance.randrange(rows - ROWS)
            await writer.execute(f"INSERT INTO written {data.enlarged(f'id BETWEEN {first} AND {first + ROWS}')}")

        await follow(
            bench,
            ours.bucket,
            bench.sizes.seconds,
            write=write,
            commit=lambda: committer.execute("INSERT INTO stamps (writer) VALUES (0)"),
            written=written,
        )
    await ours.stored()
