"""Timeline histories: where lines of the log left each other, in the server's own files.

Guarantees to read and write the server's form (`parent<TAB>switch LSN<TAB>reason` a line) and nothing else of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from yoban.errors import NotReady
from yoban.plugins import Fork, InstanceContext

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


async def current(connection: asyncpg.Connection[asyncpg.Record], ctx: InstanceContext) -> tuple[str, str, int]:
    """Return line, its parent ("" for the first) and fork of a running primary.

    Raises:
        NotReady: its history is not written yet.
    """
    line = await connection.fetchval("select substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)")
    if line == line_name(1):
        return line, "", parse_lsn(await connection.fetchval("select pg_current_wal_flush_lsn()::text"))
    try:
        text = await asyncio.to_thread((ctx.data / "pg_wal" / f"{line}.history").read_text)
    except FileNotFoundError as error:
        raise NotReady("the history of the new line is not written yet", object=f"line {line}") from error
    forks = parse(text, line)
    if not forks:
        raise NotReady("the history of the new line is empty", object=f"line {line}")
    return line, forks[-1].parent, parse_lsn(forks[-1].position.partition(":")[2])
