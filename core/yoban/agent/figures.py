"""The agent's status as gauges: role, readiness, replication lag, Lease, archive, volume.

Guarantees to read only what the board holds: a scrape asks neither server nor store. What is not known is left out rather
than shown as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter

from yoban.model.control import AgentStatus

Read = Callable[[AgentStatus], Iterable[Observation]]


def observe(status: Callable[[], AgentStatus], meter: Meter | None = None) -> None:
    """Add the gauges to the meter. Called once a process.

    Args:
        status: returns the status now; called on a scrape's thread.
        meter: the process's own by default.
    """
    meter = meter or get_meter("yoban.agent")

    def gauge(name: str, unit: str, description: str, read: Read) -> None:
        def callback(_: CallbackOptions) -> Iterable[Observation]:
            return read(status())

        meter.create_observable_gauge(name, [callback], unit=unit, description=description)

    gauge("yoban.instance.ready", "1", "1 while the instance is really usable in its role.", _ready)
    gauge("yoban.instance.role", "1", "1 with the label of the role that the server has.", _role)
    gauge("yoban.instance.problems", "1", "Things that are wrong now, by reason.", _problems)
    gauge("yoban.replication.lag", "s", "On a replica how far behind its primary it is.", _lag)
    gauge("yoban.replication.streaming", "1", "On a primary 1 for each replica that follows.", _streaming)
    gauge("yoban.lease.held", "1", "1 while this instance holds the primary Lease.", _held)
    gauge("yoban.lease.term", "1", "Number of the present reign.", _term)
    gauge("yoban.lease.expires", "s", "Time until the Lease runs out.", _expires)
    gauge("yoban.archive.backlog", "1", "Whole segments of the log that wait to be stored.", _backlog)
    gauge("yoban.archive.backlog.size", "By", "What the volume keeps for them.", _backlog_bytes)
    gauge("yoban.archive.failing", "s", "For how long storing has failed; 0 while it works.", _failing)
    gauge("yoban.archive.window.age", "s", "Age of the latest moment that can be restored.", _window_age)
    gauge("yoban.log.volume.free", "By", "Room on the volume that holds the log.", _free)
    gauge(
        "yoban.log.volume.limit",
        "By",
        "Log not stored yet that the volume can hold: what it keeps and what is free.",
        _limit,
    )
    gauge(
        "yoban.log.volume.full", "s", "Time until it is full at the present rate; absent while it does not fill.", _full
    )


def _ready(status: AgentStatus) -> Iterable[Observation]:
    yield Observation(int(status.ready))


def _role(status: AgentStatus) -> Iterable[Observation]:
    if status.server is not None and status.server.role:
        yield Observation(1, {"role": status.server.role})


def _problems(status: AgentStatus) -> Iterable[Observation]:
    reasons = [problem.reason for problem in status.problems]
    for reason in sorted(set(reasons)):
        yield Observation(reasons.count(reason), {"reason": reason})


def _lag(status: AgentStatus) -> Iterable[Observation]:
    server = status.server
    if server is not None and server.role == "replica" and server.lag_seconds is not None:
        yield Observation(server.lag_seconds)


def _streaming(status: AgentStatus) -> Iterable[Observation]:
    for replica in status.server.replicas if status.server is not None else ():
        yield Observation(int(replica.streaming), {"replica": replica.name})


def _held(status: AgentStatus) -> Iterable[Observation]:
    yield Observation(int(status.lease.held))


def _term(status: AgentStatus) -> Iterable[Observation]:
    if status.lease.term:
        yield Observation(status.lease.term)


def _expires(status: AgentStatus) -> Iterable[Observation]:
    if status.lease.holder:
        yield Observation(status.lease.expires_in)


def _backlog(status: AgentStatus) -> Iterable[Observation]:
    yield Observation(status.archive.backlog)


def _backlog_bytes(status: AgentStatus) -> Iterable[Observation]:
    yield Observation(status.archive.backlog_bytes)


def _failing(status: AgentStatus) -> Iterable[Observation]:
    since = status.archive.failing_since
    yield Observation(_age(since) if since is not None else 0)


def _window_age(status: AgentStatus) -> Iterable[Observation]:
    if status.archive.active and status.archive.window_end is not None:
        yield Observation(_age(status.archive.window_end))


def _free(status: AgentStatus) -> Iterable[Observation]:
    if status.archive.free_bytes:
        yield Observation(status.archive.free_bytes)


def _limit(status: AgentStatus) -> Iterable[Observation]:
    if status.archive.limit_bytes:
        yield Observation(status.archive.limit_bytes)


def _full(status: AgentStatus) -> Iterable[Observation]:
    if status.archive.full_in_seconds is not None:
        yield Observation(status.archive.full_in_seconds)


def _age(moment: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - moment).total_seconds())
