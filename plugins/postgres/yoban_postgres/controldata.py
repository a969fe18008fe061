"""What `pg_controldata` says of a data directory.

Guarantees the state as of one read of the control file. While the server runs it may be a moment old.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass

from yoban.errors import IntegrityError, Unavailable
from yoban.plugins import InstanceContext

from yoban_postgres.binaries import program
from yoban_postgres.lsn import parse_lsn

DEADLINE = 20.0
_PAUSES = (0.05, 0.2)
_DAMAGE = re.compile(r"(?:CRC|byte ordering|invalid WAL segment size).*")

_SETTINGS = {
    "max_connections setting": "max_connections",
    "max_worker_processes setting": "max_worker_processes",
    "max_wal_senders setting": "max_wal_senders",
    "max_prepared_xacts setting": "max_prepared_transactions",
    "max_locks_per_xact setting": "max_locks_per_transaction",
}


@dataclass(frozen=True, slots=True)
class ControlData:
    """The parts we use.

    Attributes:
        system_id: the cluster's own id.
        state: as printed, such as `shut down` or `in production`.
        checkpoint: where the latest checkpoint record begins.
        redo: where replay from it begins.
        line: timeline of that checkpoint.
        minimum: replay must go at least this far before the data is consistent; 0 when it is.
        minimum_line: timeline of that place, 0 when there is none.
        segment_bytes: size of a log segment.
        checksums: whether pages carry checksums.
        settings: what the log was written with, by setting name.
    """

    system_id: str
    state: str
    checkpoint: int
    redo: int
    line: int
    minimum: int
    minimum_line: int
    segment_bytes: int
    checksums: bool
    settings: Mapping[str, int]

    @property
    def clean(self) -> bool:
        """Whether the server was stopped cleanly."""
        return self.state in ("shut down", "shut down in recovery")


def parse(text: str) -> ControlData:
    """Understand the program's output (locale C). Raises KeyError or ValueError for something else."""
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    return ControlData(
        system_id=found["Database system identifier"],
        state=found["Database cluster state"],
        checkpoint=parse_lsn(found["Latest checkpoint location"]),
        redo=parse_lsn(found["Latest checkpoint's REDO location"]),
        line=int(found["Latest checkpoint's TimeLineID"]),
        minimum=parse_lsn(found["Minimum recovery ending location"]),
        minimum_line=int(found["Min recovery ending loc's timeline"]),
        segment_bytes=int(found["Bytes per WAL segment"]),
        checksums=found["Data page checksum version"] != "0",
        settings={name: int(found[key]) for key, name in _SETTINGS.items() if key in found},
    )


async def read(ctx: InstanceContext) -> ControlData:
    """Read the control file of `ctx.data`.

    Raises:
        IntegrityError: it is damaged or missing.
        Unavailable: the program failed for another reason.
    """
    for pause in (*_PAUSES, None):
        done = await ctx.processes.run(
            [program(ctx, "pg_controldata"), "-D", str(ctx.data)], deadline=DEADLINE, env={"LC_ALL": "C", "LANG": "C"}
        )
        text = done.stdout.decode(errors="replace")
        words = done.stderr.decode(errors="replace").strip()
        # Said on one stream or the other, by version. A running server may be writing the file just now.
        if not (damage := _DAMAGE.search(f"{text}\n{words}")):
            break
        if pause is None:
            raise IntegrityError(
                "the control file is damaged", object=str(ctx.data / "global/pg_control"), cause=damage[0]
            )
        await asyncio.sleep(pause)
    try:
        return parse(text)
    except (KeyError, ValueError) as error:
        if (ctx.data / "global" / "pg_control").exists():
            raise Unavailable("the control file cannot be read", object=ctx.name, cause=words or str(error)) from error
        raise IntegrityError("there is no control file", object=str(ctx.data), cause=words) from error
