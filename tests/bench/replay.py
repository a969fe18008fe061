"""Replay of the log on a restored base backup: our prefetch, the peer's asynchronous get, and the floor.

The floor is a folder with all segments and a restore command that makes a hard link. All three servers have the same
settings, are standbys that nobody promotes, and are timed by their own logs: from the restored segment that all of them
need to the last one. So start-up and what comes after the last whole segment is on nobody's account.
"""

from __future__ import annotations

import asyncio
import re
from datetime import datetime
from pathlib import Path

from tests.bench.bench import Bench
from tests.bench.copies import restore_ours
from tests.bench.machine import folder, run, say, settle
from tests.bench.ours import settings
from tests.bench.rig import FakeCluster, until
from tests.bench.server import PlainServer

DEADLINE = 240.0
RESTORED = re.compile(r'^(\S+ \S+) .*restored log file "([0-9A-F]{24})"', re.MULTILINE)


async def measure(bench: Bench, names: list[str], port: int) -> None:
    """Measure all three in turns."""
    both, last = str(bench.facts["log.both"]), names[-1]
    first = next(name for name in names if name > both)
    floor: list[float] = []
    ours: list[float] = []
    peers: list[float] = []
    for number in range(bench.sizes.rounds):
        floor.append(await _floor(bench, first, last, port))
        ours.append(await _ours(bench, first, last))
        peers.append(await _peers(bench, first, last, port))
        say(f"replay {number + 1}: floor {floor[-1]:.2f}, ours {ours[-1]:.2f}, pgBackRest {peers[-1]:.2f} s")
    bench.record("replay.floor", "s", floor)
    bench.record("replay.ours", "s", ours)
    bench.record("replay.peer", "s", peers)
    bench.compare("replay.ratio", "replay.ours", "replay.floor")
    bench.compare("replay.peer.ratio", "replay.peer", "replay.floor")


async def _floor(bench: Bench, first: str, last: str, port: int) -> float:
    target = await folder(bench.folder / "restored")
    await restore_ours(bench, target)
    return await _plain(bench, target, f"ln {bench.folder}/segments/%f %p", first, last, port)


async def _peers(bench: Bench, first: str, last: str, port: int) -> float:
    target = await folder(bench.folder / "theirs")
    await bench.peer.restore(target)
    (target / "postgresql.auto.conf").write_text("")
    await bench.peer.forget_spool()
    command = " ".join([*bench.peer.command("archive-get", target), "%f", "%p"])
    return await _plain(bench, target, command, first, last, port)


async def _plain(bench: Bench, target: Path, command: str, first: str, last: str, port: int) -> float:
    server = PlainServer(
        target,
        settings(bench.sizes.segments)
        | {
            "restore_command": command,
            "wal_retrieve_retry_interval": "200ms",
            "track_commit_timestamp": "on",
            "wal_log_hints": "on",
        },
        port,
    )
    server.log.unlink(missing_ok=True)
    await settle()
    await server.start(signal="standby.signal")
    try:
        return await _between(server.log, first, last)
    finally:
        await server.stop()
        await run(["rm", "-rf", str(target)])


async def _ours(bench: Bench, first: str, last: str) -> float:
    cluster = FakeCluster()
    await cluster.start()
    copy = bench.ours.copy(cluster)
    try:
        pod = copy.pod()
        await settle()
        pod.start()
        return await _between(pod.root / "run/yoban/recovery.log", first, last)
    finally:
        await asyncio.to_thread(copy.close)
        await cluster.stop()


async def _between(log: Path, first: str, last: str) -> float:
    """Seconds from one segment's arrival to another's, by the server's log."""

    def both() -> float | None:
        at = {name: moment for moment, name in RESTORED.findall(log.read_text())}
        return _seconds(at[first], at[last]) if first in at and last in at else None

    return float(await until(f"{last} is replayed (see {log})", both, DEADLINE))


def _seconds(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
