from __future__ import annotations

from dataclasses import replace

import pytest
from yoban.domain.candidates import Candidate, choose, refusal, target_of
from yoban.domain.rollout import Action, Next, Running, next_step
from yoban.errors import InvalidInput, NotReady

PRIMARY = Candidate("db-1", 1, primary=True, ready=True)
FIRST = Candidate("db-2", 2, ready=True, streaming=True, lag_seconds=0.1)
SECOND = Candidate("db-3", 3, ready=True, streaming=True, lag_seconds=0.0)


def run(*needs: str, **changes: bool) -> list[Running]:
    """Three instances; `needs` like `2u` (update) or `1r` (restart)."""
    return [
        Running(
            candidate,
            outdated=f"{candidate.number}u" in needs,
            restart=f"{candidate.number}r" in needs,
            gone=bool(changes.get(f"gone{candidate.number}")),
        )
        for candidate in (PRIMARY, FIRST, SECOND)
    ]


@pytest.mark.parametrize(
    "instances, action, name",
    [
        (run(), Action.DONE, ""),
        (run("1u", "2u", "3u"), Action.REPLACE, "db-2"),
        (run("1u", "3u"), Action.REPLACE, "db-3"),
        (run("1u"), Action.SWITCHOVER, "db-3"),
        (run("1r", "2r"), Action.RESTART, "db-2"),
        (run("1r"), Action.RESTART, "db-1"),
        (run("1u", "2u", gone3=True), Action.WAIT, "db-3"),
    ],
)
def test_replicas_first_and_the_primary_last(instances, action, name):
    step = next_step(instances)
    assert (step.action, step.instance) == (action, name)


def test_a_synchronous_replica_comes_after_the_others():
    instances = [
        Running(PRIMARY),
        Running(replace(FIRST, synchronous=True), outdated=True),
        Running(SECOND, outdated=True),
    ]
    assert next_step(instances).instance == "db-3"


def test_one_at_a_time_and_only_while_the_others_are_ready():
    instances = [Running(PRIMARY), Running(replace(FIRST, ready=False)), Running(SECOND, outdated=True)]
    assert next_step(instances) == Next(Action.WAIT, "db-2", "db-2 must be ready first")


def test_one_that_is_down_with_the_old_pod_gets_the_new_one():
    instances = [Running(PRIMARY), Running(replace(FIRST, ready=False), outdated=True), Running(SECOND, outdated=True)]
    assert (next_step(instances).action, next_step(instances).instance) == (Action.REPLACE, "db-2")


def test_a_single_instance_is_replaced_in_place():
    assert next_step([Running(PRIMARY, outdated=True)]).action is Action.REPLACE
    assert next_step([Running(PRIMARY, restart=True)]).action is Action.RESTART


def test_without_a_fit_heir_the_primary_waits():
    instances = [Running(PRIMARY, outdated=True), Running(replace(FIRST, lag_seconds=900.0))]
    step = next_step(instances)
    assert step.action is Action.WAIT and "900 s behind" in step.why


def test_a_paused_database_is_left_alone():
    assert next_step(run("2u"), paused=True).action is Action.WAIT
    assert next_step(run(), paused=True).action is Action.DONE


@pytest.mark.parametrize(
    "candidate, words",
    [
        (PRIMARY, "primary already"),
        (replace(FIRST, ready=False), "not ready"),
        (replace(FIRST, streaming=False), "not following"),
        (replace(FIRST, lag_seconds=None), "not known"),
        (replace(FIRST, lag_seconds=31.0), "31 s behind"),
        (FIRST, ""),
    ],
)
def test_reasons_against_a_candidate(candidate, words):
    if not words:
        assert refusal(candidate) == ""
        assert choose([PRIMARY, candidate], candidate.name) == candidate
        return
    with pytest.raises((InvalidInput, NotReady), match=words):
        choose([PRIMARY, candidate] if candidate is not PRIMARY else [PRIMARY], candidate.name)


def test_the_best_is_synchronous_then_least_behind_then_the_lowest():
    assert choose([PRIMARY, FIRST, SECOND]) == SECOND
    synchronous = replace(FIRST, synchronous=True)
    assert choose([PRIMARY, synchronous, SECOND]) == synchronous
    assert choose([PRIMARY, SECOND, replace(FIRST, lag_seconds=0.0)]).number == 2


def test_nobody_else_is_a_mistake_and_nobody_fit_is_a_wait():
    with pytest.raises(InvalidInput, match="no other instance"):
        choose([PRIMARY])
    with pytest.raises(NotReady, match="db-2: it is not ready"):
        choose([PRIMARY, replace(FIRST, ready=False)])
    with pytest.raises(InvalidInput, match=r"no such instance.*db-2, db-3"):
        choose([PRIMARY, FIRST, SECOND], "db-9")
    assert refusal(PRIMARY) == "it is the primary"


def test_a_request_names_an_instance_or_the_best() -> None:
    assert [target_of(text) for text in ("db-2@tuesday", "@1", "db-2", "")] == ["db-2", "", "db-2", ""]
