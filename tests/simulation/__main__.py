"""The simulation by hand.

python -m tests.simulation --seed 1234 --trace          one seed, with all that happens
python -m tests.simulation --seeds 50000 --processes 2  many
python -m tests.simulation mutants                      which broken variants are caught, and by what
python -m tests.simulation real --duration 600          a real kube-apiserver behind fault proxies, in real time: the seed
                                                        fixes the plan and not the interleaving; --first is the seed
"""

from __future__ import annotations

import argparse
import logging
import sys

from yoban.testing.clock import START

from tests.simulation.many import Report, run_many
from tests.simulation.world import run


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(f"{'':9} {record.levelname.lower()}: {record.getMessage()}")


def one(seed: int, traced: bool) -> int:
    """Run a seed; 1 when it breaks an invariant."""
    if traced:
        logging.getLogger("yoban").addHandler(_Lines())
    outcome = run(seed, trace=(lambda who, what: print(who, what)) if traced else None)
    print(outcome.violation or f"ok: converged within {outcome.converged_in:.0f} s, digest {outcome.digest:08x}")
    return 1 if outcome.violation is not None else 0


def many(first: int, count: int, processes: int) -> int:
    """Run many; 1 when one breaks an invariant."""
    shown = 0

    def progress(report: Report) -> None:
        nonlocal shown
        if report.seeds >= shown + 1000 or len(report.failures) > 0:
            shown = report.seeds
            print(f"{report.seeds} seeds, {len(report.failures)} failed", file=sys.stderr, flush=True)

    report = run_many(first, count, processes=processes, progress=progress)
    print("\n".join(report.lines()))
    return 1 if report.failures else 0


def real(first: int, count: int, duration: float, traced: bool) -> int:
    """Run against real API servers, one after the other; 1 when one breaks an invariant."""
    from tests.simulation.real.world import again, run_real

    if traced:
        logging.getLogger("yoban").addHandler(_Lines())
    failed = 0
    for seed in range(first, first + count):
        outcome = run_real(seed, duration, trace=(lambda who, what: print(who, what, flush=True)) if traced else None)
        print(outcome, flush=True)
        if outcome.violation is not None:
            failed += 1
            print(f"again, with the same plan but not the same interleaving: {again(seed, duration)}", flush=True)
    return 1 if failed else 0


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=f"Times are from {START:.0f} s on.")
    parser.add_argument("what", nargs="?", choices=["mutants", "real"], help="the mutation check, or real servers")
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--trace", action="store_true", help="show all that happens in it")
    parser.add_argument("--seeds", type=int, help="run so many: 2000, or 1 of real servers")
    parser.add_argument("--first", type=int, default=0, help="from this one on")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--duration", type=float, default=30.0, help="seconds with faults, of real servers")
    arguments = parser.parse_args()
    if arguments.what == "mutants":
        from tests.simulation.mutants import table

        return table()
    if arguments.what == "real":
        return real(arguments.first, arguments.seeds or 1, arguments.duration, arguments.trace)
    if arguments.seed is not None:
        return one(arguments.seed, arguments.trace)
    return many(arguments.first, arguments.seeds or 2000, arguments.processes)


if __name__ == "__main__":
    sys.exit(main())
