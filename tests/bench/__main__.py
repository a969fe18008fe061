"""`make bench`: all measures in one run; `ARGS="--quick"` for a small one that shows that everything works.

Everything happens on loopback and in folders that are removed. Ends with 0 when it could measure, met or not; results go
to docs/benchmarks/ by `--save`, to .cache/bench/ otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time

from deploy.lab.failure import LabError, LabUnavailable
from deploy.lab.ports import free_port
from tests.bench import archive, copies, data, memory, replay, rpo
from tests.bench.bench import Bench, Sizes
from tests.bench.machine import BINARIES, MIB, BenchError, describe, missing, say
from tests.bench.ours import Ours
from tests.bench.peer import Peer
from tests.bench.report import Subject, report
from tests.bench.rig import make_bucket, rig, watched
from tests.bench.verdict import GOALS

PROGRAMS = {"pgbackrest": "pgbackrest", "cc": "gcc libc6-dev", str(BINARIES / "postgres"): "postgresql-15"}
MEASURES = ("agent", "copies", "archive", "replay", "rpo", "operator")
SUBJECT = Subject(
    command="make bench ARGS=--save",
    title="Results of a run",
    entry="",
    folder="",
    goals=GOALS,
    pairs=("archive", "backup", "restore", "replay"),
    labels={"floor": "floor", "ours": "ours", "peer": "pgBackRest"},
    latencies={"hit": "archive command, look-ahead hit", "rpo": "commit to covered in the store"},
)


def arguments() -> argparse.Namespace:
    """What is to be measured, and how much of it."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, contestants in turns (3)")
    parser.add_argument("--data", type=int, default=1024, metavar="MB", help="size of the tables (1024)")
    parser.add_argument("--segments", type=int, default=60, help="segments of the log, 16 MiB each (60)")
    parser.add_argument("--commands", type=int, default=400, help="archive commands timed in each round (400)")
    parser.add_argument("--seconds", type=float, default=40.0, help="seconds of write load (40)")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), help="measure only these")
    parser.add_argument("--quick", action="store_true", help="one tiny round: shows that it works, measures nothing")
    parser.add_argument("--save", action="store_true", help="write results and plots to docs/benchmarks/")
    parser.add_argument("--keep", action="store_true", help="keep the folder, to look for what went wrong")
    return parser.parse_args()


def sizes(asked: argparse.Namespace) -> Sizes:
    """The sizes of this run."""
    if asked.quick:
        return Sizes(rounds=1, data=64 * MIB, segments=6, commands=30, seconds=6)
    return Sizes(asked.rounds, asked.data * MIB, asked.segments, asked.commands, asked.seconds)


async def measure(bench: Bench, only: list[str]) -> None:
    """Run the measures, each after what it needs."""
    ours = bench.ours
    if "operator" in only:
        await asyncio.to_thread(memory.operator, bench)
    if only == ["operator"]:
        return
    await ours.start()
    if "agent" in only:
        await memory.agent(bench, ours.pod, "memory.agent")
    say(f"loading {bench.sizes.data // MIB} MB of flights")
    async with ours.session() as session:
        await data.load(ours.socket, ours.port, session, bench.sizes.data)
        table_file = ours.pod.data / await session.ask("select pg_relation_filepath('flights')")
        bench.facts["data.compression"] = round(data.ratio([table_file]), 2)
        say(f"compression ratio of the tables {bench.facts['data.compression']}")
    if {"copies", "archive", "replay"} & set(only):
        await copies.backups(bench)
    if "copies" in only:
        await copies.restores(bench)
    if {"archive", "replay"} & set(only):
        await archives(bench, only)
    if "rpo" in only:
        await rpo.measure(bench)
    if "agent" in only:
        await memory.agent(bench, ours.pod, "memory.agent.after")


async def archives(bench: Bench, only: list[str]) -> None:
    """Archive and replay; the agent's instance is stopped in the latter, for all contestants."""
    ours = bench.ours
    names = await archive.write(bench)
    async with archive.peers_server(bench, free_port()) as server:
        await ours.start()
        await archive.throughput(bench, names, server)
        await archive.hits(bench, names, server)
        await ours.pod.stop()
    shutil.rmtree(server.data)
    if "replay" in only:
        await replay.measure(bench, names, free_port())
    await ours.start()


async def run(asked: argparse.Namespace) -> Bench:
    """Bring both contestants up, measure, and leave nothing behind."""
    ours: Ours | None = None
    try:
        async with rig(keep=asked.keep) as under:
            peer = Peer(under.folder / "peer", under.store, await make_bucket(under.store))
            ours = Ours(under.cluster, await make_bucket(under.store), sizes(asked).segments)
            bench = Bench(sizes(asked), under.folder, ours, peer)
            bench.facts["pgbackrest"] = await peer.prepare()
            async with watched(bench, ours.pod):
                await measure(bench, asked.only)
        return bench
    finally:
        if ours is not None and not asked.keep:
            await asyncio.to_thread(ours.world.close)


def main() -> int:
    """Measure and report. Returns the exit code."""
    asked = arguments()
    if lacking := missing(PROGRAMS):
        print(f"missing: {', '.join(lacking)} (make bench installs them when it runs as root)", file=sys.stderr)
        return 2
    machine = describe()
    began = time.monotonic()
    try:
        bench = asyncio.run(run(asked))
    except (BenchError, LabError, LabUnavailable, AssertionError, asyncio.CancelledError) as error:
        print(f"the bench cannot go on: {error!r}", file=sys.stderr)
        return 1
    bench.facts["seconds"] = round(time.monotonic() - began)
    report(bench, SUBJECT, bench.sizes, machine, save=asked.save, quick=asked.quick)
    return 1 if "ended" in bench.facts else 0


if __name__ == "__main__":
    sys.exit(main())
