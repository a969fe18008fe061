from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from yoban.errors import AccessDenied, DeadlineExceeded, IntegrityError, InvalidInput, NotReady, Unavailable
from yoban.plugins import Finished, InstanceContext, Peer, Processes, files
from yoban.testing.context import make_context
from yoban_postgres import binaries, controldata
from yoban_postgres.engine import PostgresEngine
from yoban_postgres.server import initdb_command
from yoban_postgres.session import Kept, translated

CONTROL = """pg_control version number:            1700
Database system identifier:           7300000000000000001
Database cluster state:               in archive recovery
Latest checkpoint location:           0/3000148
Latest checkpoint's REDO location:    0/3000110
Latest checkpoint's TimeLineID:       2
Minimum recovery ending location:     0/4000000
Min recovery ending loc's timeline:   3
max_connections setting:              100
Bytes per WAL segment:                16777216
Data page checksum version:           1
"""
DAMAGED = b"WARNING: Calculated CRC checksum does not match value stored in file.\n"


class Scripted(Processes):
    """Answers in turn, the last one for ever."""

    def __init__(self, *answers: Finished) -> None:
        self.answers = list(answers)
        self.asked: list[list[str]] = []

    async def run(
        self,
        argv: Sequence[str],
        *,
        deadline: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = None,
    ) -> Finished:
        self.asked.append(list(argv))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "folder", lambda version: Path("/usr/lib/postgresql") / version / "bin")


def context(folder: Path, *answers: Finished, version: str = "17", **config: object) -> InstanceContext:
    made = make_context(folder, version=version, engine_config=config, processes=Scripted(*answers))
    return replace(made, data=folder / "volume" / "pgdata")


async def test_the_control_file_is_read(tmp_path: Path) -> None:
    found = await controldata.read(context(tmp_path, Finished(0, CONTROL.encode(), b"")))
    assert (found.state, found.line, found.minimum_line, found.clean) == ("in archive recovery", 2, 3, False)
    assert (found.minimum, found.checksums, found.settings) == (0x4000000, True, {"max_connections": 100})


@pytest.mark.parametrize("on", ["stdout", "stderr"])
async def test_a_control_file_that_is_being_written_is_read_again(tmp_path: Path, on: str) -> None:
    torn = Finished(0, DAMAGED + CONTROL.encode(), b"")
    if on == "stderr":
        torn = Finished(0, CONTROL.encode(), b"pg_controldata: warning: calculated CRC checksum does not match value")
    found = await controldata.read(context(tmp_path, torn, torn, Finished(0, CONTROL.encode(), b"")))
    assert found.system_id == "7300000000000000001"
    with pytest.raises(IntegrityError, match="the control file is damaged"):
        await controldata.read(context(tmp_path / "b", torn))


async def test_a_missing_control_file_is_told_from_one_that_cannot_be_read(tmp_path: Path) -> None:
    ctx = context(tmp_path, Finished(1, b"", b"pg_controldata: fatal: could not open file"))
    with pytest.raises(IntegrityError, match="there is no control file"):
        await controldata.read(ctx)
    with pytest.raises(NotReady, match="no data yet"):
        await PostgresEngine().log_source.segment_bytes(ctx)
    (ctx.data / "global").mkdir(parents=True)
    (ctx.data / "global" / "pg_control").touch()
    with pytest.raises(Unavailable, match="could not open file"):
        await controldata.read(ctx)


def test_what_initdb_is_asked_for(tmp_path: Path) -> None:
    made = initdb_command(context(tmp_path / "a", icuLocale="de", encoding="UTF8"), tmp_path)
    assert {"--locale-provider=icu", "--icu-locale=de", "--data-checksums", "--wal-segsize=16"} <= set(made)
    with pytest.raises(InvalidInput, match="15 or newer"):
        initdb_command(context(tmp_path / "b", version="14", icuLocale="de"), tmp_path)
    for version, present in (("17", False), ("18", True)):
        words = initdb_command(context(tmp_path / version, version=version, dataChecksums=False), tmp_path)
        assert ("--no-data-checksums" in words, "--data-checksums" in words) == (present, False)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (b'initdb: error: invalid locale name "xx"', InvalidInput),
        (b"initdb: error: could not create directory: Permission denied", Unavailable),
        (b"No space left on device", Unavailable),
    ],
)
async def test_why_initdb_failed(tmp_path: Path, words: bytes, kind: type[Exception]) -> None:
    ctx = context(tmp_path, Finished(1, b"", words))
    with pytest.raises(kind, match=words.decode()[-10:]):
        await PostgresEngine().server.initialize(ctx)
    assert not await PostgresEngine().server.initialized(ctx)


