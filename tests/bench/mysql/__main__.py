"""`make bench ENGINE=mysql`: all measures of MySQL in one run; `ARGS="--quick"` for a small one.

Everything happens on loopback and in folders that are removed. Ends with 0 when it could measure, met or not; results go
to docs/benchmarks/mysql/ by `--save`, to .cache/bench/mysql/ otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from deploy.lab.failure import LabError, LabUnavailable
from tests.bench import memory
from tests.bench.machine import MIB, BenchError, describe, missing, say
from tests.bench.mysql import blocking, copies, data, programs, replay, rpo
from tests.bench.mysql.bench import Bench, Sizes
from tests.bench.mysql.goals import SUBJECT
from tests.bench.mysql.ours import Ours
from tests.bench.mysql.servers import Servers
from tests.bench.report import report
from tests.bench.rig import make_bucket, rig, watched

MEASURES = ("agent", "replay", "copies", "blocked", "rpo")
PROGRAMS = {"zstd": "zstd", "taskset": "util-linux", "cc": "gcc libc6-dev", "openssl": "openssl"}


def arguments() -> argparse.Namespace:
    """What is to be measured, and how much of it."""
    parser = argparse.ArgumentParser(prog="make bench ENGINE=mysql ARGS=…", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, contestants in turns (3)")
    parser.add_argument("--transactions", type=int, default=120_000, help="small transactions to replay (120000)")
    parser.add_argument("--data", type=int, default=1024, metavar="MB", help="size of the tables (1024)")
    parser.add_argument("--seconds", type=float, default=40.0, help="seconds of write load (40)")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), help="measure only these")
    parser.add_argument("--quick", action="store_true", help="one tiny round: shows that it works, measures nothing")
    parser.add_argument("--save", action="store_true", help="write results and plots to docs/benchmarks/mysql/")
    parser.add_argument("--keep", action="store_true", help="keep the folder, to look for what went wrong")
    return parser.parse_args()


def sizes(asked: argparse.Namespace) -> Sizes:
    """The sizes of this run."""
    if asked.quick:
        return Sizes(rounds=1, transactions=8_000, data=64 * MIB, seconds=6)
    return Sizes(asked.rounds, asked.transactions, asked.data * MIB, asked.seconds)


async def measure(bench: Bench, only: list[str]) -> None:
    """Run the measures, each after what it needs."""
    ours = bench.ours
    await ours.start()
    bench.facts["mysql"] = await ours.sql("SELECT VERSION()")
    if "agent" in only:
        await memory.agent(bench, ours.pod, "memory.agent")
    if "replay" in only:
        await replay.measure(bench)
    if {"copies", "blocked", "rpo"} & set(only):
        say(f"loading {bench.sizes.data // MIB} MB of flights")
        await data.load(ours, bench.sizes.data)
    if "copies" in only:
        await copies.measure(bench)
    if "blocked" in only:
        await blocking.measure(bench)
    if "rpo" in only:
        await rpo.measure(bench)
    if "agent" in only:
        await memory.agent(bench, ours.pod, "memory.agent.after")


async def run(asked: argparse.Namespace) -> Bench:
    """Bring everything up, measure, and leave nothing behind."""
    ours: Ours | None = None
    try:
        async with rig(keep=asked.keep) as under:
            folder = await asyncio.to_thread(programs.bring, under.folder / "programs")
            ours = Ours(under.cluster, await make_bucket(under.store), folder)
            bench = Bench(sizes(asked), under.folder, ours, Servers(under.folder / "servers"))
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
