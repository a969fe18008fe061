"""The parts of the runtime bench that decide: the audit log's counting, /proc, results, goals, and what is pinned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from xml.etree import ElementTree

import pytest

from deploy.lab.audit import AuditLog, Request, parse
from deploy.lab.failure import LabError
from tests.bench.machine import BenchError
from tests.bench.runtime import breaking, flames, phases
from tests.bench.runtime.__main__ import exit_code
from tests.bench.runtime.audit import overlaps, policy
from tests.bench.runtime.contestants import OPERATORS, Contestant
from tests.bench.runtime.goals import judge
from tests.bench.runtime.processes import Usage
from tests.bench.runtime.processes import parse as parse_usage
from tests.bench.runtime.results import CLIENT_GO, KOPF, OURS, Results
from tests.bench.runtime.world import World

USER = "system:serviceaccount:a:operator"


def line(
    verb: str, stage: str = "ResponseComplete", *, user: str = USER, subresource: str = "", second: int = 0
) -> bytes:
    event = {
        "kind": "Event",
        "stage": stage,
        "verb": verb,
        "user": {"username": user, "groups": ["x"]},
        "objectRef": {"resource": "cards", "namespace": "a", "name": "one", "subresource": subresource},
        "responseStatus": {"metadata": {}, "code": 200},
        "requestReceivedTimestamp": f"2026-01-01T00:00:{second:02d}.250000Z",
        "stageTimestamp": f"2026-01-01T00:00:{second:02d}.750000Z",
    }
    return json.dumps(event).encode()


def test_a_request_counts_once_and_a_watch_when_it_opens() -> None:
    found = parse(
        [
            line("patch", subresource="status"),
            line("watch", "ResponseStarted"),
            line("watch", "ResponseComplete"),
            line("list", "ResponseStarted"),
            line("list"),
        ]
    )
    assert [(r.verb, r.resource, r.is_write) for r in found] == [
        ("patch", "cards/status", True),
        ("watch", "cards", False),
        ("list", "cards", False),
    ]
    assert found[0].answered - found[0].received == pytest.approx(0.5)


def test_only_whole_lines_of_one_user_after_the_mark_are_read(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    log = AuditLog(file)
    assert log.mark() == 0
    assert log.since(0, USER) == []
    file.write_bytes(line("create") + b"\n")
    mark = log.mark()
    with file.open("ab") as more:
        more.write(line("patch") + b"\n" + line("get", user="another") + b"\n" + line("delete")[:40])
    assert [r.verb for r in log.since(mark, USER)] == ["patch"]
    assert [r.verb for r in log.since(0, USER)] == ["create", "patch"]


def test_bug_requests_of_a_rotated_log_counted_as_none(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    log = AuditLog(file)
    file.write_bytes(line("create") + b"\n" + line("patch") + b"\n")
    mark = log.mark()
    file.write_bytes(line("create") + b"\n")
    with pytest.raises(LabError, match="rotated"):
        log.since(mark, USER)


def test_the_policy_logs_the_contestants_and_nobody_else() -> None:
    rules = json.loads(policy({"b", "a"}))["rules"]
    assert rules == [{"level": "Metadata", "users": ["a", "b"]}, {"level": "None"}]


def test_work_on_one_object_at_once_is_found() -> None:
    def write(name: str, received: float, answered: float, verb: str = "patch") -> Request:
        return Request(USER, verb, "cards/status", name, 200, received, answered)

    assert overlaps([write("a", 0, 2), write("b", 1, 3), write("a", 2, 4)]) == 0
    assert overlaps([write("a", 0, 2), write("a", 1, 3), write("a", 2.5, 4)]) == 2
    assert overlaps([write("a", 0, 2), write("a", 1, 3, verb="get")]) == 0


def test_usage_of_a_process_whose_name_has_brackets() -> None:
    stat = "7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 99 0"
    found = parse_usage(stat, "Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n", tick=100)
    assert (found.cpu, found.resident, found.peak) == (2.0, 1 << 20, 2 << 20)


def test_ratios_are_of_the_rounds_that_both_have() -> None:
    results = Results()
    for number, (ours, theirs) in enumerate([(1.0, 5.0), (2.0, None), (2.0, 6.0)]):
        results.record("create.200.seconds", "s", OURS, number, ours)
        if theirs is not None:
            results.record("create.200.seconds", "s", KOPF, number, theirs)
    ratio = results.ratio("create.200.seconds", KOPF, OURS)
    assert ratio is not None
    assert ratio.values == (5.0, 3.0)
    assert results.ratio("create.200.seconds", CLIENT_GO, OURS) is None
    with pytest.raises(ValueError, match="measured in s"):
        results.record("create.200.seconds", "ms", OURS, 0, 1.0)


def test_goals_are_judged_and_what_did_not_run_says_so() -> None:
    results = Results()
    for name, seconds in ((OURS, 1.0), (KOPF, 4.5), (CLIENT_GO, 0.8)):
        results.record("create.200.seconds", "s", name, 0, seconds)
    results.record("create.200.writes", "writes", OURS, 0, 2.0)
    results.record("noop.writes", "writes", OURS, 0, 0.5)
    verdicts = {row.goal.measure: row.verdict for row in judge(results, [200])}
    assert verdicts["create.200.kopf"] == "met"
    assert verdicts["create.200.clientgo"].startswith("SHORT")
    assert verdicts["create.200.writes"] == "met"
    assert verdicts["noop.writes"] == "SHORT by 0.500 writes"
    assert verdicts["cache.slope"] == "not run"
    # Every goal of the side-by-side comparison has its row.
    assert {"steady.p99.clientgo", "create.200.cpu.clientgo", "hot.overlaps", "memory.base", "start.synced"} <= set(
        verdicts
    )


def test_kopf_is_pinned_with_hashes_and_no_index() -> None:
    text = (OPERATORS / "kopf.lock").read_text()
    wanted = (OPERATORS / "kopf.in").read_text().strip()
    assert "://" not in text
    assert f"\n{wanted} \\\n" in text
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert all("--hash=sha256:" in block for block in blocks)


def test_only_what_cannot_be_measured_of_ours_fails_the_run() -> None:
    kopf, ours = "kopf, round 0, 5000 Cards: opens no watch", "yoban, round 1, idle: 3 Cards are not Ready"
    assert exit_code([]) == exit_code([kopf, "client-go apply, round 0, faults: yoban, "]) == 0
    assert exit_code([kopf, ours]) == 1


async def test_bug_a_peer_that_fails_while_all_are_idle_ended_the_measures_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And nobody was told whose failure it was: it counted for nobody."""

    class Nobody:
        def __init__(self, *_: object) -> None:
            pass

        async def __aenter__(self) -> Nobody:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        async def create(self, numbers: range) -> list[int]:
            return list(numbers)

        async def ready(self, *_: object) -> float:
            return 0.0

        async def empty(self) -> None:
            pass

    async def start(session: phases.Session) -> None:
        if session.contestant.name == KOPF:
            raise BenchError("it opens no watch")

    async def at_once(*_: object) -> None:
        pass

    spent = iter(range(100))
    monkeypatch.setattr(breaking, "Driver", Nobody)
    monkeypatch.setattr(breaking.asyncio, "sleep", at_once)
    monkeypatch.setattr(phases.Session, "start", start)
    monkeypatch.setattr(phases.Session, "rest", at_once)
    monkeypatch.setattr(phases.Session, "requests", lambda session, mark: [])
    monkeypatch.setattr(phases.Session, "usage", lambda session: Usage(next(spent) / 1e3, 1, 1))
    world = SimpleNamespace(audit=SimpleNamespace(mark=lambda: 0))
    bench = phases.Bench(cast(World, world), phases.Sizes({1: 1}, 1), Results(), {})
    await breaking.idle(bench, [Contestant(name, "ns", (), "") for name in (KOPF, OURS)])
    assert bench.results.failures == ["kopf, round 0, idle: it opens no watch"]
    assert bench.results.of("idle.calls", OURS) is not None


