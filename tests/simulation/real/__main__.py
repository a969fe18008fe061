"""Longer runs against a real API server, by hand.

python -m tests.simulation.real --seeds 10 --seconds 60
python -m tests.simulation.real --seed 3 --trace        the faults of a seed again (real time makes another run of them)
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from tests.simulation.judge import Violation
from tests.simulation.real.world import run


def main() -> int:
    """The exit code: 1 when a run broke an invariant."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.real")
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--seeds", type=int, default=5, help="run so many")
    parser.add_argument("--first", type=int, default=0, help="from this one on")
    parser.add_argument("--seconds", type=float, default=60.0, help="with faults; each run takes a minute or two more")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--trace", action="store_true", help="show what is done")
    asked = parser.parse_args()
    started, failed = time.monotonic(), 0

    def tell(line: str) -> None:
        print(f"{time.monotonic() - started:8.1f} {line}", flush=True)

    for seed in [asked.seed] if asked.seed is not None else range(asked.first, asked.first + asked.seeds):
        trace = tell if asked.trace else lambda line: None
        try:
            print(asyncio.run(run(seed, seconds=asked.seconds, replicas=asked.replicas, trace=trace)), flush=True)
        except Violation as error:
            failed += 1
            again = f"python -m tests.simulation.real --seed {seed} --seconds {asked.seconds:g} --trace"
            print(f"seed {seed}: {error}\n  again: {again}", flush=True)
    print(f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
