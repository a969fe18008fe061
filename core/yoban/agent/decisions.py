"""What an instance does next: one pure function from everything that is known to one named step.

Guarantees: the same situation always gives the same step, and every step may be repeated or taken up again after a crash
at any point, because what was done shows on the volume, in the Lease or in the repository. Never does anything itself.

The rules are those of DESIGN sections 3 and 9: a Database initialises once, the Lease comes before the server, only the
last holder or the named successor takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from yoban.agent.lease import LeaseView

TAKE_BACK_AFTER = 60.0
"""Seconds for which a named successor may leave the Lease; then the last holder reigns again."""


class Volume(Enum):
    """What the data volume holds."""

    EMPTY = "empty"
    MAKING = "making"
    """Data that was never completed."""
    READY = "ready"
    FOREIGN = "foreign"
    """Another incarnation's data, or data without a marker."""
    DAMAGED = "damaged"
    """The marker says complete, the engine says no."""


class Identity(Enum):
    """Whose the repository is."""

    NO_STORE = "no store"
    UNKNOWN = "unknown"
    FREE = "free"
    """There is no identity, or it is ours and says that no data was made yet."""
    INITIALIZED = "initialized"
    FOREIGN = "foreign"


class Running(Enum):
    """What the server below the supervisor is."""

    NOTHING = "nothing"
    PRIMARY = "primary"
    REPLICA = "replica"
    RECOVERY = "recovery"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything a decision is made of.

    Attributes:
        me: this instance.
        incarnation: of the document in force.
        members: instances that are to exist.
        founder, restore: of the document: who may create the data, and whether by a restore.
        volume, reigned: what the volume holds, and whether it was last a primary's.
        reigned_in: the term of that reign; a Lease that was made anew does not know it.
        running: the server.
        lease: the primary's Lease.
        identity: the repository's; only looked up while the Lease has no mark of data.
        replicas: the engine can have replicas.
        covers: our replayed position covers the one left in the Lease; None when not known.
        switchover: instance asked for and the request's id, "" when none is asked for.
        restart: the server was started under another restart request than the one in force.
        rebuild: why this replica will never follow again by itself, "" when it may.
        stopping: the Pod ends.
        paused: nothing planned is begun.
        overdue: the server was told to stop, and has had the time for it.
    """

    me: str
    incarnation: str
    members: tuple[str, ...]
    founder: str
    restore: bool
    volume: Volume
    reigned: bool
    running: Running
    lease: LeaseView
    identity: Identity = Identity.NO_STORE
    replicas: bool = True
    covers: bool | None = None
    switchover: str = ""
    switchover_id: str = ""
    restart: bool = False
    rebuild: str = ""
    reigned_in: int = 0
    stopping: bool = False
    paused: bool = False
    overdue: bool = False


class Step(Enum):
    """What is done next."""

    WAIT = "wait"
    STOP = "stop"
    """Stop the server cleanly and give the Lease up: the Pod ends."""
    FENCE = "fence"
    """End the server at once: somebody else may reign."""
    FORCE = "force"
    """End the server at once: it was told to stop and does not."""
    TAKE = "take"
    """Take the Lease in the term named."""
    INITIALISE = "initialise"
    RESTORE = "restore"
    ANNOUNCE = "announce"
    """Write down that the data exists: in the repository, then in the Lease."""
    PROVISION = "provision"
    """Copy the data from the instance named."""
    START_PRIMARY = "start primary"
    START_REPLICA = "start replica"
    PROMOTE = "promote"
    HAND_OVER = "hand over"
    """Switchover to the instance named."""
    DECLINE = "decline"
    """Note a switchover as dealt with that needs nothing, or cannot be."""
    RESTART = "restart"
    REBUILD = "rebuild"
    """Stop a broken replica and empty its volume, to be copied anew."""
    RUN_PRIMARY = "run primary"
    RUN_REPLICA = "run replica"
    LET_GO = "let go"
    """Give up a Lease that we hold without data."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A step, why, and what it needs: another instance, a term. `problem` is a condition's reason when it is one."""

    step: Step
    why: str = ""
    peer: str = ""
    term: int = 0
    problem: str = ""
    fix: str = ""


