"""Many seeds on several cores."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from tests.simulation.world import Outcome, run

CHUNK = 25


@dataclass(slots=True)
class Report:
    """What became of all.

    Attributes:
        failures: (seed, what was broken).
        slowest: (virtual seconds to converge, seed).
        wall: seconds it took.
    """

    seeds: int = 0
    virtual: float = 0.0
    acts: int = 0
    exempt: int = 0
    reconciles: int = 0
    requests: int = 0
    lives: int = 0
    slowest: tuple[float, int] = (0.0, 0)
    wall: float = 0.0
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count `outcome`."""
        self.seeds += 1
        self.virtual += outcome.seconds
        self.acts += outcome.acts
        self.exempt += outcome.exempt
        self.reconciles += outcome.reconciles
        self.requests += outcome.requests
        self.lives += outcome.lives
        self.slowest = max(self.slowest, (outcome.converged_in, outcome.seed))
        if outcome.violation is not None:
            self.failures.append((outcome.seed, str(outcome.violation)))

    def lines(self) -> Iterator[str]:
        """For people."""
        for seed, what in sorted(self.failures):
            yield f"seed {seed}: {what}"
            yield f"    replay it: {replay(seed)}"
        rate = self.seeds / self.wall if self.wall else 0.0
        yield (
            f"{self.seeds} seeds, {len(self.failures)} failed, {rate:.1f} a second, {self.virtual / 3600:.0f} hours of"
            f" virtual time"
        )
        yield (
            f"{self.requests} requests, {self.reconciles} reconciles, {self.acts} acts of leaders ({self.exempt} in the"
            f" instant after a standstill), {self.lives} lives of replicas"
        )
        yield f"the slowest to converge took {self.slowest[0]:.0f} s (seed {self.slowest[1]})"


def replay(seed: int) -> str:
    """The command that shows what happened in `seed`."""
    return f"python -m tests.simulation --seed {seed} --trace"


def _chunk(seeds: range) -> list[Outcome]:
    gc.disable()  # a world is all cycles: collecting it once, in the end, is cheaper
    try:
        outcomes = [run(seed) for seed in seeds]
    finally:
        gc.enable()
        gc.collect()
    return outcomes


def run_many(first: int, count: int, *, processes: int = 2, progress: Callable[[Report], None] | None = None) -> Report:
    """Run `count` seeds from `first` on."""
    report, started = Report(), time.monotonic()
    end = first + count
    chunks = [range(at, min(at + CHUNK, end)) for at in range(first, end, CHUNK)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for outcomes in pool.map(_chunk, chunks):
            for outcome in outcomes:
                report.add(outcome)
            report.wall = time.monotonic() - started
            if progress is not None:
                progress(report)
    return report
