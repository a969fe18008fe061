"""Replay of small transactions on a restored base backup: our recovery, and `mysqlbinlog | mysql`.

The log is fetched from the repository once, and every contestant has a copy of the same files and of the same restored data,
on a server with the same configuration: relaxed flushing, no log of its own. Ours is timed from the first file that is fed to
the look that says that the target is reached, without the start of the server in between; the client from its start to its
end, on a server that runs already. Each must end with the same GTIDs and checksums as the source, or the bench ends.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yoban.domain.gathering import history
from yoban.domain.recoverability import plan
from yoban.plugins import RecoveryPlan, RecoveryState, RecoveryTarget, TargetType
from yoban_mysql.binlog import BinlogFile
from yoban_mysql.gtid import GtidSet
from yoban_mysql.line import base, log_index

from tests.bench.machine import MIB, BenchError, folder, own, run, say, settle
from tests.bench.mysql import data
from tests.bench.mysql.bench import Bench
from tests.bench.mysql.programs import client
from tests.bench.mysql.servers import Instance, ask, checksums, executed, open_for_writes, socket_of
from tests.bench.restoring import in_process
from tests.bench.rig import repository

CORE = "0"
"""The core that the pinned client and its server have to themselves."""
LOOK_EVERY = 0.25
DEADLINE = 1800.0


@dataclass(frozen=True)
class Log:
    """What is replayed.

    Attributes:
        base: a folder with the restored base backup.
        plan: of the recovery.
        files: the log, in order.
        transactions: how many the base backup lacks.
        end: what is executed at the end.
        sums: checksums of the tables then.
    """

    base: Path
    plan: RecoveryPlan
    files: Sequence[Path]
    transactions: int
    end: GtidSet
    sums: str


async def measure(bench: Bench) -> None:
    """Write the log, stop the server that wrote it, and measure all contestants in turns."""
    log = await _prepare(bench)
    if await bench.ours.pod.stop() != 0:
        raise BenchError("the server was not stopped cleanly")
    ours: list[float] = []
    applied: list[float] = []
    theirs: list[float] = []
    pinned: list[float] = []
    for number in range(bench.sizes.rounds):
        fed, replayed = await _ours(bench, log)
        ours.append(log.transactions / (fed + replayed))
        applied.append(log.transactions / replayed)
        theirs.append(log.transactions / await _client(bench, log))
        pinned.append(log.transactions / await _client(bench, log, CORE))
        say(
            f"replay {number + 1}: ours {ours[-1]:.0f} (the applier alone {applied[-1]:.0f}), mysqlbinlog | mysql"
            f" {theirs[-1]:.0f}, on one core {pinned[-1]:.0f} transactions a second"
        )
    shutil.rmtree(log.base)
    bench.record("replay.ours", "tx/s", ours)
    bench.record("replay.applier", "tx/s", applied)
    bench.record("replay.client", "tx/s", theirs)
    bench.record("replay.pinned", "tx/s", pinned)
    bench.compare("replay.ratio", "replay.ours", "replay.client")
    bench.compare("replay.pinned.ratio", "replay.ours", "replay.pinned")
    await bench.ours.start()


async def _prepare(bench: Bench) -> Log:
    """Have a base backup made, then the log written and stored; bring both back."""
    ours, engine = bench.ours, bench.servers.engine
    await data.small(ours)
    # A file that ends before the backup begins, and a transaction behind it: so nobody has to read how the tables were made.
    await ours.sql(f"FLUSH BINARY LOGS; UPDATE {data.NAMES[0]} SET k = k + 1 WHERE id = 1")
    backup = await ours.backup()
    await ours.sql("FLUSH BINARY LOGS")
    began = time.monotonic()
    await data.work(ours, bench.sizes.transactions)
    say(f"wrote {bench.sizes.transactions} transactions in {time.monotonic() - began:.0f} s")
    sums = await ours.checksums(data.NAMES)
    end = _before_newest(ours.data)
    await ours.stored()
    kept = await folder(bench.folder / "log")
    async with repository(ours.bucket) as repo:
        known = history(await repo.catalog(), engine.log_source)
        chosen = plan(known, RecoveryTarget(TargetType.POSITION, str(end)), engine).recovery
        for name in chosen.segments:
            await repo.log.fetch(engine.log_source.classify(name).line, name, kept / name)
    await own(kept)
    files = [kept / name for name in chosen.segments]
    size = sum(file.stat().st_size for file in files)
    transactions = (end - GtidSet.parse(chosen.backup_end)).count
    if transactions < bench.sizes.transactions:
        raise BenchError(f"the log holds {transactions} transactions only")
    bench.facts |= {"replay.transactions": transactions, "replay.log.mb": round(size / MIB), "replay.files": len(files)}
    say(f"the log is {size / MIB:.0f} MB in {len(files)} files")
    restored = await folder(bench.folder / "base")
    await in_process("mysql", "9.7", ours.bucket, backup.id, restored)
    await bench.servers.adopt(restored)
    return Log(restored, chosen, files, transactions, end, sums)


def _before_newest(server: Path) -> GtidSet:
    """What was executed before the newest file of a server's log."""
    newest = log_index(server)[-1]
    with newest.open("rb") as file:
        return BinlogFile(file, newest.stat().st_size).previous | base(server)


