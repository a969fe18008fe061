"""Timeline histories: where lines of the log left each other, in the server's own files.

Guarantees to read and write the server's form (`parent<TAB>switch LSN<TAB>reason` a line) and nothing else of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from yoban.errors import NotReady
from yoban.plugins import Fork, InstanceContext, Promotion

from yoban_postgres.lsn import format_lsn, parse_lsn
from yoban_postgres.positions import line_name, make, split

if TYPE_CHECKING:
    import asyncpg


def parse(text: str, line: str) -> list[Fork]:
    """Return the forks that lead to `line`, oldest first. Raises ValueError for malformed text."""
    steps: list[tuple[str, int]] = []
    for row in text.splitlines():
        fields = row.split("#")[0].split()
        if not fields:
            continue
        steps.append((line_name(int(fields[0])), parse_lsn(fields[1])))
    children = [name for name, _ in steps[1:]] + [line]
    return [Fork(child, parent, make(parent, at)) for (parent, at), child in zip(steps, children, strict=False)]


def text(forks: Sequence[Fork]) -> str:
    """Return the file of the line that `forks` lead to, oldest first."""
    rows = [(int(fork.parent, 16), format_lsn(split(fork.position)[1])) for fork in forks]
    return "".join(f"{parent}\t{place}\tas the archive tells\n" for parent, place in rows)


async def current(connection: asyncpg.Connection[asyncpg.Record], ctx: InstanceContext) -> Promotion:
    """Return what led to the line of a running primary. The first line has no parent, and all of it up to now for a fork.

    Raises:
        NotReady: its history is not written yet.
    """
    line = await connection.fetchval("select substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)")
    if line == line_name(1):
        flushed = await connection.fetchval("select pg_current_wal_flush_lsn()::text")
        return Promotion(line, "", make(line, parse_lsn(flushed)))
    try:
        text = await asyncio.to_thread((ctx.data / "pg_wal" / f"{line}.history").read_text)
    except FileNotFoundError as error:
        raise NotReady("the history of the new line is not written yet", object=f"line {line}") from error
    forks = parse(text, line)
    if not forks:
        raise NotReady("the history of the new line is empty", object=f"line {line}")
    *ancestors, left = forks
    return Promotion(line, left.parent, left.position, tuple(ancestors))
