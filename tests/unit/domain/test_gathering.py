from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from yoban.domain.gathering import history
from yoban.domain.recoverability import recoverable
from yoban.plugins import SegmentKind, SegmentName
from yoban.plugins.lines import runs
from yoban.repository.manifest import BackupSummary
from yoban.repository.marks import Mark
from yoban.repository.tail import TailChunk
from yoban.repository.terms import TermRecord

from tests.unit.domain.counting import CountingEngine, CountingLog, LoglessEngine, at, segment


@dataclass
class Listing:
    backups: Any = ()
    terms: Any = ()
    mark: Any = None
    marks: Any = ()
    lines: Any = field(default_factory=dict)
    tails: Any = ()


def summary(id: str, begin: int, end: int) -> BackupSummary:
    return BackupSummary(
        id=id,
        engine="counting",
        begin_position=str(begin),
        begin_time=at(begin),
        line="1",
        end_position=str(end),
        end_time=at(end),
        first_segment=segment("1", (begin - 1) // 100),
        last_segment=segment("1", (end - 1) // 100),
        segment_bytes=100,
        started=at(begin),
        completed=at(end),
    )


def listing() -> Listing:
    return Listing(
        backups=(summary("b1", 50, 120),),
        terms=(
            TermRecord(term=1, instance="db-1", line="1", time=at(0)),
            TermRecord(term=2, instance="db-2", line="2", parent="1", position="450", time=at(600), began=at(451)),
        ),
        mark=Mark(
            term=2,
            instance="db-2",
            time=at(700),
            position="640",
            line="2",
            segment=segment("2", 6),
            flushed=40,
            segment_bytes=100,
            written=at(700),
        ),
        lines={
            "1": [segment("1", number) for number in range(5)],
            "2": [segment("2", 4), "2.history", segment("2", 5)],
        },
        tails=(
            TailChunk("2", 2, segment("2", 6), 20, 40),
            TailChunk("2", 2, segment("2", 6), 0, 20),
            TailChunk("2", 2, segment("2", 6), 50, 60),
            TailChunk("3", 3, segment("3", 6), 10, 20),
        ),
    )


class NamedLog(CountingLog):
    def classify(self, name: str) -> SegmentName:
        if name.endswith(".history"):
            return SegmentName(name, name[0], SegmentKind.HISTORY)
        return super().classify(name)


def test_a_catalogue_becomes_facts():
    facts = history(listing(), NamedLog())
    assert facts.segment_bytes == 100
    assert facts.lines["1"].runs == ((segment("1", 0), segment("1", 4)),)
    assert facts.lines["2"].runs == ((segment("2", 4), segment("2", 5)),)
    assert facts.lines["2"].tails == {segment("2", 6): 40}
    assert facts.lines["3"].tails == {}
    assert [(item.line, item.fork) for item in facts.terms] == [("1", None), ("2", "450")]
    window = recoverable(facts, CountingEngine()).window
    assert window is not None
    assert (window.start, window.end, window.position) == (at(120), at(700), "640")


def test_names_that_are_none_of_the_engine_are_left_out():
    facts = history(listing(), CountingLog())
    assert facts.lines["2"].runs == ((segment("2", 4), segment("2", 5)),)


def test_an_engine_without_a_log_has_backups_only():
    facts = history(Listing(backups=(summary("b1", 50, 120),)), LoglessEngine().log_source)
    assert facts.lines == {} and len(facts.backups) == 1
    assert history(Listing(), None).segment_bytes == 0


def test_runs_of_a_log():
    names = [segment("1", number) for number in range(1000)]

    def successor(name: str) -> str:
        return CountingLog().successor(name, 100)

    assert runs(names, successor) == ((names[0], names[-1]),)
    del names[500]
    assert runs([names[0], *names], successor) == ((names[0], names[499]), (names[500], names[-1]))
    assert runs([], successor) == ()
    assert runs(["1-0007"], successor) == (("1-0007", "1-0007"),)


def test_times_stay_in_utc():
    assert history(listing(), CountingLog()).marks[0].at == datetime(2026, 3, 1, 11, 40, tzinfo=UTC)
