"""Full backups and restores, ours and the peer's in turns, of one and the same running server.

Ours: the agent's backup job as the operator asks for it, to its end (the log it needs proven stored included). Restores
put the base backup's files in place, verified and synced; replay is `tests.bench.replay`.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.machine import MIB, folder, say, settle
from tests.bench.restoring import in_process


async def backups(bench: Bench) -> None:
    """Measure full backups: MB (2^20 bytes) of plain data a second."""
    ours, peer = bench.ours, bench.peer
    pod = ours.pod
    await peer.create(pod.data, ours.socket, ours.port)
    speed: list[float] = []
    other: list[float] = []
    for number in range(bench.sizes.rounds):
        async with ours.session() as session:
            first = await session.ask("select pg_walfile_name(pg_current_wal_lsn())")
        await settle()
        began = time.monotonic()
        name, plain, stored = await ours.backup()
        speed.append(plain / MIB / (time.monotonic() - began))
        await settle()
        began = time.monotonic()
        await peer.backup(pod.data, ours.socket, ours.port)
        seconds = time.monotonic() - began
        their_plain, their_stored, later = await peer.info()
        other.append(their_plain / MIB / seconds)
        bench.facts |= {
            "backup": name,
            "backup.bytes": plain,
            "backup.compression": round(plain / stored, 2),
            "log.first": first,
            "log.both": later,
            "peer.backup.bytes": their_plain,
            "peer.backup.compression": round(their_plain / their_stored, 2),
        }
        say(f"backup {number + 1}: ours {speed[-1]:.0f} MB/s, pgBackRest {other[-1]:.0f} MB/s")
    bench.record("backup.ours", "MB/s", speed)
    bench.record("backup.peer", "MB/s", other)
    bench.compare("backup.ratio", "backup.ours", "backup.peer")


async def restores(bench: Bench) -> None:
    """Measure restores into an empty folder; the last one of each is kept for replay."""
    speed: list[float] = []
    other: list[float] = []
    for number in range(bench.sizes.rounds):
        target = await folder(bench.folder / "restored")
        await settle()
        done = await restore_ours(bench, target)
        speed.append(done["bytes"] / MIB / done["seconds"])
        theirs = await folder(bench.folder / "theirs")
        await settle()
        began = time.monotonic()
        await bench.peer.restore(theirs)
        other.append(float(str(bench.facts["peer.backup.bytes"])) / MIB / (time.monotonic() - began))
        say(f"restore {number + 1}: ours {speed[-1]:.0f} MB/s, pgBackRest {other[-1]:.0f} MB/s")
    shutil.rmtree(bench.folder / "restored")
    shutil.rmtree(bench.folder / "theirs")
    bench.record("restore.ours", "MB/s", speed)
    bench.record("restore.peer", "MB/s", other)
    bench.compare("restore.ratio", "restore.ours", "restore.peer")


async def restore_ours(bench: Bench, target: Path) -> dict[str, float]:
    """Restore our newest backup; return bytes and seconds."""
    return await in_process("postgres", "15", bench.ours.bucket, str(bench.facts["backup"]), target)
