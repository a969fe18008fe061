"""The decision function: each rule, and the crash matrix of "a Database initialises once"."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest
from yoban.agent.decisions import Decision, Identity, Running, Situation, Step, Volume, decide
from yoban.agent.lease import LeaseView

ME, OTHER = "orders-1", "orders-2"
LIFE = "0123456789ab"

FREE = LeaseView(known=True, takeable=True)
HELD = LeaseView(known=True, holder=ME, held=True, mine=True, takeable=True, term=1, last_holder=ME, initialized=LIFE)
THEIRS = LeaseView(known=True, holder=OTHER, term=2, last_holder=OTHER, initialized=LIFE, expires_in=12.0)

BASE = Situation(
    me=ME,
    incarnation=LIFE,
    members=(ME, OTHER),
    founder=ME,
    restore=False,
    volume=Volume.READY,
    reigned=True,
    running=Running.NOTHING,
    lease=HELD,
)
FOUNDING = replace(BASE, volume=Volume.EMPTY, reigned=False, lease=FREE)
PRIMARY = replace(BASE, running=Running.PRIMARY)
REPLICA = replace(BASE, running=Running.REPLICA, reigned=False, lease=THEIRS)


def step(situation: Situation) -> Step:
    return decide(situation).step


# -- founding ----------------------------------------------------------------------------------------------------------


def test_the_founder_takes_the_lease_before_it_makes_data() -> None:
    assert decide(FOUNDING) == Decision(Step.TAKE, "nobody holds the Lease", term=1)
    held = replace(FREE, holder=ME, held=True, mine=True, term=1)
    assert step(replace(FOUNDING, lease=held)) is Step.INITIALISE
    assert step(replace(FOUNDING, lease=held, restore=True)) is Step.RESTORE


@pytest.mark.parametrize(
    ("identity", "problem"),
    [
        (Identity.UNKNOWN, "StoreUnavailable"),
        (Identity.FOREIGN, "OwnedByAnother"),
        (Identity.INITIALIZED, "DataLost"),
    ],
)
def test_no_data_is_made_unless_the_repository_is_known_to_be_free(identity: Identity, problem: str) -> None:
    for lease in (FREE, replace(FREE, holder=ME, held=True, mine=True)):
        for volume in (Volume.EMPTY, Volume.MAKING):
            decision = decide(replace(FOUNDING, lease=lease, identity=identity, volume=volume))
            assert (decision.step, decision.problem) == (Step.WAIT, problem)


def test_only_the_founder_makes_data() -> None:
    assert step(replace(FOUNDING, founder=OTHER)) is Step.WAIT
    assert step(replace(FOUNDING, founder="")) is Step.WAIT


def test_an_unknown_lease_is_waited_for() -> None:
    decision = decide(replace(FOUNDING, lease=LeaseView()))
    assert (decision.step, decision.problem) == (Step.WAIT, "LeaseUnknown")


@pytest.mark.parametrize("volume", [Volume.EMPTY, Volume.MAKING])
def test_with_a_mark_of_data_nothing_is_ever_made(volume: Volume) -> None:
    """Every lease that says initialized: an empty volume is copied or waited with, never filled anew."""
    for held, holder, last, founder, identity in itertools.product(
        (False, True), ("", ME, OTHER), ("", ME, OTHER), ("", ME, OTHER), Identity
    ):
        lease = LeaseView(
            known=True, initialized=LIFE, holder=holder, held=held and holder == ME, mine=holder == ME,
            takeable=holder != OTHER, last_holder=last, term=1,
        )  # fmt: skip
        now = replace(FOUNDING, volume=volume, lease=lease, founder=founder, identity=identity)
        assert step(now) in (Step.WAIT, Step.PROVISION, Step.LET_GO)


def test_data_of_others_is_never_touched() -> None:
    for volume in (Volume.FOREIGN, Volume.DAMAGED):
        for lease in (FREE, HELD, THEIRS):
            decision = decide(replace(BASE, volume=volume, lease=lease))
            assert decision.step is Step.WAIT
            assert decision.problem


def test_all_data_lost_is_told() -> None:
    lease = LeaseView(known=True, initialized=LIFE, last_holder=ME, takeable=True)
    decision = decide(replace(FOUNDING, lease=lease))
    assert (decision.step, decision.problem) == (Step.WAIT, "DataLost")
    assert "restore" in decision.fix


def test_a_lease_of_another_incarnation_stops_everything() -> None:
    assert decide(replace(BASE, lease=replace(HELD, initialized="ffffffffffff"))).problem == "ForeignLease"


# -- who reigns --------------------------------------------------------------------------------------------------------


def test_the_last_holder_reigns_again_in_its_term() -> None:
    lease = LeaseView(known=True, takeable=True, last_holder=ME, term=7, initialized=LIFE)
    assert decide(replace(BASE, lease=lease)) == Decision(Step.TAKE, "nobody holds the Lease", term=7)
    assert step(BASE) is Step.START_PRIMARY


@pytest.mark.parametrize("running", [Running.NOTHING, Running.PRIMARY])
@pytest.mark.parametrize("initialized", ["", LIFE])
def test_bug_data_of_an_older_reign_took_a_lease_that_was_made_anew(running: Running, initialized: str) -> None:
    # This one reigned in term 1 and was away when term 2 began; then the Lease was deleted, which names nobody now.
    lease = LeaseView(known=True, takeable=True, term=2, initialized=initialized)
    old = replace(BASE, running=running, lease=lease, reigned_in=1)
    assert step(old) is Step.WAIT
    assert decide(replace(old, reigned_in=2)).step is Step.TAKE


def test_an_earlier_pod_of_our_name_is_waited_out() -> None:
    lease = LeaseView(known=True, holder=ME, last_holder=ME, term=7, initialized=LIFE, expires_in=9)
    assert step(replace(BASE, lease=lease)) is Step.WAIT
    assert step(replace(BASE, lease=replace(lease, takeable=True, expires_in=0))) is Step.TAKE


def test_anyone_else_starts_as_a_replica() -> None:
    decision = decide(replace(BASE, lease=THEIRS))
    assert (decision.step, decision.peer) == (Step.START_REPLICA, OTHER)
    expired = replace(THEIRS, holder="", takeable=True)
    assert step(replace(BASE, reigned=False, lease=expired)) is Step.START_REPLICA


def test_a_replica_never_takes_a_lease_it_is_not_named_for() -> None:
    for holder, last, successor, covers in itertools.product(
        ("", OTHER), ("", OTHER), ("", OTHER, "orders-3"), (None, False, True)
    ):
        lease = LeaseView(
            known=True, takeable=True, holder=holder, last_holder=last, successor=successor, term=2, initialized=LIFE
        )
        for running in (Running.REPLICA, Running.NOTHING):
            now = replace(REPLICA, running=running, lease=lease, covers=covers)
            assert step(now) is not Step.TAKE


@pytest.mark.parametrize(
    ("covers", "expected"), [(True, Step.TAKE), (False, Step.RUN_REPLICA), (None, Step.RUN_REPLICA)]
)
def test_the_named_successor_takes_over_only_with_everything(covers: bool | None, expected: Step) -> None:
    lease = LeaseView(
        known=True, takeable=True, last_holder=OTHER, successor=ME, position="9", term=2, initialized=LIFE
    )
    decision = decide(replace(REPLICA, lease=lease, covers=covers))
    assert decision.step is expected
    if expected is Step.TAKE:
        assert decision.term == 3


def test_a_promotion_that_was_interrupted_goes_on() -> None:
    """Crash after taking the Lease: the server still follows, or does not run at all."""
    lease = replace(HELD, term=3)
    assert decide(replace(REPLICA, lease=lease)) == Decision(Step.PROMOTE, "the Lease is ours", term=3)
    stopped = replace(REPLICA, lease=lease, running=Running.NOTHING)
    assert step(stopped) is Step.START_REPLICA


def test_a_hand_over_that_nobody_takes_is_taken_back() -> None:
    lease = LeaseView(
        known=True, takeable=True, last_holder=ME, successor=OTHER, position="9", term=2, initialized=LIFE
    )
    assert step(replace(BASE, lease=replace(lease, unchanged=59))) is Step.WAIT
    back = decide(replace(BASE, lease=replace(lease, unchanged=60)))
    assert (back.step, back.term) == (Step.TAKE, 2)


def test_the_old_primary_waits_for_the_new_one_to_follow() -> None:
    lease = LeaseView(known=True, takeable=True, last_holder=OTHER, term=3, initialized=LIFE)
    assert step(replace(BASE, lease=lease)) is Step.WAIT


# -- a running primary -------------------------------------------------------------------------------------------------


def test_a_primary_that_lost_its_lease_is_ended() -> None:
    assert step(replace(PRIMARY, lease=THEIRS)) is Step.FENCE


def test_a_primary_that_cannot_renew_waits_for_its_deadline() -> None:
    lease = replace(HELD, held=False, takeable=False)
    assert step(replace(PRIMARY, lease=lease)) is Step.WAIT
    assert step(replace(PRIMARY, lease=LeaseView())) is Step.WAIT


def test_a_lease_made_anew_is_taken_by_who_reigns() -> None:
    assert step(replace(PRIMARY, lease=FREE)) is Step.TAKE
    held = replace(FREE, holder=ME, held=True, mine=True, term=1)
    assert step(replace(PRIMARY, lease=held)) is Step.ANNOUNCE


def test_a_lease_made_anew_is_not_taken_by_a_replica() -> None:
    """The founder may be a replica by now: it must not reign beside the primary."""
    assert step(replace(REPLICA, lease=FREE)) is Step.RUN_REPLICA
    assert step(replace(REPLICA, running=Running.NOTHING, lease=FREE)) is Step.WAIT


def test_a_switchover_is_tried_once() -> None:
    asked = replace(PRIMARY, switchover=OTHER, switchover_id="a")
    assert decide(asked) == Decision(Step.HAND_OVER, "switchover", peer=OTHER, term=1)
    assert step(replace(asked, lease=replace(HELD, switchover="a"))) is Step.RUN_PRIMARY
    assert step(replace(asked, paused=True)) is Step.RUN_PRIMARY
    for target in ("", ME, "orders-9"):
        assert step(replace(asked, switchover=target)) is Step.DECLINE


def test_restarts_and_rebuilds() -> None:
    assert step(replace(PRIMARY, restart=True)) is Step.RESTART
    assert step(replace(REPLICA, restart=True)) is Step.RESTART
    broken = decide(replace(REPLICA, rebuild="the log it needs is gone"))
    assert (broken.step, broken.peer) == (Step.REBUILD, OTHER)
    alone = replace(REPLICA, rebuild="x", lease=replace(THEIRS, holder="", takeable=True))
    assert step(alone) is Step.RUN_REPLICA


def test_the_end_of_the_pod_comes_first() -> None:
    for now in (FOUNDING, PRIMARY, REPLICA, replace(BASE, lease=LeaseView())):
        assert step(replace(now, stopping=True)) is Step.STOP


# -- the crash matrix --------------------------------------------------------------------------------------------------


@dataclass
class Ground:
    """What survives a crash: the volume, the Lease, the repository."""

    volume: Volume = Volume.EMPTY
    reigned: bool = False
    lease: LeaseView = FREE
    identity: Identity = Identity.FREE
    running: Running = Running.NOTHING
    made: int = 0

    def look(self) -> Situation:
        return replace(
            FOUNDING,
            volume=self.volume,
            reigned=self.reigned,
            lease=self.lease,
            identity=self.identity,
            running=self.running,
        )


class Crash(Exception):
    """The agent dies."""


def carry_out(ground: Ground, decision: Decision, crash_at: int, count: list[int]) -> None:
    """Do a step, write by write; die before write number `crash_at`."""

    def write(**fields: object) -> None:
        if count[0] == crash_at:
            count[0] += 1
            raise Crash
        count[0] += 1
        for name, value in fields.items():
            setattr(ground, name, value)

    if decision.step is Step.TAKE:
        write(
            lease=replace(
                ground.lease, holder=ME, held=True, mine=True, takeable=True, term=decision.term, last_holder=ME
            )
        )
    elif decision.step in (Step.INITIALISE, Step.RESTORE):
        write(volume=Volume.MAKING)
        write(made=ground.made + 1)
        write(volume=Volume.READY, reigned=True)
    elif decision.step is Step.ANNOUNCE:
        write(identity=Identity.INITIALIZED)
        write(lease=replace(ground.lease, initialized=LIFE))
    elif decision.step is Step.START_PRIMARY:
        write(running=Running.PRIMARY)
    else:
        raise AssertionError(f"unexpected {decision}")


@pytest.mark.parametrize("crash_at", range(8))
@pytest.mark.parametrize("lost_lease", [False, True])
def test_founding_restarts_from_every_interrupted_write(crash_at: int, lost_lease: bool) -> None:
    ground, count = Ground(), [0]
    for _ in range(30):
        now = ground.look()
        decision = decide(now)
        if decision.step is Step.RUN_PRIMARY:
            break
        if decision.step is Step.INITIALISE:
            assert not now.lease.initialized
            assert now.volume is not Volume.READY
            assert now.identity is not Identity.INITIALIZED
        try:
            carry_out(ground, decision, crash_at, count)
        except Crash:
            ground.running = Running.NOTHING
            if lost_lease and ground.lease.holder:
                # The crash took so long that the Lease ran out.
                ground.lease = replace(ground.lease, held=False, mine=False, takeable=True)
    else:
        raise AssertionError(f"never came up: {ground}")
    assert ground.volume is Volume.READY
    assert ground.lease.initialized == LIFE
    assert ground.identity is Identity.INITIALIZED
    # Made anew only when the crash came while it was being made.
    assert ground.made == (2 if crash_at == 3 else 1)


def test_a_server_that_was_told_to_stop_is_waited_for_within_bounds() -> None:
    stopping = replace(BASE, running=Running.STOPPING)
    assert step(stopping) is Step.WAIT
    forced = decide(replace(stopping, overdue=True))
    assert (forced.step, forced.problem) == (Step.FORCE, "StopOverdue")
    assert step(replace(stopping, overdue=True, stopping=True)) is Step.STOP, "the end of the Pod has bounds of its own"
