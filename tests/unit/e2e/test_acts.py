"""Who wrote what in which term of the operator's Lease, from lines of an audit log."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deploy.lab.audit import Request, parse
from tests.e2e.acts import accepted, by_term, reigns, strangers

ONE, TWO = "yoban-operator-5c9-aaaaa", "yoban-operator-5c9-bbbbb"


def line(
    pod: str, at: float, resource: str = "databases", *, code: int = 200, verb: str = "patch", **more: Any
) -> bytes:
    """A write that took a tenth of a second."""

    def stamp(seconds: float) -> str:
        return f"2026-01-01T00:00:{seconds:09.6f}Z"

    event = {
        "stage": "ResponseComplete",
        "verb": verb,
        "user": {
            "username": "system:serviceaccount:yoban-system:yoban-operator",
            "extra": {"authentication.kubernetes.io/pod-name": [pod]},
        },
        "objectRef": {"resource": resource, "namespace": "shop", "name": "orders"} | more.pop("ref", {}),
        "responseStatus": {"metadata": {}, "code": code},
        "requestReceivedTimestamp": stamp(at),
        "stageTimestamp": stamp(at + 0.1),
    }
    return json.dumps(event | more).encode()


def lease(pod: str, at: float, term: int, *, holder: str | None = None, code: int = 200) -> bytes:
    identity = f"{pod}_0123" if holder is None else holder
    answer = {"spec": {"holderIdentity": identity, "leaseTransitions": term}}
    about = {"namespace": "yoban-system", "name": "yoban-operator"}
    return line(pod, at, "leases", verb="update", code=code, ref=about, responseObject=answer if code == 200 else {})


def acts(*lines: bytes) -> list[Request]:
    return accepted(parse(lines))


def test_each_acts_in_its_own_term() -> None:
    found = acts(lease(ONE, 1, 1), line(ONE, 2), line(ONE, 3), lease(ONE, 4, 1), lease(TWO, 20, 2), line(TWO, 21))
    assert [(one.term, one.pod) for one in reigns(found)] == [(1, ONE), (1, ONE), (2, TWO)]
    assert by_term(found) == {1: {ONE: 2}, 2: {TWO: 1}}
    assert strangers(found) == []


def test_a_write_of_who_leads_no_more_is_found() -> None:
    found = acts(lease(ONE, 1, 1), line(ONE, 2), lease(TWO, 20, 2), line(ONE, 21), line(TWO, 22))
    assert by_term(found) == {1: {ONE: 1}, 2: {ONE: 1, TWO: 1}}
    (told,) = strangers(found)
    assert told == f"{ONE} patch databases shop/orders, 0.900 s after term 2 was of {TWO}"


def test_a_write_after_the_lease_was_given_back_is_found() -> None:
    found = acts(lease(ONE, 1, 1), lease(ONE, 2, 1, holder=""), line(ONE, 3))
    assert len(strangers(found)) == 1


@pytest.mark.parametrize("pod", [ONE, TWO])
def test_while_the_lease_is_being_written_either_may_write(pod: str) -> None:
    found = acts(lease(ONE, 1, 1), lease(TWO, 20, 2), line(pod, 20.05))
    assert strangers(found) == []
    assert by_term(found) == {1 if pod == ONE else 2: {pod: 1}}


def test_what_was_refused_and_events_and_others_do_not_count() -> None:
    found = acts(
        lease(ONE, 1, 1),
        lease(TWO, 20, 2),
        lease(ONE, 21, 1, code=409),
        line(ONE, 22, code=409),
        line(ONE, 23, "events", verb="create"),
        line(ONE, 24, verb="get"),
        line("orders-1-0", 25),
    )
    assert by_term(found) == {}
    assert len(reigns(found)) == 2


def test_what_came_before_the_first_known_state_says_nothing() -> None:
    found = acts(line(ONE, 1), lease(TWO, 2, 2))
    assert by_term(found) == {}
    assert strangers(found) == []