async def test_a_program_that_tells_no_version_is_no_server(tmp_path: Path) -> None:
    ctx = context(tmp_path, Finished(127, b"", b"cannot execute"))
    with pytest.raises(Unavailable, match="cannot execute"):
        await PostgresEngine().server.binary_version(ctx)


async def test_a_rewind_that_cannot_work_asks_for_a_rebuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from yoban.plugins import Fork
    from yoban_postgres import follow
    from yoban_postgres.positions import make
    from yoban_postgres.replication import PostgresReplication

    engine = PostgresEngine()
    error = b"pg_rewind: servers diverged\npg_rewind: error: could not find previous WAL record at 0/3000110"
    crashed = CONTROL.replace("in archive recovery", "in production")
    ctx = context(tmp_path, Finished(0, crashed.encode(), b""), Finished(1, b"", error))
    (ctx.data / "pg_replslot" / "yoban_orders_2").mkdir(parents=True)
    (ctx.data / "pg_replslot" / "of_somebody_else").mkdir()

    async def upstream(*_: object) -> follow.Upstream:
        forks = [Fork("00000003", "00000002", make("00000002", 0x3000500))]
        return follow.Upstream("7300000000000000001", "00000003", forks, 0x4000000)

    monkeypatch.setattr(PostgresReplication, "_upstream", upstream)
    broken = await engine.replication.prepare_follow(ctx, Peer("orders-2", "b", 5432))
    assert broken is not None and broken.rebuild
    assert broken.why.endswith("it cannot be rewound: could not find previous WAL record at 0/3000110")
    assert [path.name for path in (ctx.data / "pg_replslot").iterdir()] == ["of_somebody_else"]


@pytest.mark.parametrize(
    ("raised", "peer", "kind"),
    [
        (asyncpg.InvalidAuthorizationSpecificationError("no pg_hba.conf entry"), False, AccessDenied),
        (asyncpg.InvalidAuthorizationSpecificationError("no pg_hba.conf entry"), True, Unavailable),
        (
            asyncpg.InvalidAuthorizationSpecificationError('role "yoban-replication" does not exist'),
            True,
            NotReady,
        ),
        (asyncpg.QueryCanceledError("canceling statement due to statement timeout"), False, Unavailable),
        (TimeoutError(), False, Unavailable),
        (ConnectionRefusedError("refused"), False, Unavailable),
        (DeadlineExceeded("ours already"), False, DeadlineExceeded),
    ],
)
def test_errors_of_the_driver_come_out_as_ours(
    tmp_path: Path, raised: Exception, peer: bool, kind: type[Exception]
) -> None:
    with (
        pytest.raises(kind) as caught,
        translated(context(tmp_path), Peer("orders-2", "b", 5432) if peer else None),
    ):
        raise raised
    assert type(caught.value) is kind


async def test_certificates_that_cannot_be_read_are_waited_for(tmp_path: Path) -> None:
    from yoban_postgres.session import connect_peer

    with pytest.raises(Unavailable, match="certificates cannot be read"):
        await connect_peer(context(tmp_path), Peer("orders-2", "b", 5432))


async def test_accounts_that_take_too_long_are_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from yoban.plugins import Account
    from yoban_postgres import server

    @contextlib.asynccontextmanager
    async def hangs(*_: object) -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    monkeypatch.setattr(Kept, "use", hangs)
    monkeypatch.setattr(server, "ACCOUNTS_DEADLINE", 0.01)
    ctx = replace(context(tmp_path), accounts={"owner": Account("app", "x")})
    with pytest.raises(DeadlineExceeded, match="accounts were not made in time"):
        await PostgresEngine().server.ensure_accounts(ctx)


def test_files_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.conf"
    assert files.replace_file(file, "one") and not files.replace_file(file, "one")
    assert file.stat().st_mode & 0o777 == 0o600

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.replace_file(file, "two")
    assert (file.read_text(), list(tmp_path.iterdir())) == ("one", [file])
    monkeypatch.undo()
    assert files.remove_file(file) and not files.remove_file(file)


def test_folders_are_emptied_and_not_what_their_links_point_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("1234")
    inside = tmp_path / "a" / "b"
    files.make_folder(inside)
    files.make_folder(inside)
    (inside / "link").symlink_to(outside)
    (inside / "deep").mkdir()
    (inside / "deep" / "file").write_text("123")
    assert files.folder_bytes(outside, inside / "deep", tmp_path / "absent") == 7
    files.empty_folder(inside)
    files.empty_folder(tmp_path / "absent")
    assert list(inside.iterdir()) == [] and (outside / "kept").exists()


async def test_a_closed_server_is_closed_again(tmp_path: Path) -> None:
    server = PostgresEngine().server
    await asyncio.gather(server.close(context(tmp_path)), server.close(context(tmp_path / "b")))