async def _ours(bench: Bench, log: Log) -> tuple[float, float]:
    """Seconds of feeding, and from the applier's start to its end."""
    recovery = bench.servers.engine.recovery
    async with bench.servers.server(log.base, log.plan) as made:
        fetched = await folder(made.ctx.data.parent / "fetched")
        copies = [Path(shutil.copyfile(file, fetched / file.name)) for file in log.files]
        await own(fetched)
        await settle()
        left = list(zip(log.plan.segments, copies, strict=True))

        async def feed() -> None:
            while left:
                name, path = left.pop(0)
                if not await recovery.feed(made.ctx, log.plan, name, path):
                    return

        began = time.monotonic()
        await feed()
        fed = time.monotonic() - began
        await made.launch()
        await made.answers()
        began = time.monotonic()
        while (found := await recovery.progress(made.ctx, log.plan)).state in (
            RecoveryState.REPLAYING,
            RecoveryState.WAITING,
        ):
            if found.state is RecoveryState.WAITING:
                await feed()
            if time.monotonic() - began > DEADLINE:
                raise BenchError("the log is not replayed in time")
            await asyncio.sleep(LOOK_EVERY)
        replayed = time.monotonic() - began
        bench.facts["replay.workers"] = int(await ask(made, "SELECT @@GLOBAL.replica_parallel_workers"))
        if found.state is not RecoveryState.REACHED:
            raise BenchError(f"the replay failed: {found.message}")
        await _same(made, log)
        await recovery.finish(made.ctx, log.plan)
        return fed, replayed


async def _client(bench: Bench, log: Log, core: str = "") -> float:
    """Seconds of `mysqlbinlog … | mysql`; on one core, with the server, when `core` says which."""
    async with bench.servers.server(log.base) as made:
        await made.launch()
        await made.answers()
        await open_for_writes(made)
        program = shutil.which("mysqlbinlog")
        assert program is not None
        reader = [program, "--no-defaults", *map(str, log.files)]
        words = ["bash", "-c", f"set -o pipefail; {shlex.join(reader)} | {shlex.join(client(socket_of(made)))}"]
        if core:
            assert made.process is not None
            await run(["taskset", "--all-tasks", "--cpu-list", "--pid", core, str(made.process.pid)])
            words = ["taskset", "--cpu-list", core, *words]
        await settle()
        began = time.monotonic()
        await run(words, deadline=DEADLINE)
        seconds = time.monotonic() - began
        await _same(made, log)
        return seconds


async def _same(made: Instance, log: Log) -> None:
    """See that a server holds what the source held, exactly."""
    held = await executed(made)
    if held != log.end:
        raise BenchError(f"GTIDs differ: {str((held - log.end) | (log.end - held))[:300]}")
    if (sums := await checksums(made, data.NAMES)) != log.sums:
        raise BenchError(f"checksums differ: {sums}, of the source {log.sums}")
