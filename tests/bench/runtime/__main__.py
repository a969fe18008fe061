"""`make bench-runtime`: yoban.runtime beside kopf and client-go; `ARGS="--quick"` shows that everything works.

Everything happens on loopback and in folders that are removed. Ends with 0 when all could be measured, met or not; results go
to docs/benchmarks/runtime/ by `--save`, to .cache/bench-runtime/ otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from deploy.lab.failure import LabError, LabUnavailable
from tests.bench.figures import short
from tests.bench.machine import BenchError, describe, say
from tests.bench.runtime import breaking, phases, profiling
from tests.bench.runtime.contestants import Contestant, prepare, versions
from tests.bench.runtime.goals import judge
from tests.bench.runtime.phases import SHARED, Bench, Sizes, turns
from tests.bench.runtime.results import ALONE, CLIENT_GO, CLIENT_GO_APPLY, KOPF, OURS, Results
from tests.bench.runtime.world import World
from tests.bench.verdict import Row, markdown, table

ROOT = Path(__file__).parents[3]
MEASURES = ("create", "cache", "faults", "idle")
WARM_UP = 50
LARGE = 2000
QUICK = Sizes({50: 1, 150: 1}, 150, 3.0, 30, 30, 500, 1, 50, 20, 2.0, 5.0, 60.0)


def arguments() -> argparse.Namespace:
    """What is to be measured, and how much of it."""
    parser = argparse.ArgumentParser(prog="make bench-runtime ARGS=…", description=__doc__)
    parser.add_argument("--cards", type=int, nargs="+", default=[200, 1000, 5000], help="sizes (200 1000 5000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the sizes below 2000 (5)")
    parser.add_argument("--large-rounds", type=int, default=2, help="rounds of the larger sizes (2)")
    parser.add_argument("--fault-rounds", type=int, default=2, help="rounds of faults (2)")
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds of steady changes in a round (8)")
    parser.add_argument("--idle", type=float, default=10.0, help="idle minutes (10)")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), help="measure only these")
    names = (OURS, KOPF, CLIENT_GO, CLIENT_GO_APPLY)
    parser.add_argument("--contestants", nargs="+", choices=names, default=list(names), help="who takes part")
    parser.add_argument(
        "--profile", action="store_true", help="no comparison: flame graphs of ours, floors of each layer"
    )
    parser.add_argument("--quick", action="store_true", help="one tiny round: shows that it works, measures nothing")
    parser.add_argument("--save", action="store_true", help="write results and plots to docs/benchmarks/runtime/")
    return parser.parse_args()


def sizes(asked: argparse.Namespace) -> Sizes:
    """The sizes of this run."""
    if asked.quick:
        return QUICK
    rounds = {cards: asked.rounds if cards < LARGE else asked.large_rounds for cards in sorted(asked.cards)}
    steady_at = max((cards for cards in rounds if cards < LARGE), default=0)
    return Sizes(
        rounds,
        steady_at,
        min(asked.seconds, steady_at * phases.EVERY),
        fault_rounds=asked.fault_rounds,
        idle=asked.idle * 60,
    )


async def measure(bench: Bench, contestants: list[Contestant], only: list[str]) -> None:
    """Run the measures, contestants in turns within each round, after a round that does not count: servers start cold."""
    # What differs by the kind of requests only takes part where everything is measured.
    apart = [one for one in contestants if one.name != CLIENT_GO_APPLY]
    for contestant in contestants:
        cold = Bench(bench.world, dataclasses.replace(bench.sizes, steady_at=0), Results(), {})
        await phases.run(cold, contestant, WARM_UP, 0)
        bench.results.failures += cold.results.failures
    if "create" in only:
        for cards, rounds in bench.sizes.rounds.items():
            await phases.alone(bench, cards)
            for number in range(rounds):
                taking = contestants if cards == bench.sizes.steady_at else apart
                if cards >= LARGE and number > 0:
                    # Two minutes each: idle minutes and rounds of faults tell more. Ratios to it have one round then.
                    taking = [one for one in taking if one.name != KOPF]
                for contestant in turns(taking, number):
                    await phases.run(bench, contestant, cards, number)
    if "cache" in only:
        await phases.cache(bench, apart)
    if "faults" in only:
        await breaking.rounds(bench, apart)
    if "idle" in only:
        await breaking.idle(bench, apart)


async def run(bench: Bench, contestants: list[Contestant], only: list[str]) -> None:
    """Measure; also when told to stop, nothing is left behind."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await measure(bench, contestants, only)


