"""An archive of MySQL's log for tests: what an agent stores of each server, and restores planned by core from it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from yoban.domain.history import History, Mark, StoredBackup, Term
from yoban.domain.recoverability import Plan, plan
from yoban.errors import IntegrityError
from yoban.plugins import (
    BackupFacts,
    LogTail,
    Promotion,
    RecoveryProgress,
    RecoveryReached,
    RecoveryState,
    RecoveryTarget,
    Role,
    TargetType,
)
from yoban.plugins.lines import StoredLine, runs
from yoban.testing.engineharness import Copy, copy, place
from yoban_mysql.gtid import GtidSet

from tests.integration.mysql.world import Instance, World
from tests.integration.servers import give


@dataclass
class Archive:
    """Whole files and tails by name; backups, reigns and marks, as the repository holds them."""

    world: World
    whole: dict[str, bytes] = field(default_factory=dict)
    tails: dict[str, bytes] = field(default_factory=dict)
    backups: dict[str, Copy] = field(default_factory=dict)
    terms: list[Term] = field(default_factory=list)
    marks: dict[int, Mark] = field(default_factory=dict)
    fed: int = 0

    async def reigns(self, instance: Instance, promotion: Promotion | None = None, number: int = 0) -> None:
        """Write the record of a reign (the next one)."""
        tail = await self.world.engine.log_source.tail(instance.ctx)
        assert tail is not None
        parent, fork = (promotion.parent, promotion.fork) if promotion else ("", None)
        ancestors = promotion.ancestors if promotion else ()
        number = number or len(self.terms) + 1
        self.terms.append(Term(number, tail.line, parent, fork, datetime.now(UTC), instance.ctx.name, ancestors))

    async def back_up(self, instance: Instance, id: str = "b1") -> Copy:
        made = self.backups[id] = await copy(self.world.engine, instance.ctx)
        return made

    async def collect(self, instance: Instance, *, mark: bool = True) -> LogTail | None:
        """Store what is complete, the tail, and what that proves."""
        log = self.world.engine.log_source
        for segment in await log.pending(instance.ctx):
            await log.inspect(instance.ctx, segment)
            self.whole[segment.name.name] = segment.path.read_bytes()
            await log.settled(instance.ctx, segment)
            self.tails.pop(segment.name.name, None)
        if instance.process is None:
            return None
        tail = await log.tail(instance.ctx)
        if tail is None:
            return None
        self.tails[tail.segment] = tail.path.read_bytes()[: tail.flushed]
        if mark and all(name in self.whole for name in tail.earlier):
            term = max((one.number for one in self.terms if one.line == tail.line), default=1)
            self.marks[term] = Mark(
                term, tail.line, tail.observed_at, tail.position, tail.segment, tail.flushed, tail.last_commit
            )
        return tail

    def history(self) -> History:
        log = self.world.engine.log_source
        lines: dict[str, StoredLine] = {}
        for line in {log.classify(name).line for name in (*self.whole, *self.tails)}:
            whole = sorted(name for name in self.whole if log.classify(name).line == line)
            tails = {name: len(data) for name, data in self.tails.items() if log.classify(name).line == line}
            names = tuple(sorted({*whole, *tails}))
            lines[line] = StoredLine(line, runs(whole, lambda name: log.successor(name, 0)), tails, names)
        backups = tuple(
            StoredBackup(
                BackupFacts(
                    id,
                    one.end.line,
                    one.begin.position,
                    one.end.position,
                    one.begin.time,
                    one.end.time,
                    one.end.facts,
                )
            )
            for id, one in self.backups.items()
        )
        return History(backups, tuple(self.terms), tuple(self.marks.values()), lines)

    def plan(self, target: RecoveryTarget) -> Plan:
        return plan(self.history(), target, self.world.engine)

    async def begin(
        self, target: RecoveryTarget, *, chosen: Plan | None = None, twin: Instance | None = None
    ) -> tuple[Instance, Plan]:
        """Place the base backup, feed the log and start the server of a new instance; with the server id of `twin`."""
        chosen = chosen or self.plan(target)
        made = self.world.instance(incarnation="ba9876543210")
        if twin is not None:
            made.change(incarnation=twin.ctx.incarnation, number=twin.ctx.number)
        engine = self.world.engine
        await place(engine, made.ctx, self.backups[chosen.backup.facts.id])
        await engine.server.configure(made.ctx, Role.RECOVERY, None, running=False)
        await engine.recovery.prepare(made.ctx, chosen.recovery)
        folder = made.ctx.data.parent / "fetched"
        folder.mkdir()
        give(folder)
        self.fed = 0
        await self.feed(made, chosen)
        await made.launch()
        await made.answers()
        return made, chosen

    async def feed(self, made: Instance, chosen: Plan) -> None:
        """Hand over the log, as much as is taken now."""
        for name in chosen.recovery.segments[self.fed :]:
            path = made.ctx.data.parent / "fetched" / name
            path.write_bytes(self.whole.get(name) or self.tails[name])
            self.fed += 1
            if not await self.world.engine.recovery.feed(made.ctx, chosen.recovery, name, path):
                return

    async def settle(self, made: Instance, chosen: Plan, deadline: float = 60) -> RecoveryProgress:
        """Wait until a recovery has reached its target, or failed; hand over more of the log when it waits for that."""
        async with asyncio.timeout(deadline):
            while True:
                found = await self.world.engine.recovery.progress(made.ctx, chosen.recovery)
                if found.state is RecoveryState.WAITING:
                    await self.feed(made, chosen)
                elif found.state is not RecoveryState.REPLAYING:
                    return found
                await asyncio.sleep(0.05)

    async def finish(self, made: Instance, chosen: Plan) -> RecoveryReached:
        """End a recovery and open the server for writes."""
        recovery = self.world.engine.recovery
        reached = await recovery.finish(made.ctx, chosen.recovery)
        assert await recovery.finish(made.ctx, chosen.recovery) == reached
        await made.stop()
        await made.start()
        await self.world.engine.server.ensure_accounts(made.ctx)
        return reached

    async def restore(
        self, kind: str = "latest", value: str = "", *, exclusive: bool = False, skip: Sequence[str] = (), **more: str
    ) -> Instance:
        """Restore to a target; return the new primary."""
        target = RecoveryTarget(TargetType(kind), value, exclusive, skip=tuple(skip), **more)
        made, chosen = await self.begin(target)
        found = await self.settle(made, chosen)
        assert found.state is RecoveryState.REACHED, found.message
        await self.finish(made, chosen)
        return made


async def gtids(instance: Instance) -> str:
    """What a server has executed."""
    return str(await instance.value("SELECT @@GLOBAL.gtid_executed")).replace("\n", "")


async def table(instance: Instance, *more: str) -> None:
    """Make the table that `add` writes to."""
    await instance.run("CREATE TABLE app.t (id int PRIMARY KEY, note varchar(100))", *more)


async def add(instance: Instance, *numbers: int) -> list[str]:
    """Insert rows, one transaction each; return their GTIDs."""
    found: list[str] = []
    for number in numbers:
        before = GtidSet.parse(await gtids(instance))
        await instance.run(f"INSERT INTO app.t VALUES ({number}, 'row {number}')")
        found.append(str(GtidSet.parse(await gtids(instance)) - before))
    return found


async def rows(instance: Instance) -> list[int]:
    """What is in the table."""
    session = await instance.session()
    try:
        return [row["id"] for row in await session.rows("SELECT id FROM app.t ORDER BY id")]
    finally:
        await session.leave()


async def started(archive: Archive) -> Instance:
    """A primary with a table, a row, and a base backup of that."""
    primary = await archive.world.primary()
    await archive.reigns(primary)
    await table(primary)
    await add(primary, 1)
    await archive.back_up(primary)
    return primary


async def restored_rows(archive: Archive, kind: str, value: str = "", *, exclusive: bool = False) -> list[int]:
    """What is in the table after a restore."""
    made = await archive.restore(kind, value, exclusive=exclusive)
    found = await rows(made)
    await made.stop()
    return found


async def anew(archive: Archive, primary: Instance, number: int) -> list[int]:
    """After a gap: a new base backup makes the archive whole again. Return what is restored, with another row."""
    with pytest.raises(IntegrityError) as caught:
        archive.plan(RecoveryTarget())
    assert caught.value.reason == "LogGap"
    await archive.back_up(primary, "b2")
    await add(primary, number)
    await archive.collect(primary)
    return await restored_rows(archive, "latest")