def decide(now: Situation) -> Decision:
    """Return the next step."""
    if now.stopping:
        return Decision(Step.STOP, "the Pod ends")
    if now.running is Running.STOPPING:
        if now.overdue:
            return Decision(
                Step.FORCE,
                "the server was told to stop and did not; it is ended by force",
                problem="StopOverdue",
                fix="look into its log for what held it; it recovers at its next start",
            )
        return Decision(Step.WAIT, "the server is stopping")
    if now.running is Running.PRIMARY:
        return _primary(now)
    if now.running is Running.REPLICA:
        return _replica(now)
    if now.volume is Volume.FOREIGN:
        return Decision(
            Step.WAIT,
            "the volume holds another Database's data",
            problem="ForeignVolume",
            fix="give this instance an empty volume",
        )
    if now.volume is Volume.DAMAGED:
        return Decision(
            Step.WAIT,
            "the volume's data is not complete although it once was",
            problem="DataDamaged",
            fix="delete this instance's volume to have it copied anew, or restore",
        )
    if not now.lease.known:
        why = "the Lease does not exist yet" if now.lease.absent else "the Lease cannot be read yet"
        return Decision(Step.WAIT, why, problem="LeaseUnknown")
    if now.lease.initialized and now.lease.initialized != now.incarnation:
        return Decision(
            Step.WAIT,
            f"the Lease belongs to incarnation {now.lease.initialized}",
            problem="ForeignLease",
            fix="delete the Lease; the operator makes it anew",
        )
    if now.running is Running.RECOVERY or not now.lease.initialized:
        return _founding(now)
    return _empty(now) if now.volume in (Volume.EMPTY, Volume.MAKING) else _stopped(now)


def _primary(now: Situation) -> Decision:
    lease = now.lease
    if not lease.held:
        if lease.known and lease.holder and not lease.mine:
            return Decision(Step.FENCE, f"{lease.holder} holds the Lease")
        if lease.known and lease.takeable and _reigned_last(now) and not lease.successor:
            # Renewed too late, or the Lease was deleted and made anew: nobody else reigned since.
            return Decision(Step.TAKE, "nobody else took the Lease", term=_own_term(now))
        return Decision(
            Step.WAIT, "the Lease cannot be renewed; the server ends at its deadline", problem="LeaseUnknown"
        )
    if not lease.initialized:
        return Decision(Step.ANNOUNCE, "the Lease does not say that the data exists")
    if now.switchover_id and now.switchover_id != lease.switchover and not now.paused:
        if not now.switchover or now.switchover == now.me or now.switchover not in now.members or not now.replicas:
            return Decision(Step.DECLINE, f"switchover to {now.switchover or 'nobody'} needs nothing or cannot be")
        return Decision(Step.HAND_OVER, "switchover", peer=now.switchover, term=lease.term)
    if now.restart and not now.paused:
        return Decision(Step.RESTART, "a restart is asked for")
    return Decision(Step.RUN_PRIMARY, term=lease.term)


def _replica(now: Situation) -> Decision:
    lease = now.lease
    if lease.held:
        return Decision(Step.PROMOTE, "the Lease is ours", term=max(1, lease.term))
    if lease.known and lease.takeable and not lease.holder and lease.successor == now.me:
        if now.covers:
            return Decision(Step.TAKE, "named as successor, with everything replayed", term=lease.term + 1)
        return Decision(Step.RUN_REPLICA, "named as successor; replaying up to the hand-over")
    if now.rebuild:
        if lease.holder and lease.holder != now.me:
            return Decision(Step.REBUILD, now.rebuild, peer=lease.holder)
        return Decision(Step.RUN_REPLICA, f"{now.rebuild}; waiting for a primary to copy from", problem="ReplicaBroken")
    if now.restart and not now.paused:
        return Decision(Step.RESTART, "a restart is asked for")
    return Decision(Step.RUN_REPLICA, peer=lease.holder if lease.holder != now.me else "")


