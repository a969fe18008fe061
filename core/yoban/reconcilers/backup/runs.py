"""Follows backup jobs on agents, one task each, so that no reconcile waits for one.

Guarantees: a job is started once however often it is asked for (agents know it by its uid) and found again after a restart
of the operator; progress is told at most every 5 s; an agent that cannot be reached is asked again until the deadline;
an agent that does not know a job any more has lost it. Every attempt is a span of the backup's trace.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from opentelemetry import trace

from yoban.domain.summary import Fault, fault
from yoban.errors import NotFound, Retryable, YobanError
from yoban.kube.backoff import Backoff, BackoffPolicy
from yoban.kube.clock import Clock
from yoban.kube.objects import ObjectKey
from yoban.model.control import BackupResult, JobRequest, JobStatus, Progress
from yoban.model.instance import Member
from yoban.reconcilers.agents import Agents
from yoban.reconcilers.database.ports import Credentials
from yoban.reconcilers.observers import Tasks
from yoban.telemetry import continued, traceparent

log = logging.getLogger(__name__)

TELL_SECONDS = 5.0
WAIT_SECONDS = 20.0
_PACE = BackoffPolicy(initial=0.5, cap=10.0)
_tracer = trace.get_tracer("yoban.backup")


@dataclass(frozen=True, slots=True)
class Job:
    """A job on an agent: its uid there, who does it, what is asked, until when (monotonic), the trace it belongs to."""

    uid: str
    member: Member
    credentials: Credentials
    request: JobRequest
    until: float
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a job.

    Attributes:
        uid: of the job.
        state: `starting`, `running`, `completed`, `failed`, `lost`.
        progress: as told last.
        result: of a completed one.
        fault: of a failed one; `retryable` says whether another attempt may help.
        at: when it ended (UTC).
        unreachable: why the agent cannot be asked now, "" when it can.
    """

    uid: str
    state: str = "starting"
    progress: Progress | None = None
    result: BackupResult | None = None
    fault: Fault | None = None
    retryable: bool = False
    at: datetime | None = None
    unreachable: str = ""

    @property
    def ended(self) -> bool:
        """Nothing more will come of it."""
        return self.state in ("completed", "failed", "lost")


