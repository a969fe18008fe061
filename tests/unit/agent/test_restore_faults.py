"""Whole agents: what may go wrong around a restore and must not cost it; each against state that is looked at."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from rig import Agent, MakeRig, restoring, until
from yoban.agent import bootstrap, volume
from yoban.agent.lease import MARGIN
from yoban.kube.clock import SystemClock
from yoban.model.instance import LeaseDocument
from yoban.plugins import Configured, InstanceContext, RecoveryPlan, RecoveryProgress, RecoveryState, Role
from yoban.repository.restore import BackupReader

ROWS = {f"row-{n}" for n in range(20)}


def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The volumes that are begun to be filled from now on."""
    real, found = bootstrap.begin, list[str]()

    async def begin(context: InstanceContext, *arguments: Any) -> None:
        found.append(context.name)
        await real(context, *arguments)

    monkeypatch.setattr(bootstrap, "begin", begin)
    return found


@contextlib.asynccontextmanager
async def enforced(agent: Agent) -> AsyncIterator[None]:
    """Within the block its server ends at the deadline."""
    task = asyncio.create_task(agent.supervision.enforce())
    try:
        yield
    finally:
        task.cancel()


async def test_bug_a_restore_was_thrown_away_for_some_seconds_without_the_api_server(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = await restoring(make_rig)
    rig = second.rig
    rig.document = msgspec.structs.replace(
        rig.document, lease=LeaseDocument(name=rig.document.lease.name, duration=5, renew=2, retry=0.3)
    )
    second.make()
    clock, real = SystemClock(), rig.engine.recovery.progress
    lost_at: float | None = None

    async def progress(ctx: InstanceContext, plan: RecoveryPlan) -> RecoveryProgress:
        nonlocal lost_at
        fence_at = second.parts.lease.fence_at()
        assert fence_at is not None
        if lost_at is None:
            lost_at = clock.boottime()
            rig.api.listening = False
        elif clock.boottime() > fence_at + MARGIN + 0.5:
            rig.api.listening = True
            return await real(ctx, plan)
        return RecoveryProgress(RecoveryState.REPLAYING)

    monkeypatch.setattr(rig.engine.recovery, "progress", progress)
    volumes = begun(monkeypatch)
    async with enforced(second):
        second.start()
        await second.ready()
        assert lost_at is not None
        assert volumes == ["orders-1"]
        assert await rig.driver.read(second.context) == ROWS
        assert second.supervision.fence_at is not None
        rig.api.listening = False
        await until("the primary is ended at its deadline", lambda: second.supervision.gone())


async def test_the_deadline_of_a_primary_is_told_before_its_start(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = await restoring(make_rig)
    configure, call = second.rig.engine.server.configure, second.supervision._call
    deadlines: list[tuple[str, float | None]] = []

    async def lifted(ctx: InstanceContext, role: Role, *arguments: Any, running: bool) -> Configured:
        done = await configure(ctx, role, *arguments, running=running)
        if role is Role.PRIMARY and not running:
            second.supervision.fence_at = None  # as a restore leaves it, before the next heart-beat
        return done

    async def noted(verb: str, **fields: Any) -> dict[str, Any]:
        if verb == "start":
            deadlines.append((fields["note"]["role"], second.supervision.fence_at))
        return await call(verb, **fields)

    monkeypatch.setattr(second.rig.engine.server, "configure", lifted)
    monkeypatch.setattr(second.supervision, "_call", noted)
    second.start()
    await second.ready()
    (recovery, without), (primary, fence_at) = deadlines
    assert (recovery, primary) == (Role.RECOVERY.value, Role.PRIMARY.value)
    assert without is None
    assert fence_at is not None
    assert fence_at > SystemClock().boottime() - 30


@pytest.mark.parametrize(
    ("number", "reason", "fix"),
    [
        (errno.ENOSPC, "NoSpace", "enlarge spec.storage.size"),
        (errno.EDQUOT, "NoSpace", "enlarge spec.storage.size"),
        (errno.EIO, "VolumeFailed", "look at the volume and its node; then the restore goes on by itself"),
    ],
)
async def test_bug_a_restore_onto_a_volume_that_was_full_began_again_every_few_seconds(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, number: int, reason: str, fix: str
) -> None:
    second = await restoring(make_rig)

    async def refused(self: BackupReader, place: object) -> None:
        raise OSError(number, "the volume says no")

    volumes = begun(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(BackupReader, "restore", refused)
        second.start()
        await until("it is told", lambda: reason in second.reasons())
        await asyncio.sleep(1.5)
        assert volumes == ["orders-1"], "each try copies the base backup again"
        (told,) = [problem for problem in second.status.problems if problem.reason == reason]
        assert told.fix == fix
        assert second.status.restore.state == "failed"
        assert second.status.phase == "failed"
    second.rig.change()
    await second.ready()
    assert await second.rig.driver.read(second.context) == ROWS


async def test_bug_a_backup_that_does_not_fit_was_copied_all_the_same(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = await restoring(make_rig)
    read = False

    async def restore(self: BackupReader, place: object) -> None:
        nonlocal read
        read = True

    monkeypatch.setattr(BackupReader, "restore", restore)
    monkeypatch.setattr(volume.os, "statvfs", lambda path: SimpleNamespace(f_bavail=10, f_frsize=1, f_blocks=1 << 20))
    second.start()
    await until("it is told", lambda: "NoSpace" in second.reasons())
    (told,) = [problem for problem in second.status.problems if problem.reason == "NoSpace"]
    assert "(10 bytes)" in told.message
    assert second.status.restore.backup in told.message
    assert told.fix == "enlarge spec.storage.size"
    assert second.status.restore.state == "failed"
    assert not read
