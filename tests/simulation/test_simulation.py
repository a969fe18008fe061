"""The seeded simulation of `yoban.kube` and `yoban.runtime`: see `tests.simulation.judge` for what must hold."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.many import Report, replay
from tests.simulation.processes import Process, ProcessLoop
from tests.simulation.world import Outcome, options_of, run

ROOT = Path(__file__).parents[2]
SEEDS = 2000


def command(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """The simulation in a process of its own, whose coverage nobody measures: that would cost half of its speed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env={**env, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
    )


@pytest.mark.timeout(1800)
def test_thousands_of_seeds_keep_all_invariants() -> None:
    done = command("--seeds", str(SEEDS), "--processes", str(os.cpu_count() or 2))
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert f"{SEEDS} seeds, 0 failed" in done.stdout


@pytest.mark.parametrize("first", range(100_000, 100_040, 5))
def test_some_seeds_keep_all_invariants(first: int) -> None:
    """In this process, so that coverage sees what they reach."""
    for seed in range(first, first + 5):
        outcome = run(seed)
        assert outcome.violation is None, f"{outcome.violation}\nreplay it: {replay(seed)}"
        assert outcome.acts > 0, "a world in which nobody does anything proves nothing"


@pytest.mark.parametrize("seed", [7, *range(40, 45)])
def test_a_seed_is_replayed_exactly(seed: int) -> None:
    """Whatever the order of sets is in that process: of words by the hash seed, of objects by their places in memory."""
    digests = set()
    for hash_seed in ("1", "2", "3"):
        found = re.search(r"digest ([0-9a-f]{8})", command("--seed", str(seed), hash_seed=hash_seed).stdout)
        assert found is not None
        digests.add(found[1])
    assert digests == {f"{run(seed).digest:08x}"}


def test_seeds_differ() -> None:
    assert len({run(seed).digest for seed in range(5)}) == 5
    assert len({options_of(seed) for seed in range(50)}) == 50


def test_the_trace_shows_what_happened() -> None:
    shown = command("--seed", "3", "--trace").stdout
    assert "no more faults" in shown
    assert "nemesis" in shown
    assert "/leases" in shown


def test_a_failure_names_its_seed_and_how_to_replay_it() -> None:
    from tests.simulation.judge import Violation

    report = Report()
    violation = Violation("leader", "two at once", 1012.5)
    report.add(Outcome(1234, violation, 100.0, -1.0, 0, 0, 0, 0, 0, 0, 0))
    text = "\n".join(report.lines())
    assert "seed 1234: [leader] at 1012.500 s: two at once" in text
    assert "python -m tests.simulation --seed 1234 --trace" in text
    assert "1 seeds, 1 failed" in text


def test_a_frozen_process_stands_still_and_goes_on_with_what_came_due() -> None:
    loop = ProcessLoop()
    ticks: dict[str, list[float]] = {"a": [], "b": []}

    async def tick(name: str) -> None:
        while True:
            await asyncio.sleep(1)
            ticks[name].append(loop.time() - 1000)

    async def story() -> None:
        processes = [Process(name) for name in ticks]
        for process in processes:
            loop.spawn(process, tick(process.name), process.name)
        await asyncio.sleep(1.5)
        loop.freeze(processes[0])
        await asyncio.sleep(3)
        loop.thaw(processes[0])
        await asyncio.sleep(1.2)
        for process in processes:
            loop.kill(process)
        await asyncio.sleep(3)
        assert [process.alive() for process in processes] == [[], []]

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(story())
    assert ticks == {"a": [1.0, 4.5, 5.5], "b": [1.0, 2.0, 3.0, 4.0, 5.0]}