def profile(world: World, contestants: list[Contestant], asked: argparse.Namespace, machine: dict[str, object]) -> int:
    """Write where our operator's time goes, and what each layer costs. Returns the exit code."""
    bench = Bench(world, profiling.QUICK if asked.quick else profiling.SIZES, Results(), {})
    facts = {**machine, **versions(contestants)}
    files = asyncio.run(profiling.run(bench, contestants, folder(asked), facts, quick=asked.quick))
    print("Written: " + ", ".join(os.path.relpath(file, ROOT) for file in files))
    return 0


def folder(asked: argparse.Namespace) -> Path:
    """Where results go."""
    return ROOT / ("docs/benchmarks/runtime" if asked.save else ".cache/bench-runtime")


def report(bench: Bench, asked: argparse.Namespace, facts: dict[str, object]) -> None:
    """Print the tables; write JSON and plots."""
    results, cards = bench.results, list(bench.sizes.rounds)
    judged = judge(results, cards)
    print(f"\n{table(judged)}\n\n{comparison(results, [*asked.contestants, ALONE])}\n\n{lost(judged)}")
    for failure in results.failures:
        print(f"FAILED: {failure}")
    if asked.quick:
        print("This was a smoke run: its figures mean nothing.")
    where = folder(asked)
    where.mkdir(parents=True, exist_ok=True)
    document = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
        "sizes": dataclasses.asdict(bench.sizes),
        "failures": results.failures,
        "verdicts": {
            row.goal.measure: {"goal": str(row.goal), "found": str(row.found or "—"), "verdict": row.verdict}
            for row in judged
        },
        "measures": results.document(),
    }
    (where / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (where / "table.md").write_text(f"{table(judged)}\n\n{comparison(results, [*asked.contestants, ALONE])}\n")
    from tests.bench.runtime import drawing

    files = drawing.draw(where, judged, results, cards, bench.latencies)
    print("Written: " + ", ".join(os.path.relpath(file, ROOT) for file in [where / "results.json", *files]))


def comparison(results: Results, contestants: list[str]) -> str:
    """Every measure of every contestant as a Markdown table."""
    lines = [("Measure", "", *contestants)]
    for name, by_contestant in results.measures():
        unit = results.units[name]
        cells = [
            str(by_contestant[one]).replace(f" {unit}", "") if one in by_contestant else "—" for one in contestants
        ]
        lines.append((name, unit, *cells))
    return markdown(lines)


def lost(judged: list[Row]) -> str:
    """Where we fall short, in one line."""
    shorts = [f"{row.goal.what}: {row.found}, goal {row.goal}" for row in judged if row.verdict.startswith("SHORT")]
    return f"Falls short: {'; '.join(shorts) or 'nowhere'}"


def exit_code(failures: list[str]) -> int:
    """A peer that does not get there is a result, told in the report; what we cannot measure of ours is a failure."""
    return 1 if any(failure.startswith(f"{OURS}, ") for failure in failures) else 0


def main() -> int:
    """Measure and report. Returns the exit code."""
    asked = arguments()
    began = time.monotonic()
    machine = describe()
    try:
        contestants = prepare(asked.contestants)
        say("starting etcd, with fsync, and kube-apiserver")
        with World([one.namespace for one in contestants], SHARED) as world:
            if asked.profile:
                return profile(world, contestants, asked, machine)
            bench = Bench(world, sizes(asked), Results(), {})
            asyncio.run(run(bench, contestants, asked.only))
    except (BenchError, LabError, LabUnavailable, asyncio.CancelledError) as error:
        print(f"the bench cannot go on: {error!r}", file=sys.stderr)
        return 1
    seconds = round(time.monotonic() - began)
    facts: dict[str, object] = {"machine": machine, "versions": versions(contestants), "seconds": seconds}
    print(f"\n{short(seconds / 60)} minutes")
    report(bench, asked, facts)
    return exit_code(bench.results.failures)


if __name__ == "__main__":
    sys.exit(main())
