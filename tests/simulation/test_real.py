"""The simulation's operators, people and judge against a real kube-apiserver, and that its picture of that can be trusted."""

from __future__ import annotations

import pytest
from yoban.kube.objects import Obj
from yoban.kube.resource import CONFIG_MAP
from yoban.testing.apiwatch import Change

from tests.simulation.mutants import MUTANTS
from tests.simulation.operator import WIDGET
from tests.simulation.real.mirror import Mirror
from tests.simulation.real.nemesis import LEADER, SERVER, plan
from tests.simulation.real.world import again, run_real
from tests.simulation.test_simulation import command

SEED, DURATION = 8, 30.0
"""Three replicas; the server is killed in it and started on a compacted history; leaders lose their Lease, or are killed."""


@pytest.mark.server
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("local_apiserver")  # for its programs; the run has a server of its own
def test_a_real_server_behind_fault_proxies_keeps_all_invariants() -> None:
    done = command("real", "--first", str(SEED), "--duration", str(DURATION))
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}{done.stderr[-2000:]}\n{again(SEED, DURATION)}"
    assert f"seed {SEED}: ok" in done.stdout


@pytest.mark.server
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("local_apiserver")
def test_the_judge_sees_a_broken_runtime_on_a_real_server_too() -> None:
    broken = next(mutant for mutant in MUTANTS if mutant.name == "a key is worked on twice at once")
    with broken.broken():
        outcome = run_real(1, 6.0)
    assert outcome.violation is not None, str(outcome)
    assert outcome.violation.invariant in broken.invariants, str(outcome)


def test_a_plan_is_the_seeds() -> None:
    assert plan(7, 3, 60.0, 1.2) == plan(7, 3, 60.0, 1.2)
    assert plan(7, 3, 60.0, 1.2) != plan(8, 3, 60.0, 1.2)
    for seed in range(50):
        blows = plan(seed, 2, 30.0, 1.2)
        assert [blow.at for blow in blows] == sorted(blow.at for blow in blows)
        assert all(0 <= blow.at < 30.0 and LEADER <= blow.slot < 2 for blow in blows)
        assert sum(blow.kind in SERVER for blow in blows) == 1


def thing(version: int, uid: str = "u", **more: object) -> Obj:
    metadata = {"namespace": "a", "name": "w", "uid": uid, "resourceVersion": str(version), **more}
    return {"apiVersion": WIDGET.api_version, "kind": WIDGET.kind, "metadata": metadata}


def mirror() -> tuple[Mirror, list[tuple[int, bool, bool]]]:
    heard: list[tuple[int, bool, bool]] = []

    def note(change: Change) -> None:
        heard.append((change.version, change.old is not None, change.new is not None))

    made = Mirror(lambda: 0)
    made.on_change.append(note)
    return made, heard


def test_the_mirror_takes_the_newest_whoever_tells_it() -> None:
    made, heard = mirror()
    made.learn(WIDGET, thing(5))
    made.learn(WIDGET, thing(3))
    made.learn(WIDGET, thing(5))
    made.learn(WIDGET, thing(10))
    assert heard == [(5, False, True), (10, True, True)], "as numbers: 10 is newer than 5"
    assert made.find(WIDGET, "a", "w") == thing(10)


def test_the_mirror_brings_nothing_back_that_is_gone() -> None:
    made, heard = mirror()
    made.learn(WIDGET, thing(5))
    made.forget(WIDGET, next(iter(made._objects[WIDGET])), 7)
    made.learn(WIDGET, thing(6))
    assert made.objects(WIDGET) == []
    made.learn(WIDGET, thing(8, "v"))
    made.forget(WIDGET, next(iter(made._objects[WIDGET])), 7)
    assert made.find(WIDGET, "a", "w") == thing(8, "v"), "its successor was known already"
    assert heard == [(5, False, True), (7, True, False), (8, False, True)]


def test_the_mirror_learns_from_the_answers_to_writes() -> None:
    made, _ = mirror()
    made.answered(b'{"kind": "Status", "code": 409}')
    made.answered(b'{"kind": "ConfigMap", "metadata": {"namespace": "a", "name": "c", "resourceVersion": "2"}}')
    assert [obj["metadata"]["name"] for obj in made.objects(CONFIG_MAP)] == ["c"]
