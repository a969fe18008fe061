"""What is told of a Database: conditions, phase, instances, figures. Nothing is ever decided by it.

Guarantees: pure. Figures that move by themselves (positions, lags, window, progress) are taken over from the last
report until half a minute has passed or something that does not move has changed, so that a quiet Database is not written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from yoban.domain.compliance import Verdict
from yoban.domain.summary import DatabaseFacts, Fault, Observation, Truth, database_ready, fault, size, span
from yoban.errors import DeadlineExceeded, NotReady, Retryable, Unavailable
from yoban.kube.clock import rfc3339
from yoban.kube.conditions import Condition, Status, merge
from yoban.kube.errors import ApiError, Rejected
from yoban.kube.objects import Obj, conditions_of, generation_of
from yoban.model.control import AgentStatus
from yoban.model.fields import cut
from yoban.plugins.registry import Source
from yoban.reconcilers.database.admit import Admitted
from yoban.reconcilers.database.observed import Observed
from yoban.reconcilers.database.operations import Operations
from yoban.reconcilers.database.pods import not_made, pod_fault
from yoban.reconcilers.database.ports import Catalogued

KNOWN = ("Ready", "Archiving", "Recoverable")
FIGURES_EVERY = timedelta(seconds=30)
POSITION_SHOWN = 4096
"""Characters of an instance's position in the status: all instances must fit into one object."""
_MOVING = ("window", "lag", "rpo", "lastBackup")
_MOVING_OF_INSTANCE = ("position", "lagSeconds", "message")
_ACTIVITIES = ("initializing", "cloning", "restoring", "replaying")
# What passes by itself: told as the reason while nobody serves, but no failure.
_PASSING = frozenset(
    (
        "StoreUnavailable",
        "LeaseUnknown",
        "ReplicaBroken",
        "ArchiveFailing",
        "LogFilling",
        "LogNearlyFull",
        *(kind.reason for kind in (Retryable, Unavailable, DeadlineExceeded, NotReady)),
    )
)


@dataclass(frozen=True, slots=True)
class Told:
    """What a pass found out, to be told.

    Attributes:
        wanted: instances wanted.
        observed: the Database now; None when it could not be gathered.
        faults: what is wrong.
        admitted: the specification, None when it cannot be.
        operations: what is being done.
        members: numbers of the members.
        data_lost: no volume has the data.
        catalogued: what is in its repository.
        backed_up: a policy is referred to.
        verdict: whether its policy holds, None when nobody judged yet.
        store: name of the ObjectStore of its policy, "" for none.
        activity: what is under way besides.
        deleting: the object is being deleted.
        paused: nothing planned is begun.
        podless: members that have had no Pod for longer than one takes to be made.
    """

    wanted: int
    observed: Observed | None = None
    faults: tuple[Fault, ...] = ()
    admitted: Admitted | None = None
    operations: Operations = field(default_factory=Operations)
    members: tuple[int, ...] = ()
    data_lost: bool = False
    catalogued: Catalogued | None = None
    backed_up: bool = False
    verdict: Verdict | None = None
    store: str = ""
    activity: str = ""
    deleting: bool = False
    paused: bool = False
    podless: frozenset[int] = frozenset()


def ended(error: Exception, told: Told) -> Fault:
    """What ended a pass, as a fault: nothing more is done for the Database until it is gone.

    A request that is wrong in itself is somebody's to correct; what is not allowed now may be allowed in a moment.
    """
    if not isinstance(error, ApiError):
        return replace(fault(error), blocking=True)
    wrong = isinstance(error, Rejected)
    return Fault(
        "Refused",
        f"the API server refuses {error.object}: {error.message}",
        "correct spec" if wrong else "change spec, or the quota, policy or permission that does not allow it",
        terminal=wrong and not _serving(told),
    )


