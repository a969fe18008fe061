"""`make bench`: all measures in one run; `ARGS="--quick"` for a small one that shows that everything works.

Everything happens on loopback and in folders that are removed. Ends with 0 when it could measure, met or not; results go
to docs/benchmarks/ by `--save`, to .cache/bench/ otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from deploy.lab.failure import LabError, LabUnavailable
from deploy.lab.ports import free_port
from deploy.lab.store import LocalStore
from tests.bench import archive, copies, data, memory, replay, rpo
from tests.bench.bench import Bench, Sizes
from tests.bench.figures import Series, short
from tests.bench.machine import MIB, BenchError, describe, missing, say
from tests.bench.ours import FakeCluster, Ours, make_bucket
from tests.bench.peer import Peer
from tests.bench.verdict import Row, markdown, rows, table

ROOT = Path(__file__).parents[2]
MEASURES = ("agent", "copies", "archive", "replay", "rpo", "operator")


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
        await memory.agent(bench, "memory.agent")
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
        await memory.agent(bench, "memory.agent.after")


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
    """Bring both contestants up, measure, and leave nothing behind, also when told to stop."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    folder = Path(tempfile.mkdtemp(prefix="yoban-bench-", dir="/tmp"))
    folder.chmod(0o755)
    cluster = FakeCluster()
    await cluster.start()
    ours: Ours | None = None
    try:
        with LocalStore(tls=True) as store:
            peer = Peer(folder / "peer", store, await make_bucket(store))
            ours = Ours(cluster, await make_bucket(store), sizes(asked).segments)
            bench = Bench(sizes(asked), folder, ours, peer)
            bench.facts["pgbackrest"] = await peer.prepare()
            try:
                await measure(bench, asked.only)
            except (BenchError, AssertionError) as error:
                # What was measured until then is worth having.
                bench.facts["ended"] = f"{error!r}"[:400]
                print(f"--- log of the instance\n{ours.pod.problems()}", file=sys.stderr)
            except BaseException:
                if ours.pod.log.exists():
                    print(f"--- log of the instance\n{ours.pod.problems()}", file=sys.stderr)
                raise
            finally:
                await asyncio.to_thread(ours.pod.kill)
        return bench
    finally:
        if ours is not None and not asked.keep:
            await asyncio.to_thread(ours.world.close)
        await cluster.stop()
        if asked.keep:
            say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def report(bench: Bench, asked: argparse.Namespace, machine: dict[str, object]) -> None:
    """Print the tables; write JSON, plots and, to be kept, the page with them."""
    judged = rows(bench.found)
    tables = _tables(bench, judged)
    print("\n" + "\n\n".join(tables))
    if asked.quick:
        print("This was a smoke run: its figures mean nothing.")
    where = ROOT / "docs/benchmarks" if asked.save else ROOT / ".cache/bench"
    where.mkdir(parents=True, exist_ok=True)
    document = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "sizes": dataclasses.asdict(bench.sizes),
        "facts": bench.facts,
        "verdicts": {row.goal.measure: {"goal": str(row.goal), "verdict": row.verdict} for row in judged},
        "series": {name: _document(found) for name, found in bench.found.items()},
    }
    (where / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    from tests.bench import plots

    files = plots.draw(where, judged, bench.found)
    if asked.save:
        page = where / "results.md"
        page.write_text(_page(machine, tables, [file.name for file in files]))
        files.append(page)
    print("Written: " + ", ".join(os.path.relpath(file, ROOT) for file in [where / "results.json", *files]))


def _tables(bench: Bench, judged: list[Row]) -> list[str]:
    """Goals, all series, facts, and where it falls short."""
    shown = [(name, str(found)) for name, found in bench.found.items() if name not in ("hit", "rpo")]
    shorts = [f"{row.goal.what}: {row.found}, goal {row.goal}" for row in judged if row.verdict.startswith("SHORT")]
    return [
        table(judged),
        f"Falls short: {'; '.join(shorts) or 'nowhere'}",
        markdown([("What", "Median (min-max)"), *shown]),
        markdown([("Fact", ""), *((name, _text(value)) for name, value in bench.facts.items())]),
    ]


def _page(machine: dict[str, object], tables: list[str], plots: list[str]) -> str:
    """The page docs/benchmarks/results.md."""
    about = ", ".join(f"{name.removesuffix('_gb').replace('_', ' ')} {_text(value)}" for name, value in machine.items())
    lines = [
        "# Results of a run",
        "",
        f"Written by `make bench ARGS=--save` on {datetime.now(UTC):%Y-%m-%d}; [the method](../benchmarks.md) says how each",
        "figure comes about, [results.json](results.json) has all of them.",
        "",
        f"The machine: {about}.",
        "",
        "\n\n".join(tables),
        "",
        *(f"![{Path(name).stem}]({name})\n" for name in plots),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _document(found: Series) -> dict[str, object]:
    document = found.document()
    if len(found.values) > 50:
        shares = (0.5, 0.9, 0.95, 0.99, 1.0)
        document["values"] = {f"p{share * 100:g}": round(found.percentile(share), 4) for share in shares}
        document["count"] = len(found.values)
    return document


def _text(value: object) -> str:
    return short(value) if isinstance(value, float) else str(value)


def main() -> int:
    """Measure and report. Returns the exit code."""
    asked = arguments()
    if lacking := missing():
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
    report(bench, asked, machine)
    return 1 if "ended" in bench.facts else 0


if __name__ == "__main__":
    sys.exit(main())
