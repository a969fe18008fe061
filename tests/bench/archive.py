"""The log's way to the store: a backlog of segments made beforehand, and the command on a look-ahead hit.

The segments are written once by our server and copied, with all of its data, into the peer's, so both store the very same
files. Archiving is paused by marking them as done; they are released by marking all of them as ready at once, which the
server's archiver and both look-aheads go by.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tests.bench import data
from tests.bench.bench import Bench
from tests.bench.machine import SEGMENT, BenchError, as_user, build, own, run, say, settle
from tests.bench.ours import settings
from tests.bench.rig import until
from tests.bench.server import PlainServer, Session

DEADLINE = 240.0
WARM = 20
"""Commands that are run before those that are timed."""
PEERS = 15
"""Commands of the peer's that are timed in each round."""


async def write(bench: Bench) -> list[str]:
    """Have our server write the segments; return the names of those that the newest backups need and all after."""
    ours = bench.ours
    async with ours.session() as session:
        first, both = str(bench.facts["log.first"]), str(bench.facts["log.both"])
        began = time.monotonic()
        while True:
            here = await session.ask("select pg_walfile_name(pg_current_wal_lsn())")
            if _number(here) - _number(both) > bench.sizes.segments:
                break
            await session.ask(f"insert into written {data.enlarged()}")
        await session.ask("select pg_switch_wal()")
        say(f"wrote {bench.sizes.segments} segments in {time.monotonic() - began:.1f} s")
    status = ours.pod.data / "pg_wal/archive_status"
    await until("all is stored", lambda: not list(status.glob("*.ready")), 120)
    if await ours.pod.stop() != 0:
        raise BenchError("the server was not stopped cleanly")
    names = sorted(path.name for path in (ours.pod.data / "pg_wal").iterdir() if len(path.name) == 24)
    names = [name for name in names if first <= name and (status / f"{name}.done").exists()]
    # The last ones were ended early, by the switch and by the stop.
    names = [name for name in names if _number(name) <= _number(both) + bench.sizes.segments]
    kept = bench.folder / "segments"
    kept.mkdir()
    for name in names:
        await asyncio.to_thread(shutil.copyfile, ours.pod.data / "pg_wal" / name, kept / name)
    await own(kept)
    whole = [kept / name for name in names if name > str(bench.facts["log.both"])]
    bench.facts["log.compression"] = round(await asyncio.to_thread(data.ratio, whole), 2)
    say(f"{len(names)} segments, compression ratio {bench.facts['log.compression']}")
    return names


@contextlib.asynccontextmanager
async def peers_server(bench: Bench, port: int) -> AsyncIterator[PlainServer]:
    """The peer's server: a copy of ours, which is stopped, archiving with pgBackRest."""
    copy = bench.folder / "peer" / "data"
    await run(["cp", "-a", str(bench.ours.pod.data), str(copy)])
    (copy / "postgresql.auto.conf").write_text("")
    words = [*bench.peer.command("archive-push", copy), "%p"]
    server = PlainServer(
        copy,
        settings(bench.sizes.segments) | {"archive_mode": "always", "archive_command": " ".join(words)},
        port,
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop("fast")


async def throughput(bench: Bench, names: list[str], server: PlainServer) -> None:
    """Measure how many segments a second are stored when all are released at once."""
    ours, peer = bench.ours, bench.peer
    speed: list[float] = []
    other: list[float] = []
    async with ours.session() as session, server.session() as theirs:
        # The first ones were ended early, by the ends of backups, and are mostly empty: no measure of anything.
        await release(server.data, [name for name in names if name <= str(bench.facts["log.both"])], theirs)
        names = [name for name in names if name > str(bench.facts["log.both"])]
        for number in range(bench.sizes.rounds):
            await ours.forget_log(names)
            await ours.new_agent()
            await settle()
            speed.append(len(names) / await release(ours.pod.data, names, session))
            # What it has stored is the same again: the peer would only compare it.
            await peer.forget_log(names)
            await peer.forget_spool()
            await settle()
            other.append(len(names) / await release(server.data, names, theirs))
            say(f"archive {number + 1}: ours {speed[-1]:.1f}, pgBackRest {other[-1]:.1f} segments a second")
    bench.record("archive.ours", "segments/s", speed)
    bench.record("archive.peer", "segments/s", other)
    bench.compare("archive.ratio", "archive.ours", "archive.peer")


async def release(server: Path, names: list[str], session: Session) -> float:
    """Have a server archive segments, and return the seconds until it has been told yes for all of them."""
    status = server / "pg_wal/archive_status"
    # Whatever is under way ends first.
    await until("nothing waits", lambda: not list(status.glob("*.ready")), 60)
    began = time.monotonic()
    for name in names:
        (status / f"{name}.done").rename(status / f"{name}.ready")
    # A segment that ends wakes the archiver, which would look once a minute otherwise.
    await session.ask("select pg_logical_emit_message(false, 'bench', 'x'); select pg_switch_wal()")
    while sum(1 for name in names if (status / f"{name}.done").exists()) < len(names):
        if time.monotonic() - began > DEADLINE:
            raise BenchError("segments are not archived in time")
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def hits(bench: Bench, names: list[str], server: PlainServer) -> None:
    """Time the archive command for segments that are stored already, as the archiver runs it: through a shell."""
    timer = await build(Path(__file__).with_name("timer.c"), bench.folder / "timer")
    ours, peer = bench.ours, bench.peer
    count = bench.sizes.commands
    async with ours.session() as session:
        command = await session.ask("show archive_command")
    sample = names[-1]
    mine: list[float] = []
    for _ in range(bench.sizes.rounds):
        mine += await _time(timer, ours.pod.data, count, _filled(command, sample))
        words = " ".join([*peer.command("archive-push", server.data), "%p"])
        theirs: list[float] = []
        for name in names[-PEERS:]:
            # Its note goes with the first yes, so each command is for another segment; a helper of an earlier command
            # that was still about may have taken the note away, and the command then fails.
            await peer.pretend_stored([name])
            try:
                theirs += await _time(timer, server.data, 1, _filled(words, name), warm=0)
            except BenchError as error:
                say(f"a command of the peer's is left out: {str(error)[-80:]!r}")
                await peer.forget_spool()
        floor = await _time(timer, server.data, max(5, count // 10), "exit 0")
        bench.facts["hit.floor.ms"] = round(sorted(floor)[len(floor) // 2], 2)
        if theirs:
            bench.facts["hit.peer.ms"] = round(sorted(theirs)[len(theirs) // 2], 2)
    found = bench.record("hit", "ms", mine)
    bench.record("hit.p50", "ms", [found.percentile(0.5)])
    bench.record("hit.p99", "ms", [found.percentile(0.99)])
    say(f"look-ahead hit: p50 {found.percentile(0.5):.2f}, p99 {found.percentile(0.99):.2f} ms")


async def _time(timer: Path, where: Path, count: int, command: str, warm: int = WARM) -> list[float]:
    words = as_user("sh", "-c", 'cd "$1" && exec "$2" "$3" "$4"', "sh", where, timer, str(count + warm), command)
    return [float(line) / 1000 for line in (await run(words)).split()][warm:]


def _filled(command: str, name: str) -> str:
    return command.replace("%f", name).replace("%p", f"pg_wal/{name}")


def _number(name: str) -> int:
    """The number of a 16 MiB segment among all."""
    return int(name[8:16], 16) * (0x100000000 // SEGMENT) + int(name[16:], 16)