def status(cached: Obj, told: Told, now: datetime, figures_at: datetime | None) -> tuple[dict[str, Any], bool]:
    """The status to write, and whether it holds new figures.

    Args:
        cached: the Database as it is, with its last status.
        told: what was found out.
        now: aware time.
        figures_at: when figures were written last, None for never (by this process).
    """
    fresh = _status(cached, told, now)
    last: dict[str, Any] = cached.get("status") or {}
    if figures_at is None or now - figures_at >= FIGURES_EVERY or _still(fresh) != _still(last):
        return fresh, True
    return _with_figures(fresh, last), False


def _status(cached: Obj, told: Told, now: datetime) -> dict[str, Any]:
    observed, admitted = told.observed, told.admitted
    primary = observed.primary if observed is not None else None
    ready = [n for n in told.members if observed is not None and observed.ready(n)]
    faults = _unique((*told.faults, *_instances_faults(told)))
    activity = told.activity or told.operations.activity or _agents_activity(told)
    facts = DatabaseFacts(
        wanted=told.wanted,
        ready=len(ready),
        primary=observed.names.instance(primary) if observed is not None and primary is not None else "",
        primary_ready=primary in ready,
        primary_served=observed is not None and primary is not None and observed.labelled(primary) == "primary",
        activity=activity,
        faults=faults,
        deleting=told.deleting,
        paused=told.paused,
        data_lost=told.data_lost,
    )
    summary = _going(told) if told.deleting else _lost(told) if told.data_lost else database_ready(facts)
    conditions = [
        Condition("Ready", _TRUTH[summary.truth], summary.reason, summary.message),
        _archiving(told),
        _recoverable(told),
    ]
    found: dict[str, Any] = {
        "observedGeneration": generation_of(cached),
        "phase": _phase(told, facts, summary.truth),
        "ready": f"{len(ready)}/{told.wanted}",
        "conditions": merge(conditions_of(cached), conditions, known=KNOWN, generation=generation_of(cached), now=now),
    }
    if admitted is not None:
        found |= {
            "version": _version(told) or admitted.blueprint.version,
            "image": admitted.blueprint.image,
            "incarnation": admitted.names.incarnation,
            "path": admitted.names.repository,
            "plugin": _plugin(admitted.source),
        }
    if restored := _restored(cached, told):
        found["restored"] = restored
    if observed is not None:
        if facts.primary:
            found["primary"] = facts.primary
        found["instances"] = [_instance(observed, number) for number in told.members]
        lags = [lag for number in told.members if number != primary and (lag := _lag(observed, number)) is not None]
        if lags:
            found["lag"] = span(max(lags))
        if told.operations.restarted:
            found["restart"] = told.operations.restarted
    outcome = told.operations.outcome
    if outcome is not None:
        found["switchover"] = {"id": outcome.id, "state": outcome.state, "message": outcome.message[:1024]}
    found |= {**_figures(told), **(_satisfaction(cached, told.verdict, now) if told.backed_up else {})}
    return found


def _restored(cached: Obj, told: Told) -> dict[str, Any]:
    """Where the restore ended: as its founder tells once it is done, kept when its agent is another one by now."""
    observed = told.observed
    for number in told.members if observed is not None else ():
        agent = observed.agent(number) if observed is not None else None
        restore = agent.restore if agent is not None else None
        if restore is not None and restore.state == "done":
            last = restore.reached_time
            return {
                "backup": restore.backup,
                "line": restore.line,
                "position": cut(restore.reached_position, POSITION_SHOWN),
                **({"lastCommit": rfc3339(last)} if last is not None else {}),
            }
    kept: dict[str, Any] = (cached.get("status") or {}).get("restored") or {}
    return kept


def _plugin(source: Source) -> dict[str, str]:
    """The plugin in charge: its distribution, or its own name when it was given in-process."""
    return {"name": source.distribution or source.plugin, **({"version": source.version} if source.version else {})}


def _going(told: Told) -> Observation:
    """Ready of a Database that is being taken away: what it waits for."""
    wrong = next(iter(told.faults), None)
    if wrong is not None:
        return Observation("Ready", Truth.FALSE, wrong.reason, f"its deletion waits: {wrong}")
    return Observation("Ready", Truth.FALSE, "Deleting", f"it is being deleted: {told.activity}")


