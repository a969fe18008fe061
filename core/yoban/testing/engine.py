"""`EngineContract`: what every engine must do, as tests.

A plugin's author subclasses it, gives a few fixtures, and says which positions and settings to try::

    class TestMyEngine(EngineContract):
        ascending = ("1", "2", "10")

        @pytest.fixture
        def engine(self):
            return MyEngine()

        @pytest.fixture
        def driver(self):
            return MyDriver()            # writes and reads as a user: see `Driver`

A test about a facet that the engine lacks checks that it does not claim the capability, either. Guarantees: an engine that
passes starts, stops and comes back with its data, and restores what it backed up, exactly to the target. Does not test high
availability, speed, or faults of disks. Needs pytest-asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from yoban.errors import Retryable, Unavailable
from yoban.plugins import (
    Account,
    BackupRequest,
    Capability,
    Durability,
    Engine,
    InstanceContext,
    Order,
    Peer,
    Position,
    RecoveryPlan,
    RecoveryState,
    RecoveryTarget,
    Role,
    ServerStatus,
    StopMode,
    TargetType,
)
from yoban.plugins.checks import check_session
from yoban.testing.context import make_context
from yoban.testing.enginefacts import EngineFactsContract
from yoban.testing.engineharness import Archive, Copy, Driver, Runner, copy, place, until

__all__ = ["Archive", "Copy", "Driver", "EngineContract", "Runner"]


@pytest.mark.asyncio
class EngineContract(EngineFactsContract):
    """Subclass it as `Test…`.

    Attributes:
        bad_setting: a setting and a value that the server rejects; None when it takes anything.
        start_seconds: how long a start, a promotion or a short recovery may take.
    """

    bad_setting: tuple[str, str] | None = None
    start_seconds: float = 60.0

    @pytest.fixture
    def driver(self) -> Driver:
        """A user of the database."""
        raise NotImplementedError("give a fixture `driver`")

    @pytest_asyncio.fixture
    async def runner(self) -> AsyncIterator[Runner]:
        """Starts servers; give one of your own for another user or an in-process fake."""
        runner = Runner()
        yield runner
        await runner.close()

    @pytest_asyncio.fixture
    async def archive(self, engine: Engine, tmp_path: Path) -> AsyncIterator[Archive]:
        """Answers the server's archive and restore commands."""
        archive = Archive(engine, tmp_path)
        await archive.open()
        yield archive
        await archive.close()

    @pytest.fixture
    def contexts(self, engine: Engine, archive: Archive, tmp_path: Path) -> Callable[..., InstanceContext]:
        """Make instances: `contexts(2)` is instance 2 of the Database, `contexts(1, life="b")` one of another incarnation.

        Give one of your own when the server needs certificates, or a user that is not the test's.
        """

        def make(number: int = 1, *, life: str = "a", **changes: Any) -> InstanceContext:
            folder = tmp_path / life / str(number)
            version = engine.versions()[0].name
            accounts = {
                one.purpose: Account(one.user, f"secret of '{one.purpose}'") for one in engine.accounts("orders")
            }
            wanted: dict[str, Any] = {
                "name": f"orders-{number}",
                "number": number,
                "version": version,
                "accounts": accounts,
                "ask": archive.ask,
                **changes,
            }
            return make_context(folder, **wanted)

        return make

    @pytest.fixture
    def context(self, contexts: Callable[..., InstanceContext]) -> InstanceContext:
        """An empty instance."""
        return contexts()

    @pytest_asyncio.fixture
    async def primary(
        self, engine: Engine, context: InstanceContext, runner: Runner, archive: Archive
    ) -> InstanceContext:
        """A running primary with its accounts."""
        archive.context = context
        await engine.server.initialize(context)
        await self.start(engine, context, runner, Role.PRIMARY)
        await engine.server.ensure_accounts(context)
        return context

    async def start(
        self, engine: Engine, ctx: InstanceContext, runner: Runner, role: Role, upstream: Peer | None = None
    ) -> ServerStatus:
        """Configure and start a server and wait until it is what it is to be."""
        configured = await engine.server.configure(ctx, role, upstream, running=False)
        assert configured.rejected == ()
        await runner.start(ctx, engine.server.command(ctx))
        return await self.serving(engine, ctx, role)

    async def serving(self, engine: Engine, ctx: InstanceContext, role: Role) -> ServerStatus:
        """Wait until the server serves in that role, and return its status."""

        async def serves() -> ServerStatus | None:
            status = await engine.server.status(ctx)
            return status if status.role is role and (status.accepting or role is Role.RECOVERY) else None

        found = await until(serves, deadline=self.start_seconds, what=f"{ctx.name} serves as {role.value}")
        assert found is not None
        return found

    # One server

    async def test_an_empty_volume(self, engine: Engine, context: InstanceContext) -> None:
        assert await engine.server.initialized(context) is False
        assert await engine.server.data_version(context) == ""
        assert await engine.server.binary_version(context) in {one.name for one in engine.versions()}

    async def test_a_server_that_does_not_run_is_unavailable(self, engine: Engine, context: InstanceContext) -> None:
        with pytest.raises(Unavailable):
            await engine.server.status(context)
        await engine.server.close(context)

    async def test_from_nothing_to_a_primary(self, engine: Engine, primary: InstanceContext) -> None:
        status = await engine.server.status(primary)
        assert status.role is Role.PRIMARY
        assert status.accepting
        assert status.version
        assert status.problem == ""
        assert await engine.server.initialized(primary)
        assert await engine.server.data_version(primary) == primary.version
        if status.position is not None:
            assert engine.positions.parse(status.position) == status.position
        await engine.server.probe_write(primary)

    async def test_what_is_written_is_read(self, primary: InstanceContext, driver: Driver) -> None:
        assert await driver.read(primary) == set()
        await driver.write(primary, "one")
        await driver.write(primary, "quote ' and \\ and ü")
        assert await driver.read(primary) == {"one", "quote ' and \\ and ü"}

    async def test_a_write_moves_the_position_on(
        self, engine: Engine, primary: InstanceContext, driver: Driver
    ) -> None:
        before = (await engine.server.status(primary)).position
        await driver.write(primary, "one")
        after = (await engine.server.status(primary)).position
        if engine.log_source is None or before is None or after is None:
            return  # only a log has to move on
        assert engine.positions.compare(before, after) is Order.LESS

    async def test_accounts_are_made_once(self, engine: Engine, primary: InstanceContext, driver: Driver) -> None:
        assert await engine.server.ensure_accounts(primary) in ((), [])
        changed = {**primary.accounts, "owner": replace(primary.accounts["owner"], password="another 'one'")}  # noqa: S106
        renewed = replace(primary, accounts=changed)
        said = await engine.server.ensure_accounts(renewed)
        assert all("another" not in text for text in said), "no secret in words"
        await driver.write(renewed, "with the new password")

    async def test_configuring_again_changes_nothing(self, engine: Engine, primary: InstanceContext) -> None:
        again = await engine.server.configure(primary, Role.PRIMARY, None, running=True)
        assert (again.changed, again.rejected) == ((), ())

    async def test_a_rejected_setting_changes_nothing(
        self, engine: Engine, primary: InstanceContext, driver: Driver
    ) -> None:
        if self.bad_setting is None:
            return  # it takes any setting
        name, value = self.bad_setting
        wrong = replace(primary, settings={**primary.settings, name: value})
        answer = await engine.server.configure(wrong, Role.PRIMARY, None, running=True)
        assert [one.name for one in answer.rejected] == [name]
        assert answer.rejected[0].message
        assert answer.changed == ()
        await driver.write(primary, "still works")

    @pytest.mark.parametrize("mode", list(StopMode))
    async def test_data_survives_a_stop(
        self, engine: Engine, primary: InstanceContext, runner: Runner, driver: Driver, mode: StopMode
    ) -> None:
        await driver.write(primary, "kept")
        await engine.server.close(primary)
        await runner.stop(primary, mode)
        await until(self._gone(engine, primary), deadline=10, what="a server that was ended is Unavailable")
        await self.start(engine, primary, runner, Role.PRIMARY)
        assert await driver.read(primary) == {"kept"}

    async def test_data_survives_a_stop_without_an_agent(
        self, engine: Engine, primary: InstanceContext, runner: Runner, driver: Driver
    ) -> None:
        await driver.write(primary, "kept")
        await runner.stop(primary, engine.server.command(primary).unattended)
        await until(self._gone(engine, primary), deadline=10, what="a server that was ended is Unavailable")
        await self.start(engine, primary, runner, Role.PRIMARY)
        assert await driver.read(primary) == {"kept"}

    @staticmethod
    def _gone(engine: Engine, ctx: InstanceContext) -> Callable[[], Awaitable[bool]]:
        async def gone() -> bool:
            try:
                await engine.server.status(ctx)
            except Unavailable:
                return True
            return False

        return gone

    # Backup and recovery

    async def test_a_backup_restores_what_was_there_when_it_ended(
        self,
        engine: Engine,
        primary: InstanceContext,
        contexts: Callable[..., InstanceContext],
        runner: Runner,
        driver: Driver,
        archive: Archive,
    ) -> None:
        if engine.base_backup is None or engine.recovery is None:
            return self.lacks(engine, Capability.BACKUP, Capability.RESTORE)
        await driver.write(primary, "before")

        async def during() -> None:
            await driver.write(primary, "during")

        backup = await copy(engine, primary, during=during)
        await driver.write(primary, "after")
        assert backup.begin.time <= backup.end.time
        order = engine.positions.compare(backup.begin.position, backup.end.position)
        assert order in (Order.LESS, Order.EQUAL)
        paths = [item.path for item, _ in backup.items]
        assert len(set(paths)) == len(paths)
        if engine.log_source is not None:
            await archive.collect(primary)
        restored = contexts(1, life="b")
        target = RecoveryTarget(TargetType.IMMEDIATE)
        if engine.targets is not None and TargetType.IMMEDIATE not in engine.targets.supported:
            target = RecoveryTarget(TargetType.LATEST)
        await self.recover(engine, restored, runner, archive, backup, target, end=None)
        found = await driver.read(restored)
        assert "before" in found
        if target.type is TargetType.IMMEDIATE:
            assert "after" not in found
        await driver.write(restored, "a new life")
        assert await driver.read(primary) == {"before", "during", "after"}

    async def recover(
        self,
        engine: Engine,
        ctx: InstanceContext,
        runner: Runner,
        archive: Archive,
        backup: Copy,
        target: RecoveryTarget,
        end: Position | None,
    ) -> None:
        """Restore `backup` into the empty `ctx`, replay to `target`, and start the result as a primary."""
        recovery = engine.recovery
        assert recovery is not None
        archive.context = ctx
        has_log = engine.log_source is not None
        if engine.targets is not None:
            target = engine.targets.parse(target)
        plan = RecoveryPlan(
            target,
            backup.end.line,
            end or backup.end.position,
            backup.end.position,
            backup.end.facts,
            has_log=has_log,
            segments=archive.segments(backup.end, whole=target.type is not TargetType.IMMEDIATE)
            if recovery.feeds
            else (),
        )
        await place(engine, ctx, backup)
        await engine.server.configure(ctx, Role.RECOVERY, None, running=False)
        await recovery.prepare(ctx, plan)
        left = list(plan.segments)

        async def feed() -> None:
            while left:
                name = left.pop(0)
                if not await recovery.feed(ctx, plan, name, archive.hand_over(ctx, name)):
                    return

        await feed()
        await runner.start(ctx, engine.server.command(ctx))

        async def reached() -> bool:
            progress = await recovery.progress(ctx, plan)
            assert progress.state is not RecoveryState.FAILED, progress.message
            if progress.state is RecoveryState.WAITING:
                assert left, "it waits for more than there is"
                await feed()
            return progress.state is RecoveryState.REACHED

        await until(reached, deadline=self.start_seconds, what=f"{ctx.name} reaches {target}")
        done = await recovery.finish(ctx, plan)
        assert await recovery.finish(ctx, plan) == done, "called again it returns the same"
        await engine.server.close(ctx)
        await runner.stop(ctx)
        assert await engine.server.initialized(ctx)
        await self.start(engine, ctx, runner, Role.PRIMARY)
        await engine.server.ensure_accounts(ctx)

    async def test_an_abandoned_backup_holds_nothing_back(
        self, engine: Engine, primary: InstanceContext, driver: Driver
    ) -> None:
        if engine.base_backup is None:
            return self.lacks(engine, Capability.BACKUP, Capability.RESTORE)
        await engine.base_backup.abandon(primary)
        with pytest.raises(ZeroDivisionError):
            async with engine.base_backup.backup(primary, BackupRequest("20260101T000000Z-000001")) as session:
                assert check_session(session) == []
                assert session.total_bytes >= 0
                raise ZeroDivisionError
        await driver.write(primary, "not held back")
        await copy(engine, primary)

    # The log

    async def test_the_tail_of_the_log(
        self, engine: Engine, primary: InstanceContext, driver: Driver, archive: Archive
    ) -> None:
        source = engine.log_source
        if source is None:
            return self.lacks(engine, Capability.POINT_IN_TIME)
        await driver.write(primary, "one")
        asked = datetime.now(UTC)
        tail = await source.tail(primary)
        assert tail is not None
        assert tail.observed_at >= asked
        assert tail.last_commit is None or tail.last_commit <= datetime.now(UTC)
        assert 0 <= tail.flushed <= tail.path.stat().st_size
        size = await source.segment_bytes(primary)
        assert source.classify(tail.segment).line == tail.line
        names = [tail.segment]
        assert source.segment_of(tail.line, tail.position, names, size) == tail.segment
        following = source.successor(tail.segment, size)
        assert following > tail.segment, "names of a line sort in log order"
        assert not tail.segment.startswith(following)
        assert source.successor(following, size) > following, "the beginning of a name will do"
        await driver.write(primary, "two")
        later = await source.tail(primary)
        assert later is not None
        assert engine.positions.compare(tail.position, later.position) is Order.LESS
        assert source.segment_of(tail.line, tail.position, [*names, f"{later.segment}"], size) == tail.segment
        await source.end_segment(primary, later.segment)
        await driver.write(primary, "three")
        last = await source.tail(primary)
        assert last is not None
        if last.segment != later.segment:
            assert last.segment.startswith(source.successor(later.segment, size)), "what comes next was told beforehand"
            ended = later.segment

            async def offered() -> bool:
                names = [segment.name.name for segment in await source.pending(primary)]
                return ended in names or ended in archive.files

            await until(offered, deadline=10, what=f"{ended} is offered, or asked to be stored")
        await source.stored(primary, tail.position)
        await source.stored(primary, tail.position)
        await driver.write(primary, "four")
        assert await source.retained_bytes(primary) >= 0

    async def test_recovery_stops_exactly_at_the_target(
        self,
        engine: Engine,
        primary: InstanceContext,
        contexts: Callable[..., InstanceContext],
        runner: Runner,
        driver: Driver,
        archive: Archive,
    ) -> None:
        if engine.log_source is None or engine.recovery is None or engine.targets is None:
            return self.lacks(engine, Capability.POINT_IN_TIME)
        backup = await copy(engine, primary)
        await driver.write(primary, "first")
        at_first = (await engine.server.status(primary)).position
        await asyncio.sleep(0.2)  # two commits of one instant could not be told apart
        between = datetime.now(UTC)
        await asyncio.sleep(0.2)
        await driver.write(primary, "second")
        tail = await engine.log_source.tail(primary)
        assert tail is not None
        await archive.collect(primary)
        cases = [(TargetType.LATEST, "", {"first", "second"}), (TargetType.TIME, between.isoformat(), {"first"})]
        if at_first is not None:
            cases.append((TargetType.POSITION, at_first, {"first"}))
        for number, (kind, value, expected) in enumerate(cases, 2):
            if kind not in engine.targets.supported:
                continue
            restored = contexts(number, life="b")
            target = RecoveryTarget(kind, value)
            await self.recover(engine, restored, runner, archive, backup, target, end=tail.position)
            assert await driver.read(restored) == expected, kind
            await engine.server.close(restored)
            await runner.stop(restored)

    # Replicas

    async def test_a_replica_follows_and_is_promoted(
        self,
        engine: Engine,
        primary: InstanceContext,
        contexts: Callable[..., InstanceContext],
        runner: Runner,
        driver: Driver,
    ) -> None:
        replication = engine.replication
        if replication is None:
            return self.lacks(engine, Capability.REPLICAS, Capability.SWITCHOVER)
        await driver.write(primary, "before")
        donor = Peer(primary.name, primary.host, primary.port)
        replica = contexts(2, peers=(donor,), durability=Durability())
        follower = Peer(replica.name, replica.host, replica.port)
        await replication.manage_members(replace(primary, peers=(follower,)), [follower])
        steps: list[tuple[int, int]] = []
        await replication.provision(replica, donor, lambda done, total: steps.append((done, total)))
        assert await engine.server.initialized(replica)
        assert all(done <= total or total == 0 for done, total in steps)
        await self.start(engine, replica, runner, Role.REPLICA, donor)
        await driver.write(primary, "while it follows")
        wanted = (await engine.server.status(primary)).position
        assert wanted is not None

        async def caught_up() -> bool:
            status = await engine.server.status(replica)
            assert status.role is Role.REPLICA
            return bool(status.upstream and status.position and engine.positions.covers(status.position, wanted))

        await until(caught_up, deadline=self.start_seconds, what="the replica has everything")
        assert await replication.diagnose(replica) is None
        await engine.server.close(primary)
        await runner.stop(primary)
        drained = await replication.drained_position(primary)
        assert engine.positions.covers(drained, wanted)

        async def has_all() -> bool:
            status = await engine.server.status(replica)
            return bool(status.position and engine.positions.covers(status.position, drained))

        await until(has_all, deadline=self.start_seconds, what="the replica has what the primary wrote last")
        promotion = await replication.promote(replica, deadline=self.start_seconds)
        assert await replication.promote(replica, deadline=self.start_seconds) == promotion
        assert [fork.line for fork in promotion.ancestors[-1:]] in ([], [promotion.parent])
        await self.serving(engine, replica, Role.PRIMARY)
        assert await driver.read(replica) == {"before", "while it follows"}
        await driver.write(replica, "after")
        follow = Peer(replica.name, replica.host, replica.port)
        returning = replace(primary, peers=(follow,))
        await replication.manage_members(replica, [donor])

        async def can_follow() -> bool:
            try:
                broken = await replication.prepare_follow(returning, follow)
            except Retryable:
                return False
            assert broken is None, broken
            return True

        await until(can_follow, deadline=self.start_seconds, what="the old primary can follow the new one")
        await self.start(engine, returning, runner, Role.REPLICA, follow)
