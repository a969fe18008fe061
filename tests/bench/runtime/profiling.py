"""`--profile`: where our operator's processor time goes, and what each layer costs at least.

Writes a flame graph of the creation of many Cards and one of steady changes, the functions that used most, and the floors of
`tests.bench.runtime.floors`. Measures nothing that is compared: being looked at costs time too.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from tests.bench.machine import BenchError, say
from tests.bench.runtime import flames, floors
from tests.bench.runtime.contestants import Contestant
from tests.bench.runtime.driver import Driver
from tests.bench.runtime.phases import Bench, Session, Sizes, steady
from tests.bench.runtime.results import OURS

RATE = 400  # samples a second
SIZES = Sizes({1000: 1}, 1000, 20.0)
QUICK = Sizes({100: 1}, 100, 3.0)


def program() -> str:
    """Where py-spy is, of the bench's own dependencies. BenchError when it is not there."""
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise BenchError("py-spy is not installed: it is one of the group `bench`, see requirements.lock")
    return found


async def run(
    bench: Bench, contestants: Sequence[Contestant], where: Path, facts: Mapping[str, object], *, quick: bool
) -> list[Path]:
    """Profile and measure floors; the files that were written. `facts` about the run go to the head of the report."""
    ours = next((one for one in contestants if one.name == OURS), None)
    if ours is None:
        raise BenchError(f"only {OURS} can be profiled: name it among the contestants")
    where.mkdir(parents=True, exist_ok=True)
    cards = bench.sizes.steady_at
    files = [where / "profile-create.svg", where / "profile-steady.svg"]
    texts = []
    async with Driver(bench.world, ours.namespace) as driver:
        session = Session(bench, ours, driver, 0)
        try:
            operator = await session.start()
            await session.rest()
            async with _sampled(operator.pid, bench.world.folder / "create.txt") as created:
                sent = await driver.create(range(cards))
                await driver.ready(sent, bench.sizes.deadline)
                await session.rest()
            async with _sampled(operator.pid, bench.world.folder / "steady.txt") as changed:
                await steady(session)
        finally:
            await session.stop()
            await driver.empty()
    titles = (f"creating {cards} Cards", f"changing a Card each 50 ms, {bench.sizes.steady:g} s")
    for title, file, sampled in zip(titles, files, (created, changed), strict=True):
        stacks = flames.working(flames.parse(sampled.read_text()))
        file.write_text(flames.draw(stacks, f"yoban.runtime, {title}"))
        texts += [f"## {title[0].upper()}{title[1:]}", f"![Flame graph]({file.name})"]
        texts += [flames.own_time(stacks), flames.within(stacks)]
    say("measuring floors")
    others = [ours, *(one for one in contestants if one is not ours)]
    rows = await asyncio.to_thread(floors.measure, bench.world, others, 50 if quick else 400)
    text = "\n\n".join(["## Floors", floors.table(rows), *texts])
    print(f"\n{floors.table(rows)}\n")
    report = where / "profile.md"
    told = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    report.write_text(f"# Where the time goes\n\nMeasured with `--profile` on: {told}.\n\n{text}\n")
    return [report, *files]


@contextlib.asynccontextmanager
async def _sampled(pid: int, file: Path) -> AsyncIterator[Path]:
    """Sample a process within the block; `file` then has its stacks."""
    words = [program(), "record", "--pid", str(pid), "--rate", str(RATE), "--function", "--format", "raw"]
    words += ["--duration", "600", "--output", str(file)]
    sampler = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        await asyncio.sleep(1.0)
        yield file
    finally:
        if sampler.poll() is None:
            sampler.send_signal(signal.SIGINT)  # it writes what it has
        try:
            told, _ = await asyncio.to_thread(sampler.communicate, timeout=30)
        except subprocess.TimeoutExpired:
            sampler.kill()
            told = b"it does not end"
    if not file.exists():
        raise BenchError(f"py-spy could not look into the operator:\n{told.decode(errors='replace')[-500:]}")