def _lost(told: Told) -> Observation:
    """Ready of a Database whose data is gone: with the restore to run."""
    text = "its data existed and no volume has it any more; nothing is made in its place"
    if told.admitted is not None and told.store:
        place = f"{{objectStore: {told.store}, path: {told.admitted.names.repository}}}"
        text += f"; to restore it, create a Database with bootstrap.restore.source: {place}"
    else:
        text += "; it has no backups: bring the volumes back, or delete it"
    return Observation("Ready", Truth.FALSE, "DataLost", text)


_TRUTH = {Truth.TRUE: Status.TRUE, Truth.FALSE: Status.FALSE, Truth.UNKNOWN: Status.UNKNOWN}


def _phase(told: Told, facts: DatabaseFacts, ready: Truth) -> str:
    observed = told.observed
    if told.deleting:
        return "Deleting"
    if told.data_lost or (ready is Truth.FALSE and any(f.blocking and f.terminal for f in facts.faults)):
        return "Failed"
    if observed is None or not told.members:
        return "Pending"
    outcome = told.operations.outcome
    if outcome is not None and outcome.state == "running":
        return "Switching"
    if not observed.initialized:
        restoring = told.admitted is not None and told.admitted.target is not None
        return "Restoring" if restoring else "Creating"
    if told.operations.activity:
        return "Updating"
    return "Running" if facts.primary_ready and facts.ready >= facts.wanted else "Degraded"


def _primary_agent(told: Told) -> AgentStatus | None:
    observed = told.observed
    if observed is None or observed.primary is None:
        return None
    return observed.agent(observed.primary)


def _version(told: Told) -> str:
    agent = _primary_agent(told)
    return agent.server.version if agent is not None and agent.server is not None else ""


def _instance(observed: Observed, number: int) -> dict[str, Any]:
    agent = observed.agent(number)
    entry: dict[str, Any] = {
        "name": observed.names.instance(number),
        "number": number,
        "ready": observed.ready(number),
        "role": "",
        "phase": "",
    }
    if agent is None:
        return {**entry, "phase": "" if observed.gone(number) else "unknown"}
    server = agent.server
    # One look that the server did not answer is no change of role: the agent withdraws the label when it is lost.
    role = (server.role if server is not None else "") or observed.labelled(number)
    entry |= {"role": role, "phase": agent.phase, "message": _message(agent)}
    if server is not None:
        entry["position"] = cut(server.position, POSITION_SHOWN)
        lag = _lag(observed, number)
        if lag is not None:
            entry["lagSeconds"] = round(lag, 3)
    return entry


def _lag(observed: Observed, number: int) -> float | None:
    agent = observed.agent(number)
    lag = agent.server.lag_seconds if agent is not None and agent.server is not None else None
    return max(0.0, lag) if lag is not None else None


def _message(agent: AgentStatus) -> str:
    progress = agent.progress
    text = agent.message
    if progress is not None and progress.total:
        done = f"{progress.what} {100 * progress.done // progress.total} % of {size(progress.total)}"
        text = f"{text}; {done}" if text else done
    restore = agent.restore
    if restore is not None and restore.state == "replaying" and restore.reached_time is not None:
        text = f"{text}; " if text else ""
        text += f"replayed up to the commit of {rfc3339(restore.reached_time)}"
    return text[:1024]


def _agents_activity(told: Told) -> str:
    if told.observed is None:
        return ""
    for number in told.members:
        agent = told.observed.agent(number)
        if agent is not None and agent.phase in _ACTIVITIES:
            return f"{told.observed.names.instance(number)} is {agent.phase}"
    return "" if told.observed.initialized or not told.members else "instances are being made"


def _serving(told: Told) -> bool:
    observed = told.observed
    primary = observed.primary if observed is not None else None
    return observed is not None and primary is not None and primary in told.members and observed.ready(primary)


