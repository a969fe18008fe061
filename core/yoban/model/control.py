"""What agents answer on their control API (mutual TLS, JSON, version 1).

| call | body | answer |
|---|---|---|
| `GET /v1/status?after=V&wait=S` | none | `AgentStatus`; waits up to S seconds until `serial` is greater than V |
| `PUT /v1/document` | `Push` | 204; 409 when the one in force is newer |
| `PUT /v1/jobs/{uid}` | `JobRequest` | `JobStatus`; the same uid again changes nothing |
| `GET /v1/jobs/{uid}?wait=S` | none | `JobStatus`; 404 when the agent does not know it (restarted: the job has failed) |
| `DELETE /v1/jobs/{uid}` | none | 204; cancels it and cleans up |
| `POST /v1/ship` | `ShipRequest` | `ShipAnswer` once the log is stored through the segment, or 504 |
| `POST /v1/agent/restart` | none | 202; the supervisor restarts the agent, the server goes on |

Errors are `Problem` with status 4xx (terminal) or 5xx (try again). Times are RFC 3339 in UTC.
"""

from __future__ import annotations

from datetime import datetime

from yoban.model.instance import InstanceDocument, StoreDocument, Struct


class Problem(Struct):
    """A condition in waiting: CamelCase reason, a sentence, what to do next, and since when."""

    reason: str
    message: str
    fix: str = ""
    since: datetime | None = None


class Progress(Struct):
    """Progress of long work: what, bytes done, bytes in all (0 unknown), bytes a second over the last 10 s."""

    what: str
    done: int = 0
    total: int = 0
    rate: float = 0.0


class ReplicaState(Struct):
    """A replica as the primary sees it."""

    name: str
    streaming: bool = False
    synchronous: bool = False
    replayed: str = ""
    lag_seconds: float | None = None


class ServerState(Struct):
    """The server as the agent sees it (`yoban.plugins.ServerStatus` on the wire).

    `received` is "" where it is not known; an older agent does not tell it. `received_known` is false while it may have more.
    """

    role: str = ""
    accepting: bool = False
    version: str = ""
    system_id: str = ""
    line: str = ""
    position: str = ""
    received: str = ""
    received_known: bool = True
    last_commit: datetime | None = None
    lag_seconds: float | None = None
    upstream: bool = False
    replicas: list[ReplicaState] = []
    pending_restart: list[str] = []


class LeaseState(Struct):
    """The primary Lease as this agent sees it: holder, whether it is this instance, term, seconds until it runs out."""

    holder: str = ""
    held: bool = False
    term: int = 0
    expires_in: float = 0.0


class ArchiveState(Struct):
    """The log shipper.

    Attributes:
        active: this instance ships the growing tail (it is the primary and a store is configured).
        window_end: latest moment M up to which every acknowledged commit is stored.
        last_commit: time of the last commit stored.
        position: stored without a gap up to here, on `line`.
        segment: last whole segment stored.
        backlog: whole segments that wait; `backlog_bytes` what the volume keeps for them.
        lag_seconds: age of the oldest acknowledged commit that is not stored; 0.0 when everything is.
        failing_since: since when storing fails; None when it works.
        error: what the store says.
        free_bytes: room on the volume that holds the log; `limit_bytes` with what it keeps: more it cannot hold.
        full_in_seconds: until the limit is reached at the present rate; None while it is not approached.
        room: reason by which it is told that the limit comes near, "" while it does not.
        has_log: the engine keeps a log. Without one there is nothing to ship, and all else here is empty.
    """

    active: bool = False
    window_end: datetime | None = None
    last_commit: datetime | None = None
    position: str = ""
    line: str = ""
    segment: str = ""
    backlog: int = 0
    backlog_bytes: int = 0
    lag_seconds: float | None = None
    failing_since: datetime | None = None
    error: str = ""
    free_bytes: int = 0
    limit_bytes: int = 0
    full_in_seconds: float | None = None
    room: str = ""
    has_log: bool = True


class RestoreState(Struct):
    """A restore, under way or done: backup used, target, what was reached."""

    backup: str = ""
    line: str = ""
    state: str = ""
    reached_position: str = ""
    reached_time: datetime | None = None


class SwitchoverState(Struct):
    """The last switchover this agent took part in: request id, `running`, `done` or `failed`, a sentence."""

    id: str = ""
    state: str = ""
    message: str = ""


class AgentStatus(Struct):
    """All that an agent knows.

    Attributes:
        serial: grows with each change worth telling.
        phase: one of `starting`, `waiting`, `initializing`, `cloning`, `restoring`, `replaying`, `running`, `stopping`,
            `stopped`, `failed`; `message` says more.
        data: `empty`, `making`, `ready` or `foreign` (another incarnation's volume).
        ready: really usable in its role; the readiness probe's answer.
        generation, revision: of the document in force.
        problems: what is wrong now.
        rejected: settings that the server rejects, by name.
    """

    serial: int = 0
    instance: str = ""
    agent_version: str = ""
    phase: str = "starting"
    message: str = ""
    data: str = "empty"
    ready: bool = False
    generation: int = 0
    revision: int = 0
    restart: str = ""
    progress: Progress | None = None
    server: ServerState | None = None
    lease: LeaseState = LeaseState()
    archive: ArchiveState = ArchiveState()
    restore: RestoreState | None = None
    switchover: SwitchoverState = SwitchoverState()
    problems: list[Problem] = []
    rejected: dict[str, str] = {}


class Push(Struct):
    """What the operator pushes: the document and the stores' configuration."""

    document: InstanceDocument
    store: StoreDocument | None = None
    source: StoreDocument | None = None


class JobRequest(Struct):
    """Work to be done once. For now `kind` is `backup`; `id` is the backup's id in the repository.

    `shipper` is the control address `host:port` of the primary's agent, asked to ship the log up to the backup's end; ""
    when this instance ships itself. `traceparent` carries the trace on (W3C Trace Context).
    """

    kind: str
    id: str
    shipper: str = ""
    deadline_seconds: float = 86400.0
    traceparent: str = ""


class BackupResult(Struct):
    """A completed base backup, as its manifest has it."""

    id: str
    line: str
    begin_position: str
    end_position: str
    begin_time: datetime
    end_time: datetime
    bytes: int
    stored_bytes: int
    frozen_seconds: float


class JobStatus(Struct):
    """State of a job: `running`, `completed`, `failed`, `cancelled`."""

    state: str
    progress: Progress | None = None
    problem: Problem | None = None
    retryable: bool = False
    backup: BackupResult | None = None


class ShipRequest(Struct):
    """Ship the log on `line` through `segment` (a segment still being written is ended first), within the deadline."""

    line: str
    segment: str
    deadline_seconds: float = 60.0


class ShipAnswer(Struct):
    """Everything on the line through `segment` is stored."""

    segment: str
