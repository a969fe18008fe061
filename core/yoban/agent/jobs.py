"""Work asked for by a job's uid, done once.

Guarantees: the same uid again starts nothing new; a job that is cancelled has cleaned up when `cancel` returns; all jobs
end with the agent, and one that started later does not know them (the operator takes that as failed).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from yoban.agent.notice import Notice
from yoban.errors import Retryable, YobanError
from yoban.model.control import BackupResult, JobRequest, JobStatus, Problem, Progress

log = logging.getLogger("yoban.agent.jobs")
KEPT = 32
"""Ended jobs that are remembered."""
CANCEL_DEADLINE = 60.0

Report = Callable[[Progress], None]
Work = Callable[[JobRequest, Report], Awaitable[BackupResult]]


@dataclass(slots=True)
class _Job:
    request: JobRequest
    status: JobStatus
    changed: Notice = field(default_factory=Notice)
    task: asyncio.Task[None] | None = None

    def tell(self, status: JobStatus) -> None:
        self.status = status
        self.changed.ring()


class Jobs:
    """The jobs of this agent. `kinds` maps a kind to what does it."""

    def __init__(self, group: asyncio.TaskGroup, kinds: dict[str, Work]) -> None:
        self._group = group
        self._kinds = kinds
        self._jobs: dict[str, _Job] = {}

    def put(self, uid: str, request: JobRequest) -> JobStatus | None:
        """Begin a job unless it is known; None when its kind is not."""
        job = self._jobs.get(uid)
        if job is not None:
            return job.status
        work = self._kinds.get(request.kind)
        if work is None:
            return None
        for old in [name for name, known in self._jobs.items() if known.status.state != "running"][: -KEPT or None]:
            del self._jobs[old]
        job = self._jobs[uid] = _Job(request, JobStatus(state="running"))
        job.task = self._group.create_task(self._run(uid, job, work))
        return job.status

    async def get(self, uid: str, wait: float) -> JobStatus | None:
        """Return a job's state, after up to `wait` seconds for a change; None when it is not known."""
        job = self._jobs.get(uid)
        if job is None:
            return None
        if wait > 0 and job.status.state == "running":
            await job.changed.wait(job.changed.serial, wait)
        return job.status

    async def cancel(self, uid: str) -> None:
        """Cancel a job and wait until it has cleaned up. One that is not known or has ended is fine."""
        job = self._jobs.get(uid)
        if job is None or job.task is None or job.task.done():
            return
        job.task.cancel()
        await asyncio.wait({job.task}, timeout=CANCEL_DEADLINE)

    async def _run(self, uid: str, job: _Job, work: Work) -> None:
        def report(progress: Progress) -> None:
            job.tell(msgspec.structs.replace(job.status, progress=progress))

        try:
            async with asyncio.timeout(job.request.deadline_seconds):
                result = await work(job.request, report)
        except asyncio.CancelledError:
            job.tell(JobStatus(state="cancelled", progress=job.status.progress))
            log.info("job %s was cancelled", uid)
            task = asyncio.current_task()
            if task is not None and task.uncancel() > 0:
                raise
        except TimeoutError:
            problem = Problem(reason="DeadlineExceeded", message=f"not done in {job.request.deadline_seconds:g} s")
            job.tell(JobStatus(state="failed", problem=problem, retryable=True, progress=job.status.progress))
        except YobanError as error:
            log.warning("job %s failed: %s", uid, error)
            problem = Problem(reason=error.reason, message=str(error), fix=error.fix)
            retryable = isinstance(error, Retryable)
            job.tell(JobStatus(state="failed", problem=problem, retryable=retryable, progress=job.status.progress))
        except Exception as error:
            log.exception("job %s failed", uid)
            problem = Problem(reason="InternalError", message=f"{type(error).__name__}: {error}")
            job.tell(JobStatus(state="failed", problem=problem, retryable=True, progress=job.status.progress))
        else:
            job.tell(JobStatus(state="completed", progress=job.status.progress, backup=result))
