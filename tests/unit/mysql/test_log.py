"""The log's facet on data directories that were made up: what is offered under which name, and what is purged."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from yoban.errors import Unavailable
from yoban.plugins import Position
from yoban.testing.context import make_context
from yoban_mysql import line as lines
from yoban_mysql import log as module
from yoban_mysql.gtid import GtidSet
from yoban_mysql.line import line_name
from yoban_mysql.log import MySqlLog
from yoban_mysql.segments import segment_name

from tests.unit.mysql.volume import NOON, A, B, ToldServer, Volume, names

BASE = f"{B}:1-100"


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(make_context(tmp_path))


@pytest.fixture
def copied(tmp_path: Path) -> Volume:
    """Data from a copy: a hundred transactions that its files do not tell."""
    return Volume(make_context(tmp_path), base=GtidSet.parse(BASE))


def facet(server: ToldServer) -> MySqlLog:
    return MySqlLog(server)  # type: ignore[arg-type]


async def begun(server: ToldServer) -> str:
    """The server takes writes on a line of its own."""
    server.follows = False
    found = await lines.begin(server, server.volume.ctx)  # type: ignore[arg-type]
    return found.name


async def store(log: MySqlLog, volume: Volume) -> list[str]:
    """Store everything that is offered."""
    found = await log.pending(volume.ctx)
    for segment in found:
        await log.inspect(volume.ctx, segment)
        await log.settled(volume.ctx, segment)
    return [segment.name.name for segment in found]


async def told(log: MySqlLog, volume: Volume, text: str) -> list[str]:
    """Say that everything up to a place is stored; return what is left."""
    await log.stored(volume.ctx, Position(text))
    return volume.present


async def test_bug_a_file_seen_before_the_base_was_noted_was_never_stored(copied: Volume) -> None:
    """After a restore or a failover the archive stood still until the agent was started anew."""
    server = ToldServer(copied, (f"{B}.0000000001", "", ""), follows=True)
    log = facet(server)
    assert await log.retained_bytes(copied.ctx) == 0
    await lines.note_base(server, copied.ctx)  # type: ignore[arg-type]
    name = await begun(server)
    copied.rotate()
    assert name == line_name(A, 1)
    assert await store(log, copied) == [segment_name(name, 1, 100)]


async def test_bug_heads_of_files_were_taken_for_those_of_data_made_anew(volume: Volume) -> None:
    """A rebuild that was quicker than a look at the files: numbers begin again, with other sets at the heads."""
    server = ToldServer(volume, (line_name(B, 1), "", ""), follows=True)
    log = facet(server)
    volume.files(f"{B}:1-3", f"{B}:4-6")
    assert await log.retained_bytes(volume.ctx) > 0
    shutil.rmtree(volume.data)
    again = server.volume = Volume(
        volume.ctx, base=GtidSet.parse(f"{B}:1-6"), uuid="5e11fa47-71ca-11e1-9e33-c80aa9429562"
    )
    await lines.note_base(server, again.ctx)  # type: ignore[arg-type]
    name = await begun(server)
    again.rotate()
    again.rotate()
    assert await store(log, again) == [segment_name(name, 1, 6), segment_name(name, 2, 7)]


# -- the last commit -------------------------------------------------------------------------------------------------


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


async def last_commit(log: MySqlLog, volume: Volume) -> datetime | None:
    tail = await log.tail(volume.ctx)
    assert tail is not None
    return tail.last_commit


async def test_bug_the_last_commit_was_unknown_after_files_without_any(volume: Volume) -> None:
    """Two restarts with nothing written between: a restore to a time could then go on to the end of the log."""
    server = ToldServer(volume)
    await begun(server)
    volume.commit(f"{A}:2", at(7))
    volume.rotate()
    volume.rotate()
    volume.rotate()
    assert await last_commit(facet(server), volume) == at(7)
    volume.commit(f"{A}:3", at(9))
    assert await last_commit(facet(server), volume) == at(9)


async def test_bug_commits_in_files_between_two_looks_were_not_seen(volume: Volume) -> None:
    """The log was rotated twice before it was looked at again: what stood behind the first look counts, too."""
    server = ToldServer(volume)
    log = facet(server)
    await begun(server)
    assert await last_commit(log, volume) == NOON
    volume.commit(f"{A}:2", at(3))
    volume.rotate()
    volume.commit(f"{A}:3", at(5))
    volume.rotate()
    assert await last_commit(log, volume) == at(5)


async def test_the_last_commit_is_unknown_where_a_file_before_cannot_be_read(volume: Volume) -> None:
    """The tail is stored all the same."""
    server = ToldServer(volume)
    await begun(server)
    volume.commit(f"{A}:2", at(3))
    path = volume.data / volume.present[-1]
    data = bytearray(path.read_bytes())
    data[-10] ^= 0xFF
    path.write_bytes(bytes(data))
    volume.rotate()
    log = facet(server)
    assert await last_commit(log, volume) is None
    volume.commit(f"{A}:3", at(5))
    assert await last_commit(log, volume) == at(5)


# -- what a former primary has not stored ----------------------------------------------------------------------------


async def handed_over(volume: Volume) -> tuple[ToldServer, str]:
    """It reigned while the store was down, and follows another now. Files: 1 and 2 from its reign, 3 and 4 from after."""
    server = ToldServer(volume)
    name = await begun(server)
    volume.files(f"{A}:2-3", f"{A}:4-5")
    server.line, server.follows = (line_name(B, 1), name, f"{A}:1-5"), True
    volume.files(f"{B}:1-2", f"{B}:3-4")
    return server, name


async def test_bug_log_that_a_former_primary_had_not_stored_was_purged(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new primary's line begins later: its mark does not prove that what lies before is stored."""
    monkeypatch.setattr(module, "KEEP_BYTES", 0)
    server, name = await handed_over(volume)
    log = facet(server)
    everything = f"{A}:1-5,{B}:1-4"
    assert len(await told(log, volume, everything)) == 5
    await log.relieve(volume.ctx)
    assert len(volume.present) == 5
    sizes = [(volume.data / one).stat().st_size for one in volume.present]
    assert await log.retained_bytes(volume.ctx) == sum(sizes[:2])
    # An agent that is new knows it, too.
    log = facet(server)
    assert len(await told(log, volume, everything)) == 5
    found = await log.pending(volume.ctx)
    assert names(found) == [1, 2], "what it wrote as a primary is stored from here"
    await log.inspect(volume.ctx, found[0])
    await log.settled(volume.ctx, found[0])
    assert names(found[:1]) == [1] and len(await told(log, volume, everything)) == 4
    assert await store(log, volume) == [segment_name(name, 2, 3)]
    assert await log.pending(volume.ctx) == []
    assert len(await told(log, volume, everything)) == 1