class Runs:
    """Jobs by Backup. Made inside the running loop; give it to the manager, which runs it.

    Args:
        agents: calls to agents.
        clock: for pauses and deadlines.
        tell: called with a Backup's key when there is news.
    """

    name = "backup runs"

    def __init__(self, agents: Agents, clock: Clock, tell: Callable[[ObjectKey], None]) -> None:
        self._agents = agents
        self._clock = clock
        self._tell = tell
        self._follow: Tasks[ObjectKey] = Tasks("backup")
        self._cancel: Tasks[str] = Tasks("cancel backup")
        self._states: dict[ObjectKey, State] = {}
        self._cancelled: set[str] = set()

    async def run(self) -> None:
        """Own the tasks until cancelled; then all of them are ended. Jobs on agents go on."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._follow.close()
            await self._cancel.close()

    def state(self, key: ObjectKey, uid: str) -> State | None:
        """Return what is known of that job of the Backup, None when it is not followed."""
        state = self._states.get(key)
        return state if state is not None and state.uid == uid else None

    def ensure(self, key: ObjectKey, job: Job) -> None:
        """Start the job unless it was started, and follow it to its end."""
        state = self._states.get(key)
        if state is not None and state.uid != job.uid:
            self._follow.cancel(key)
            state = None
        if state is None or not state.ended:
            self._states.setdefault(key, State(job.uid))
            if self._states[key].uid != job.uid:
                self._states[key] = State(job.uid)
            self._follow.start(key, lambda: self._run(key, job))

    def cancel(self, key: ObjectKey, job: Job) -> bool:
        """Have the agent cancel the job and clean up; True once it did, or nobody could any more."""
        self._follow.cancel(key)
        self._states.pop(key, None)
        if job.uid in self._cancelled:
            return True
        self._cancel.start(job.uid, lambda: self._end(key, job))
        return False

    def forget(self, key: ObjectKey) -> None:
        """The Backup is gone, or done."""
        self._follow.cancel(key)
        state = self._states.pop(key, None)
        if state is not None:
            self._cancelled.discard(state.uid)

    # -- following -------------------------------------------------------------------------------------------------

    async def _run(self, key: ObjectKey, job: Job) -> None:
        with (
            continued(job.traceparent),
            _tracer.start_as_current_span(
                "backup", attributes={"yoban.backup.id": job.request.id, "yoban.instance": job.member.name}
            ) as span,
        ):
            request = _traced(job.request, traceparent() or job.traceparent)
            state = await self._to_the_end(key, job, request)
            span.set_attribute("yoban.outcome", state.state)
            if state.fault is not None:
                span.set_status(trace.StatusCode.ERROR, str(state.fault))
        self._states[key] = replace(state, at=self._clock.now())
        self._tell(key)

    async def _to_the_end(self, key: ObjectKey, job: Job, request: JobRequest) -> State:
        pace = Backoff(_PACE)
        known, told = False, -TELL_SECONDS
        while True:
            try:
                if known:
                    status = await self._agents.job(job.member, job.credentials, job.uid, wait=WAIT_SECONDS)
                else:
                    status = await self._agents.start_job(job.member, job.credentials, job.uid, request)
                known = True
            except NotFound as error:
                if known:
                    wrong = Fault("JobLost", "the agent was restarted and the backup broken off", "it is tried again")
                    return State(job.uid, "lost", fault=wrong, retryable=True)
                return State(job.uid, "failed", fault=fault(error), retryable=True)
            except Retryable as error:
                now = self._clock.monotonic()
                if now >= job.until:
                    return State(job.uid, "lost", fault=fault(error), retryable=True)
                self._states[key] = replace(self._states.get(key) or State(job.uid), unreachable=str(error))
                await self._clock.sleep(min(pace.next(now), max(0.1, job.until - now)))
                continue
            except YobanError as error:
                return State(job.uid, "failed", fault=fault(error))
            ended = _ended(job.uid, status)
            if ended is not None:
                return ended
            now = self._clock.monotonic()
            if now - told >= TELL_SECONDS:
                told = now
                self._states[key] = State(job.uid, "running", status.progress)
                self._tell(key)
            await self._clock.sleep(1.0)

    async def _end(self, key: ObjectKey, job: Job) -> None:
        pace = Backoff(_PACE)
        while self._clock.monotonic() < job.until:
            try:
                await self._agents.cancel_job(job.member, job.credentials, job.uid)
            except Retryable as error:
                log.info("backup %s cannot be cancelled yet: %s", key, error)
                await self._clock.sleep(pace.next(self._clock.monotonic()))
            except YobanError as error:
                log.warning("backup %s cannot be cancelled: %s", key, error)
                break
            else:
                break
        self._cancelled.add(job.uid)
        self._tell(key)


def _traced(request: JobRequest, parent: str) -> JobRequest:
    return JobRequest(
        kind=request.kind,
        id=request.id,
        shipper=request.shipper,
        deadline_seconds=request.deadline_seconds,
        traceparent=parent,
    )


def _ended(uid: str, status: JobStatus) -> State | None:
    if status.state == "completed":
        return State(uid, "completed", status.progress, status.backup)
    if status.state in ("failed", "cancelled"):
        # We did not cancel it: its agent did, because it ends itself.
        retryable = status.retryable or status.state == "cancelled"
        words = "the agent broke the backup off" if status.state == "cancelled" else "the backup failed"
        wrong = Fault("BackupFailed", words, terminal=not retryable)
        if status.problem is not None:
            wrong = Fault(status.problem.reason, status.problem.message, status.problem.fix, not retryable)
        return State(uid, "failed", status.progress, None, wrong, retryable)
    return None
