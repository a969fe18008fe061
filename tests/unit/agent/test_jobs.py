"""A job is done once; what becomes of it is told."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from yoban.agent.jobs import Jobs, Report
from yoban.errors import IntegrityError, Unavailable
from yoban.model.control import BackupResult, JobRequest, JobStatus, Progress

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RESULT = BackupResult(
    id="x", line="1", begin_position="0", end_position="1", begin_time=NOW, end_time=NOW, bytes=1, stored_bytes=1,
    frozen_seconds=0.0,
)  # fmt: skip


class Worker:
    """Does as it is told."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate = asyncio.Event()
        self.error: BaseException | None = None
        self.cleaned = False

    async def __call__(self, request: JobRequest, report: Report) -> BackupResult:
        self.calls += 1
        report(Progress(what="copying", done=1, total=2))
        try:
            await self.gate.wait()
        finally:
            self.cleaned = True
        if self.error:
            raise self.error
        return RESULT


async def ended(jobs: Jobs, uid: str) -> JobStatus:
    while True:
        status = await jobs.get(uid, 1.0)
        assert status is not None
        if status.state != "running":
            return status


async def test_the_same_uid_again_changes_nothing() -> None:
    worker = Worker()
    async with asyncio.TaskGroup() as group:
        jobs = Jobs(group, {"backup": worker})
        request = JobRequest(kind="backup", id="x")
        assert jobs.put("u", request) == JobStatus(state="running")
        await asyncio.sleep(0)
        running = jobs.put("u", request)
        assert running is not None
        assert running.progress == Progress(what="copying", done=1, total=2)
        worker.gate.set()
        assert (await ended(jobs, "u")).backup == RESULT
        done = jobs.put("u", request)
        assert done is not None
        assert done.state == "completed"
    assert worker.calls == 1


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (Unavailable("x"), "Unavailable", True),
        (IntegrityError("page 7 is damaged", reason="PageDamaged"), "PageDamaged", False),
        (RuntimeError("a fault of ours"), "InternalError", True),
    ],
)
async def test_failures_are_told(error: Exception, reason: str, retryable: bool) -> None:
    worker = Worker()
    worker.error = error
    worker.gate.set()
    async with asyncio.TaskGroup() as group:
        jobs = Jobs(group, {"backup": worker})
        jobs.put("u", JobRequest(kind="backup", id="x"))
        status = await ended(jobs, "u")
    assert status.state == "failed"
    assert status.problem is not None
    assert (status.problem.reason, status.retryable) == (reason, retryable)


async def test_the_deadline_and_cancelling_clean_up() -> None:
    async with asyncio.TaskGroup() as group:
        slow, cancelled = Worker(), Worker()
        jobs = Jobs(group, {"slow": slow, "cancelled": cancelled})
        jobs.put("s", JobRequest(kind="slow", id="x", deadline_seconds=0.05))
        jobs.put("c", JobRequest(kind="cancelled", id="x"))
        await asyncio.sleep(0)
        await jobs.cancel("c")
        assert cancelled.cleaned
        status = await jobs.get("c", 0)
        assert status is not None
        assert status.state == "cancelled"
        late = await ended(jobs, "s")
        assert late.problem is not None
        assert late.problem.reason == "DeadlineExceeded"
        assert slow.cleaned
        await jobs.cancel("c")
        await jobs.cancel("unknown")
    assert jobs.put("k", JobRequest(kind="unknown", id="x")) is None
    assert await jobs.get("unknown", 0) is None