async def test_the_same_agent_knows_that_it_reigns_no_more(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told of the new primary's mark before it has looked at its own server again."""
    monkeypatch.setattr(module, "KEEP_BYTES", 0)
    server = ToldServer(volume)
    log = facet(server)
    name = await begun(server)
    volume.files(f"{A}:2-3")
    assert names(await log.pending(volume.ctx)) == [1]
    server.line, server.follows = (line_name(B, 1), name, f"{A}:1-3"), True
    volume.files(f"{B}:1-2")
    assert len(await told(log, volume, f"{A}:1-3,{B}:1-2")) == 3


async def test_what_is_left_of_an_earlier_reign_is_stored_in_the_next(volume: Volume) -> None:
    server, first = await handed_over(volume)
    log = facet(server)
    second = await begun(server)
    assert second == line_name(A, 3), "it begins behind what this server wrote before"
    volume.rotate()
    assert await store(log, volume) == [
        *(segment_name(first, number, before) for number, before in ((1, 0), (2, 3))),
        *(segment_name(second, number, before) for number, before in ((3, 5), (4, 7), (5, 9))),
    ]


async def test_log_of_an_earlier_reign_goes_where_nothing_is_stored(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks for what is to be stored any more: the Database has no archive, or was taken out of its policy."""
    monkeypatch.setattr(module, "KEEP_BYTES", 0)
    server, _ = await handed_over(volume)
    log = facet(server)
    everything = f"{A}:1-5,{B}:1-4"
    for _ in range(module.UNASKED):
        assert len(await told(log, volume, everything)) == 5
    assert len(await told(log, volume, everything)) == 1


async def test_a_primary_keeps_what_it_wrote_until_it_is_stored(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEP_BYTES", 0)
    server = ToldServer(volume)
    log = facet(server)
    await begun(server)
    volume.files(f"{A}:2-3", f"{A}:4-5")
    assert len(await told(log, volume, f"{A}:1-5")) == 3
    assert len(await store(log, volume)) == 2
    assert len(await told(log, volume, f"{A}:1-5")) == 1


async def test_a_replica_that_never_reigned_offers_nothing(volume: Volume) -> None:
    server = ToldServer(volume, (line_name(B, 1), "", ""), follows=True)
    volume.files(f"{B}:1-2", f"{B}:3-4")
    assert await facet(server).pending(volume.ctx) == []


# -- the base --------------------------------------------------------------------------------------------------------


async def test_bug_a_server_without_a_log_index_left_its_agent_waiting_for_ever(copied: Volume) -> None:
    (copied.data / "binlog.index").rename(copied.data / "away")
    server: Any = ToldServer(copied)
    with pytest.raises(Unavailable, match="log"):
        await lines.note_base(server, copied.ctx)
    (copied.data / "away").rename(copied.data / "binlog.index")
    await lines.note_base(server, copied.ctx)
    assert str(lines.base(copied.data)) == BASE


async def test_the_lines_before_are_remembered(volume: Volume) -> None:
    """For the record of a reign that ended before it was stored; whoever reigns later tells of its line."""
    server = ToldServer(volume, (f"{B}.0000000001", "", ""), follows=True)
    made = [f"{B}.0000000001"]
    for number in range(2, 12):
        made.append(await begun(server))
        present = await lines.read(server)  # type: ignore[arg-type]
        assert present is not None and (present.name, present.parent) == (made[-1], made[-2])
        found = await lines.before(server, present)  # type: ignore[arg-type]
        assert [fork.line for fork in found] == made[1:-1][-(lines.REMEMBERED - 1) :]
        assert [fork.parent for fork in found] == [made[made.index(fork.line) - 1] for fork in found]
        assert server.line is not None and len(server.before) < lines.REMEMBERED
        # The other server takes over again.
        made.append(f"{B}.{number:010d}")
        server.before = [server.line, *server.before][: lines.REMEMBERED - 1]
        server.line = (made[-1], made[-2], str(volume.executed))
        volume.rotate()


async def test_a_line_that_nobody_remembers_ends_what_is_told(volume: Volume) -> None:
    """The table of a release that kept one row only."""
    server = ToldServer(volume, (f"{B}.0000000002", f"{B}.0000000001", f"{B}:1-5"), follows=True)
    name = await begun(server)
    present = await lines.read(server)  # type: ignore[arg-type]
    assert present is not None and present.name == name
    (fork,) = await lines.before(server, present)  # type: ignore[arg-type]
    assert (fork.line, fork.parent, fork.position) == (f"{B}.0000000002", f"{B}.0000000001", f"{B}:1-5")
    server.before = []
    assert await lines.before(server, present) == ()  # type: ignore[arg-type]
