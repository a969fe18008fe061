"""Base backups and restores, in turns on one and the same server.

Backup: ours is the agent's job from the request to its end (CLONE, one start of the copy, upload to the S3 server); the floor
is CLONE alone into a local folder; the peer is `mysqldump | zstd` of the user's schema into a local file.
Restore: ours brings the files from the S3 server into an empty folder, verified and synced; the floor is a plain copy of what
CLONE made, synced; the peer loads its dump into a server that runs already and flushes lazily.
All are told in bytes of our base backup, so the figures compare as times do.
"""

from __future__ import annotations

import shlex
import shutil
import time
from pathlib import Path

from tests.bench import data as compression
from tests.bench.machine import MIB, BenchError, as_user, folder, run, say, settle
from tests.bench.mysql.bench import Bench
from tests.bench.mysql.programs import client, command
from tests.bench.mysql.servers import checksums, open_for_writes, socket_of
from tests.bench.restoring import in_process

TABLES = ["app.flights"]
DUMP = ("--single-transaction", "--routines", "--events", "--triggers", "--set-gtid-purged=OFF", "--databases", "app")


async def measure(bench: Bench) -> None:
    """Measure backups, then restores of what they made."""
    ours = bench.ours
    clone = ours.data.parent / "floor"
    dump = (await folder(bench.folder / "dump")) / "dump.sql.zst"
    newest = await _backups(bench, clone, dump)
    await _restores(bench, clone, dump, newest)
    for path in (clone, dump.parent):
        shutil.rmtree(path)


async def _backups(bench: Bench, clone: Path, dump: Path) -> str:
    ours = bench.ours
    seconds: dict[str, list[float]] = {"floor": [], "ours": [], "peer": []}
    size = 0
    newest = ""
    for number in range(bench.sizes.rounds):
        await run(["rm", "-rf", str(clone)])
        await settle()
        began = time.monotonic()
        await ours.sql(f"CLONE LOCAL DATA DIRECTORY = '{clone}'")
        seconds["floor"].append(time.monotonic() - began)
        await settle()
        began = time.monotonic()
        done = await ours.backup()
        seconds["ours"].append(time.monotonic() - began)
        newest, size = done.id, done.bytes
        dump.unlink(missing_ok=True)
        await settle()
        began = time.monotonic()
        pipe = f"{shlex.join(command('mysqldump', ours.socket, *DUMP))} | zstd -q -1 -T2 -o {dump}"
        await run(as_user("bash", "-c", f"set -o pipefail; {pipe}"))
        seconds["peer"].append(time.monotonic() - began)
        bench.facts |= {
            "backup.bytes": done.bytes,
            "backup.stored": done.stored_bytes,
            "backup.compression": round(done.bytes / done.stored_bytes, 2),
            "backup.seconds": round(seconds["ours"][-1], 2),
            "backup.seconds.clone": round((done.end_time - done.begin_time).total_seconds(), 2),
            "dump.bytes": dump.stat().st_size,
        }
        _say(f"backup {number + 1}", seconds, size)
    _record(bench, "backup", seconds, size)
    return newest


async def _restores(bench: Bench, clone: Path, dump: Path, newest: str) -> None:
    seconds: dict[str, list[float]] = {"floor": [], "ours": [], "peer": []}
    size = int(str(bench.facts["backup.bytes"]))
    sums = await bench.ours.checksums(TABLES)
    for number in range(bench.sizes.rounds):
        target = await folder(bench.folder / "restored")
        await settle()
        began = time.monotonic()
        await run(["cp", "-a", "--reflink=never", f"{clone}/.", str(target)])
        await run(["sync", "--file-system", str(target)])
        seconds["floor"].append(time.monotonic() - began)
        target = await folder(bench.folder / "restored")
        await settle()
        done = await in_process("mysql", "9.7", bench.ours.bucket, newest, target)
        seconds["ours"].append(done["seconds"])
        bench.facts["data.compression"] = round(compression.ratio([target / "app/flights.ibd"]), 2)
        shutil.rmtree(target)
        seconds["peer"].append(await _load(bench, dump, sums))
        _say(f"restore {number + 1}", seconds, size)
    _record(bench, "restore", seconds, size)


async def _load(bench: Bench, dump: Path, sums: str) -> float:
    """Seconds in which a dump is loaded into a new server."""
    async with bench.servers.server(None) as made:
        await made.launch()
        await made.answers()
        await open_for_writes(made)
        await settle()
        pipe = f"zstd -q -dc {dump} | {shlex.join(client(socket_of(made)))}"
        began = time.monotonic()
        await run(["bash", "-c", f"set -o pipefail; {pipe}"], deadline=1800)
        seconds = time.monotonic() - began
        if await checksums(made, TABLES) != sums:
            raise BenchError("the dump holds other rows than the server")
        return seconds


def _say(what: str, seconds: dict[str, list[float]], size: int) -> None:
    speed = {name: size / MIB / values[-1] for name, values in seconds.items()}
    say(f"{what}: floor {speed['floor']:.0f}, ours {speed['ours']:.0f}, mysqldump {speed['peer']:.0f} MB/s")


def _record(bench: Bench, name: str, seconds: dict[str, list[float]], size: int) -> None:
    for part, values in seconds.items():
        bench.record(f"{name}.{part}", "MB/s", [size / MIB / one for one in values])
    bench.compare(f"{name}.ratio.floor", f"{name}.ours", f"{name}.floor")
    bench.compare(f"{name}.ratio.peer", f"{name}.ours", f"{name}.peer")
