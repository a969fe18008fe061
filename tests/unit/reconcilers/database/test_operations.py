"""Restarts, replacement and switchover as pure decisions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from yoban.model.control import AgentStatus, ReplicaState, ServerState, SwitchoverState
from yoban.model.instance import InstanceDocument, LeaseDocument, Member, SwitchoverDocument
from yoban.reconcilers.database.builders.lease import Asked
from yoban.reconcilers.database.builders.names import Names
from yoban.reconcilers.database.observed import Observed
from yoban.reconcilers.database.operations import Wishes, operate, primary_first

from tests.unit.reconcilers.database.keeper import Keeper

NAMES = Names("shop", "orders", "0123456789ab")
FOR_5 = " settings-of-generation-5"


def agent(number: int, **changes: Any) -> AgentStatus:
    pending = changes.pop("pending", [])
    base: dict[str, Any] = {
        "instance": f"orders-{number}",
        "ready": True,
        "data": "ready",
        "generation": 5,
        "server": ServerState(
            role="primary" if number == 1 else "replica",
            pending_restart=pending,
            replicas=[ReplicaState(name=f"orders-{n}", streaming=True, lag_seconds=0.0) for n in (2, 3)],
        ),
    }
    return AgentStatus(**{**base, **changes})


def document(**changes: Any) -> InstanceDocument:
    base: dict[str, Any] = {
        "generation": 5,
        "namespace": "shop",
        "database": "orders",
        "uid": "u",
        "incarnation": NAMES.incarnation,
        "engine": "keeper",
        "version": "2",
        "members": [Member(name=f"orders-{n}", number=n, host="h", port=1) for n in (1, 2, 3)],
        "lease": LeaseDocument(name="orders-primary"),
    }
    return InstanceDocument(**{**base, **changes})


def observed(
    *agents: AgentStatus, begun: str = "", doc: InstanceDocument | None = None, served: bool = True
) -> Observed:
    pod = {"metadata": {"name": "p"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    first = {**pod, "metadata": {"name": "p", "labels": {"yoban.dev/role": "primary" if served else "replica"}}}
    told = agents or tuple(agent(n) for n in (1, 2, 3))
    lease = {
        "metadata": {"annotations": {"yoban.dev/switchover": begun, "yoban.dev/initialized": NAMES.incarnation}},
        "spec": {"holderIdentity": "orders-1"},
    }
    return Observed(
        names=NAMES,
        lease=lease,
        pods={1: first, 2: pod, 3: pod},
        agents={a.instance: a for a in told},
        document=doc if doc is not None else document(),
    )


WISHES = Wishes((1, 2, 3), 5)


def test_nothing_asked_is_nothing_done() -> None:
    decided = operate(observed(), WISHES)
    assert decided.replace is None
    assert decided.switchover is None
    assert decided.restarts == {}
    assert decided.activity == ""


def test_a_restart_begins_with_a_replica_and_goes_on_when_it_is_done() -> None:
    wishes = replace(WISHES, restart="r1")
    first = operate(observed(), wishes)
    assert first.restarts == {"orders-2": "r1"}
    under_way = observed(doc=document(restarts={"orders-2": "r1"}))
    assert operate(under_way, wishes).restarts == {"orders-2": "r1"}, "one at a time"
    done = observed(agent(1), agent(2, restart="r1"), agent(3), doc=document(restarts={"orders-2": "r1"}))
    assert operate(done, wishes).restarts == {"orders-2": "r1", "orders-3": "r1"}


def test_the_primary_is_restarted_last() -> None:
    doc = document(restarts={"orders-2": "r1", "orders-3": "r1"})
    seen = observed(agent(1), agent(2, restart="r1"), agent(3, restart="r1"), doc=doc)
    decided = operate(seen, replace(WISHES, restart="r1"))
    assert decided.restarts["orders-1"] == "r1"
    assert decided.activity == "restarting orders-1"
    assert decided.restarted == "r1"


def test_settings_that_wait_are_restarted_for_once() -> None:
    seen = observed(agent(1, pending=["slots"]), agent(2, pending=["slots"]), agent(3, pending=["slots"]))
    assert operate(seen, WISHES).restarts == {"orders-2": FOR_5}
    doc = document(restarts={f"orders-{n}": FOR_5 for n in (1, 2, 3)})
    still = [agent(n, pending=["slots"], restart=FOR_5) for n in (1, 2, 3)]
    assert operate(observed(*still, doc=doc), WISHES).activity == "", "not for ever"


def test_settings_that_are_lowered_reach_the_primary_first() -> None:
    seen = observed(*(agent(n, pending=["slots"]) for n in (1, 2, 3)))
    assert operate(seen, replace(WISHES, primary_first=True)).restarts == {"orders-1": FOR_5}


def test_an_agent_that_has_not_the_new_document_is_not_asked() -> None:
    seen = observed(agent(1), agent(2, pending=["slots"], generation=4), agent(3))
    assert operate(seen, WISHES).restarts == {}


def test_settings_after_a_restart_request_keep_the_request() -> None:
    doc = document(restarts={f"orders-{n}": "r1" for n in (1, 2, 3)})
    seen = observed(agent(1, restart="r1"), agent(2, restart="r1", pending=["x"]), agent(3, restart="r1"), doc=doc)
    decided = operate(seen, replace(WISHES, restart="r1"))
    assert decided.restarts["orders-2"] == "r1" + FOR_5
    assert decided.restarted == "r1"


def test_a_request_that_is_taken_off_restarts_nobody() -> None:
    doc = document(restarts={f"orders-{n}": "r1" for n in (1, 2, 3)})
    seen = observed(*(agent(n, restart="r1") for n in (1, 2, 3)), doc=doc)
    assert operate(seen, WISHES).restarts == doc.restarts


def test_a_request_with_any_text_is_carried_out_once() -> None:
    odd = "2026#1 settings-of"
    doc = document(restarts={f"orders-{n}": odd for n in (1, 2, 3)})
    seen = observed(*(agent(n, restart=odd) for n in (1, 2, 3)), doc=doc)
    assert operate(seen, replace(WISHES, restart=odd)).restarts == doc.restarts


def test_a_new_member_starts_under_the_present_request() -> None:
    doc = document(members=[], restarts={})
    assert operate(observed(doc=doc), replace(WISHES, restart="r1")).restarts == {
        f"orders-{n}": "r1" for n in (1, 2, 3)
    }


def test_without_a_document_agents_tell_what_they_did() -> None:
    seen = replace(observed(agent(1, restart="r1"), agent(2), agent(3)), document=None)
    assert operate(seen, WISHES).restarts == {"orders-1": "r1"}


def test_a_primary_is_relieved_before_its_pod_is_replaced() -> None:
    wishes = replace(WISHES, outdated={1}, template="abc")
    decided = operate(observed(), wishes)
    assert decided.switchover == SwitchoverDocument(id="update-abc-orders-2", target="orders-2")
    assert decided.replace is None
    assert "switching over to orders-2" in decided.activity


def test_a_failed_relief_is_replaced_in_place() -> None:
    wishes = replace(WISHES, outdated={1}, template="abc")
    failed = agent(1, switchover=SwitchoverState(id="update-abc-orders-2", state="failed"))
    seen = observed(failed, agent(2), agent(3), begun="update-abc-orders-2")
    decided = operate(seen, wishes)
    assert decided.replace == 1
    assert decided.switchover is None


def test_nobody_can_take_over_so_the_rollout_waits() -> None:
    alone = agent(1, server=ServerState(role="primary"))
    decided = operate(observed(alone, agent(2), agent(3)), replace(WISHES, outdated={1}))
    assert decided.replace is None
    assert decided.activity.startswith("updating:")


@pytest.mark.parametrize(
    ("states", "expected"),
    [(["running", ""], "running"), (["done", "running"], "done"), (["failed", "done"], "failed"), (["", ""], "done")],
)
def test_the_outcome_is_what_agents_tell(states: list[str], expected: str) -> None:
    words = [agent(n, switchover=SwitchoverState(id="orders-2", state=s)) for n, s in enumerate(states, 1)]
    decided = operate(
        observed(*words, agent(3), begun="orders-2"), replace(WISHES, asked=Asked(1, "orders-2", begun=True))
    )
    assert decided.outcome is not None
    assert decided.outcome.state == expected


@pytest.mark.parametrize("state", ["done", ""])
def test_a_switchover_is_done_only_when_clients_get_to_the_new_primary(state: str) -> None:
    words = [agent(n, switchover=SwitchoverState(id="orders-1", state=state)) for n in (1, 2, 3)]
    decided = operate(
        observed(*words, begun="orders-1", served=False), replace(WISHES, asked=Asked(1, "orders-1", begun=True))
    )
    assert decided.outcome is not None
    assert decided.outcome.state == "running"
    assert "orders-1 reigns" in decided.outcome.message


def test_a_switchover_waits_for_a_replica_that_lags() -> None:
    lags = ServerState(role="primary", replicas=[ReplicaState(name="orders-2", streaming=True, lag_seconds=99.0)])
    decided = operate(observed(agent(1, server=lags), agent(2), agent(3)), replace(WISHES, asked=Asked(1, "orders-2")))
    assert decided.switchover is None
    assert decided.outcome is not None
    assert decided.outcome.state == "waiting"
    assert "99 s behind" in decided.outcome.message


@pytest.mark.parametrize(("behind", "begun"), [(0.0, True), (99.0, False), (None, False)])
def test_a_primary_that_cannot_tell_how_far_replicas_are_leaves_it_to_them(behind: float | None, begun: bool) -> None:
    sees = ServerState(role="primary", replicas=[ReplicaState(name="orders-2", streaming=True, lag_seconds=None)])
    told = agent(2, server=ServerState(role="replica", lag_seconds=behind))
    decided = operate(observed(agent(1, server=sees), told, agent(3)), replace(WISHES, asked=Asked(1, "orders-2")))
    assert (decided.switchover is not None) is begun


def test_each_turn_of_the_annotation_is_a_request_of_its_own() -> None:
    first = Asked().seen("", "")
    assert (first.id, first.begun) == ("best", False)
    done = first.seen("", "best")
    assert done.begun
    assert done.seen("", "update-abc-orders-3") == done, "what others begin makes it no new request"
    assert done.seen(None, "best").id == ""
    again = done.seen(None, "best").seen("", "best")
    assert (again.id, again.begun) == ("best#2", False)
    other = done.seen("orders-1@tuesday", "best")
    assert (other.id, other.begun) == ("orders-1@tuesday#2", False)
    assert other.seen("orders-1@tuesday", other.id).begun


@pytest.mark.parametrize("asked", [Asked(), Asked(2, None), Asked(3, "orders-1", begun=True)])
def test_what_was_asked_is_read_from_the_lease_as_it_was_written(asked: Asked) -> None:
    assert Asked.parse(asked.annotations()) == asked
    assert Asked.parse({"yoban.dev/switchover-asked": "{"}) == Asked()


@pytest.mark.parametrize("restart", ["", "r1"])
def test_bug_who_was_to_take_over_was_taken_away_in_the_same_pass(restart: str) -> None:
    outdated = () if restart else (1, 2, 3)
    wishes = replace(WISHES, asked=Asked(1, "orders-2"), outdated=outdated, restart=restart, template="abc")
    decided = operate(observed(), wishes)
    assert decided.switchover == SwitchoverDocument(id="orders-2", target="orders-2")
    assert decided.replace is None
    assert not decided.restarts
    hung = agent(3, ready=False)
    lost = operate(replace(observed(agent(1), agent(2), hung), pods={**observed().pods, 3: {}}), wishes)
    assert (lost.replace == 3) is (not restart), "what does not run is replaced all the same"


def test_a_target_that_left_is_chosen_anew() -> None:
    doc = document(switchover=SwitchoverDocument(id="best", target="orders-9"))
    decided = operate(observed(doc=doc), replace(WISHES, asked=Asked(1, "")))
    assert decided.switchover == SwitchoverDocument(id="best", target="orders-2")


def test_a_choice_once_made_is_kept() -> None:
    doc = document(switchover=SwitchoverDocument(id="best", target="orders-3"))
    decided = operate(observed(doc=doc), replace(WISHES, asked=Asked(1, "")))
    assert decided.switchover == doc.switchover


def test_paused_begins_nothing() -> None:
    decided = operate(observed(), replace(WISHES, asked=Asked(1, "orders-2"), restart="r1", leaving=1, paused=True))
    assert decided.switchover is None
    assert decided.restarts == {}
    assert decided.outcome is not None
    assert decided.outcome.state == "waiting"


def test_a_primary_with_a_volume_that_goes_is_relieved_when_somebody_can() -> None:
    decided = operate(observed(), replace(WISHES, leaving=1))
    assert decided.switchover == SwitchoverDocument(id="volume-1-orders-2", target="orders-2")
    alone = agent(1, server=ServerState(role="primary"))
    assert operate(observed(alone, agent(2), agent(3)), replace(WISHES, leaving=1)).switchover is None
    without = replace(observed(), pods={})
    assert operate(without, replace(WISHES, leaving=1)).switchover is None


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {"color": "red"}, None),
        ({"slots": "1"}, {"slots": "1"}, None),
        ({"slots": "1"}, {"slots": "2"}, False),
        ({"slots": "2"}, {"slots": "1"}, True),
        ({"slots": "2"}, {}, True),
        ({}, {"slots": "2"}, False),
        ({"slots": "many"}, {"slots": "few"}, False),
    ],
)
def test_the_order_of_a_change(before: dict[str, str], after: dict[str, str], expected: bool | None) -> None:
    assert primary_first(Keeper(), "2", before, after) is expected