def _instances_faults(told: Told) -> list[Fault]:
    """What Pods and agents say is wrong: it degrades a Database whose primary serves, and is the reason when it does not."""
    found: list[Fault] = []
    observed = told.observed
    if observed is None:
        return found
    serving = _serving(told)
    for number in told.members:
        agent, pod = observed.agent(number), observed.pods.get(number)
        if number in told.podless:
            found.append(replace(not_made(observed.names.instance(number)), blocking=not serving))
        if pod is not None and not observed.ready(number) and (wrong := pod_fault(pod)) is not None:
            found.append(replace(wrong, blocking=not serving))
        if agent is None:
            continue
        for problem in agent.problems:
            text = f"{observed.names.instance(number)}: {problem.message}"
            # A rejected setting is its owner's to correct, whoever serves meanwhile. What a server says of itself is told
            # beside, and is never why nobody serves.
            blocking = problem.reason == "SettingsRejected" or not (serving or problem.reason == "ServerProblem")
            terminal = blocking and problem.reason not in _PASSING
            found.append(Fault(problem.reason, text, problem.fix, terminal=terminal, blocking=blocking))
        if agent.rejected:
            text = "; ".join(f"{name}: {why}" for name, why in sorted(agent.rejected.items()))
            why = f"the server rejects {text}"
            found.append(Fault("SettingsRejected", why, "correct spec.settings", terminal=True))
    return found