def _founding(now: Situation) -> Decision:
    """The Lease has no mark of data."""
    lease = now.lease
    if now.volume is Volume.READY and now.running is not Running.RECOVERY:
        if not now.reigned:
            return Decision(Step.WAIT, "a copy of a primary that is not there (yet)")
        if not _reigned_last(now):
            return Decision(Step.WAIT, f"{lease.last_holder or 'another instance'} reigned last")
        if now.identity is Identity.FOREIGN:
            return _foreign_repository()
        if not lease.held:
            return _take(now, _own_term(now))
        if now.identity is Identity.UNKNOWN:
            return _no_store()
        return Decision(Step.ANNOUNCE, "the data is complete")
    if now.founder != now.me:
        return Decision(Step.WAIT, f"{now.founder or 'nobody'} is to create the data")
    if now.identity is Identity.UNKNOWN:
        return _no_store()
    if now.identity is Identity.FOREIGN:
        return _foreign_repository()
    if now.identity is Identity.INITIALIZED:
        return Decision(
            Step.WAIT,
            "the repository says that this Database had data, and no volume has it",
            problem="DataLost",
            fix="restore it: create a new Database with bootstrap.restore from this one's repository",
        )
    if not lease.held:
        return _take(now, 1)
    if now.restore:
        return Decision(Step.RESTORE, "the data is restored from a repository", term=max(1, lease.term))
    return Decision(Step.INITIALISE, "the founder creates the data", term=max(1, lease.term))


def _empty(now: Situation) -> Decision:
    """The data exists somewhere, not here."""
    lease = now.lease
    if lease.held:
        return Decision(Step.LET_GO, "the data of the last primary is gone")
    if lease.holder and lease.holder != now.me and now.replicas:
        return Decision(Step.PROVISION, "a copy of the primary is needed", peer=lease.holder)
    lost = Decision(
        Step.WAIT,
        "this instance has no data and there is no primary to copy from",
        problem="DataLost" if lease.last_holder in ("", now.me) or not now.replicas else "",
        fix="bring an instance with data back, or restore into a new Database",
    )
    return lost if lost.problem else Decision(Step.WAIT, f"waiting for {lease.last_holder} to copy from")


def _stopped(now: Situation) -> Decision:
    """Complete data, no server."""
    lease = now.lease
    if lease.held:
        if now.reigned:
            return Decision(Step.START_PRIMARY, "the Lease is ours", term=max(1, lease.term))
        return Decision(Step.START_REPLICA, "the Lease is ours; it is promoted after its start")
    if _reigned_last(now):
        if lease.successor in ("", now.me):
            return _take(now, _own_term(now))
        if not lease.holder:
            if lease.unchanged >= TAKE_BACK_AFTER and lease.takeable:
                return Decision(Step.TAKE, f"{lease.successor} did not take the Lease in time", term=max(1, lease.term))
            return Decision(Step.WAIT, f"handing over to {lease.successor}")
    if lease.holder == now.me:
        return Decision(Step.WAIT, "an earlier Pod of this name holds the Lease")
    if not now.replicas:
        return Decision(Step.WAIT, f"{lease.holder or lease.last_holder or 'nobody'} reigns")
    if now.reigned and not lease.holder:
        return Decision(Step.WAIT, "waiting for the next primary to follow")
    return Decision(Step.START_REPLICA, f"{lease.holder or 'nobody'} reigns", peer=lease.holder)


def _reigned_last(now: Situation) -> bool:
    """Whether nobody is known to have reigned after us. A Lease that was made anew names no last holder, but its term: data
    of an older reign may be of a primary that was away when another one took over."""
    lease = now.lease
    return lease.last_holder == now.me or (not lease.last_holder and now.reigned and now.reigned_in >= lease.term)


def _own_term(now: Situation) -> int:
    """The term of a reign that goes on."""
    return max(1, now.lease.term, now.reigned_in)


def _take(now: Situation, term: int) -> Decision:
    if now.lease.takeable:
        return Decision(Step.TAKE, "nobody holds the Lease", term=term)
    return Decision(Step.WAIT, f"the Lease of {now.lease.holder} has not run out")


def _no_store() -> Decision:
    return Decision(
        Step.WAIT,
        "the object store does not answer, so nobody can tell whether this Database had data before",
        problem="StoreUnavailable",
        fix="make the ObjectStore reachable, or correct its endpoint and credentials",
    )


def _foreign_repository() -> Decision:
    return Decision(
        Step.WAIT,
        "another incarnation writes to this place in the object store",
        problem="OwnedByAnother",
        fix="use another prefix",
    )