STACKS = """main (/usr/lib/python3.11/asyncio/runners.py);work (core/yoban/kube/client.py);send (/usr/lib/python3.11/ssl.py) 6
main (/usr/lib/python3.11/asyncio/runners.py);work (/srv/app/lib/python3.11/site-packages/yoban/kube/client.py) 3
main (/usr/lib/python3.11/asyncio/runners.py);<select> (selectors.py) 1
"""


def test_a_flame_graph_shows_shares_and_no_folder_of_the_machine() -> None:
    stacks = flames.parse(STACKS)
    drawn = flames.draw(stacks, "a < b")
    shown = [node.text for node in ElementTree.fromstring(drawn).iter() if node.tag.endswith("title")]
    assert shown == [
        "all: 100.0%",
        "main (asyncio/runners.py): 100.0%",
        "<select> (selectors.py): 10.0%",
        "work (yoban/kube/client.py): 90.0%",
        "send (ssl.py): 60.0%",
    ]
    assert "/srv" not in drawn
    assert "/usr" not in drawn
    assert drawn == flames.draw(flames.parse(STACKS), "a < b")
    assert flames.own_time(stacks).splitlines()[2].split("|")[1:3] == [" send (ssl.py)                   ", " 60.0% "]
    assert "work (yoban/kube/client.py)" in flames.within(stacks)
    waits = flames.parse("main (a.py);EpollSelector.select (selectors.py:451) 7\nmain (a.py) 1")
    assert flames.working(waits) == {("main (a.py)",): 1}
    with pytest.raises(ValueError, match="nothing was sampled"):
        flames.draw(flames.parse(""), "empty")