def _unique(faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    seen: dict[str, Fault] = {}
    for entry in faults:
        seen.setdefault(entry.reason, entry)
    return tuple(seen.values())


def _archiving(told: Told) -> Condition:
    if not told.backed_up:
        return Condition("Archiving", Status.FALSE, "NoPolicy", "no backup policy is named: nothing can be restored")
    agent = _primary_agent(told)
    if agent is None:
        return Condition("Archiving", Status.UNKNOWN, "NotYetObserved", "the primary's agent was not heard yet")
    archive = agent.archive
    if not archive.has_log:
        text = "the engine keeps no log: what its base backups hold can be restored, and nothing between them"
        return Condition("Archiving", Status.FALSE, "NoLog", text)
    if archive.failing_since is not None:
        kept = f"{archive.backlog} segments ({size(archive.backlog_bytes)}) are kept on the volume"
        room = f"; {size(archive.free_bytes)} are free"
        if archive.full_in_seconds is not None:
            room += f", enough for about {span(archive.full_in_seconds)} at the present rate, then writes stop"
        text = f"storing the log fails since {rfc3339(archive.failing_since)}: {archive.error}; {kept}{room}"
        return Condition("Archiving", Status.FALSE, "ArchiveFailing", text)
    if archive.room:
        kept, limit = size(archive.backlog_bytes), size(archive.limit_bytes)
        text = f"{kept} of log wait to be stored, of {limit} that the volume can hold"
        if archive.full_in_seconds is not None:
            text += f"; at the present rate it is full in about {span(archive.full_in_seconds)}"
        text += f"; writes stop when it is full; {_fix(agent, archive.room)}"
        if archive.room == "LogNearlyFull":
            return Condition("Archiving", Status.FALSE, "LogNearlyFull", text)
        return Condition("Archiving", Status.FALSE, "LogFilling", text)
    if not archive.active:
        return Condition("Archiving", Status.UNKNOWN, "Starting", "archiving has not begun yet")
    return Condition("Archiving", Status.TRUE, "Archiving", "every commit is stored as the policy asks")


def _recoverable(told: Told) -> Condition:
    """Whether what is stored can be restored up to its end, by what is in the store, whatever the primary says."""
    if not told.backed_up:
        return Condition("Recoverable", Status.FALSE, "NoPolicy", "no backup policy is named: nothing can be restored")
    catalogued = told.catalogued
    if catalogued is None or (catalogued.fault is None and catalogued.looked_at is None):
        return Condition("Recoverable", Status.UNKNOWN, "NotYetObserved", "the repository was not read yet")
    window, wrong = catalogued.window, catalogued.hindrance
    proven = ""
    if window is not None:
        proven = f"what was stored since {rfc3339(window.start)} can be restored; status.window says up to when"
    if wrong is not None:
        blocked = wrong.blocking or window is None
        return Condition("Recoverable", Status.FALSE if blocked else Status.TRUE, wrong.reason, str(wrong))
    if catalogued.fault is not None:
        text = "; ".join(part for part in (f"the repository cannot be read: {catalogued.fault}", proven) if part)
        return Condition("Recoverable", Status.UNKNOWN, catalogued.fault.reason, text)
    if window is None:
        text = "no base backup is stored yet; the first is made by itself when the primary is ready"
        return Condition("Recoverable", Status.FALSE, "NoBackup", text)
    return Condition("Recoverable", Status.TRUE, "Recoverable", proven)


def _fix(agent: AgentStatus, reason: str) -> str:
    return next((problem.fix for problem in agent.problems if problem.reason == reason), "")


def _figures(told: Told) -> dict[str, Any]:
    agent, catalogued = _primary_agent(told), told.catalogued
    found: dict[str, Any] = {}
    window = catalogued.window if catalogued is not None else None
    archive = agent.archive if agent is not None else None
    if window is not None:
        end, last = window.end, window.last_commit
        # What the primary has stored meanwhile counts, unless a restore does not get that far.
        broken = catalogued is not None and catalogued.hindrance is not None and catalogued.hindrance.blocking
        if not broken and archive is not None and archive.window_end is not None and archive.window_end > end:
            end, last = archive.window_end, archive.last_commit or last
        found["window"] = {"start": rfc3339(window.start), "end": rfc3339(end)}
        if last is not None:
            found["window"]["lastCommit"] = rfc3339(last)
    if catalogued is not None and catalogued.newest_backup is not None:
        found["lastBackup"] = rfc3339(catalogued.newest_backup)
    lag = archive.lag_seconds if archive is not None and archive.active else None
    if lag is not None:
        found["rpo"] = span(lag)
    return found


def _satisfaction(cached: Obj, verdict: Verdict | None, now: datetime) -> dict[str, Any]:
    if verdict is None or verdict.satisfied is None:
        return {}
    last: dict[str, Any] = cached.get("status") or {}
    since = rfc3339(verdict.since) if verdict.since is not None else ""
    if last.get("policySatisfied") is verdict.satisfied and last.get("policySince"):
        since = str(last["policySince"])
    return {"policySatisfied": verdict.satisfied, "policySince": since or rfc3339(now)}


def _still(found: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a status that does not move by itself."""
    rest = {name: value for name, value in found.items() if name not in _MOVING}
    rest["instances"] = [
        {name: value for name, value in entry.items() if name not in _MOVING_OF_INSTANCE}
        for entry in found.get("instances", ())
    ]
    rest["conditions"] = [
        {"type": entry.get("type"), "status": entry.get("status"), "reason": entry.get("reason"),
         "observedGeneration": entry.get("observedGeneration")}
        for entry in found.get("conditions", ())
    ]  # fmt: skip
    return rest


def _with_figures(fresh: dict[str, Any], last: Mapping[str, Any]) -> dict[str, Any]:
    """`fresh` with the moving figures of `last`."""
    result = {name: value for name, value in fresh.items() if name not in _MOVING}
    result |= {name: last[name] for name in _MOVING if name in last}
    before = {entry.get("name"): entry for entry in last.get("instances", ())}
    if "instances" in fresh:
        result["instances"] = [
            {
                **{name: value for name, value in entry.items() if name not in _MOVING_OF_INSTANCE},
                **{name: old[name] for name in _MOVING_OF_INSTANCE if name in (old := before.get(entry["name"], {}))},
            }
            for entry in fresh["instances"]
        ]
    said = {entry.get("type"): entry for entry in last.get("conditions", ())}
    result["conditions"] = [
        {**entry, "message": said.get(entry["type"], entry)["message"]} for entry in fresh["conditions"]
    ]
    return result
