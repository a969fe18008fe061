"""What the agent's sessions ask for, whatever the server's settings are. No server runs: the driver is scripted."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from yoban.plugins import Account, BackupRequest, Finished, InstanceContext, Peer
from yoban_postgres import binaries, replication
from yoban_postgres.backup import PostgresBackup
from yoban_postgres.engine import PostgresEngine
from yoban_postgres.replication import PostgresReplication
from yoban_postgres.session import Kept, connect, connect_peer

from tests.unit.postgres.test_server import CONTROL, Scripted, context

DONOR = Peer("orders-2", "b", 5432)


class Driver:
    """Connections of a server of some version. `answers` says what a statement that holds a text gives, or raises."""

    def __init__(self, major: int, answers: Mapping[str, object] | None = None) -> None:
        self.major = major
        self.answers = answers or {}
        self.settings: dict[str, str] = {}
        self.statements: list[str] = []
        self.terminated = 0

    async def connect(self, **how: Any) -> Driver:
        self.settings = dict(how["server_settings"])
        return self

    def get_server_version(self) -> SimpleNamespace:
        return SimpleNamespace(major=self.major)

    async def execute(self, statement: str, **_: object) -> str:
        return str(self._answer(statement))

    async def fetchval(self, statement: str, *_: object, **__: object) -> Any:
        return self._answer(statement)

    async def fetchrow(self, statement: str, *_: object, **__: object) -> Any:
        return self._answer(statement)

    async def fetch(self, statement: str, *_: object, **__: object) -> Any:
        return self._answer(statement) or []

    def is_closed(self) -> bool:
        return False

    def terminate(self) -> None:
        self.terminated += 1

    def _answer(self, statement: str) -> object:
        self.statements.append(statement)
        for text, answer in self.answers.items():
            if text in statement:
                if isinstance(answer, BaseException):
                    raise answer
                return answer
        return None


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "folder", lambda version: Path("/usr/lib/postgresql") / version / "bin")
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda *_: None)
    monkeypatch.setattr(ssl, "create_default_context", lambda *_, **__: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def drive(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Driver:
    monkeypatch.setattr(asyncpg, "connect", driver.connect)
    return driver


@pytest.mark.parametrize("peer", [False, True])
async def test_bug_settings_of_the_owner_that_blinded_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: bool
) -> None:
    driver = drive(monkeypatch, Driver(16))
    ctx = context(tmp_path)
    await (connect_peer(ctx, DONOR) if peer else connect(ctx))
    # A server in recovery refuses every statement of a serializable transaction.
    assert driver.settings["default_transaction_isolation"] == "read committed"
    assert driver.settings["default_transaction_read_only"] == "off"
    assert driver.settings["lock_timeout"] == "3000"
    assert driver.settings["statement_timeout"] == "4000"
    assert driver.settings["search_path"] == "pg_catalog, pg_temp"


@pytest.mark.parametrize("peer", [False, True])
@pytest.mark.parametrize(("major", "asked"), [(14, []), (16, []), (17, ["set transaction_timeout = 0"])])
async def test_bug_sessions_that_the_server_ended_while_a_backup_was_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: bool, major: int, asked: list[str]
) -> None:
    driver = drive(monkeypatch, Driver(major))
    ctx = context(tmp_path)
    await (connect_peer(ctx, DONOR) if peer else connect(ctx, statement=0))
    assert driver.settings["idle_session_timeout"] == "0"
    assert driver.settings["idle_in_transaction_session_timeout"] == "0"
    assert driver.statements == asked


async def test_a_session_that_cannot_be_set_up_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = drive(monkeypatch, Driver(17, {"transaction_timeout": asyncio.CancelledError()}))
    with pytest.raises(asyncio.CancelledError):
        await connect(context(tmp_path))
    assert driver.terminated == 1


async def test_bug_a_rewind_that_the_upstream_ended_for_being_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yoban_postgres import follow

    async def upstream(*_: object) -> follow.Upstream:
        return follow.Upstream("7300000000000000001", "00000003", [], 0x4000000)

    monkeypatch.setattr(PostgresReplication, "_upstream", upstream)
    monkeypatch.setattr(follow, "choose", lambda *_: (follow.Way.REWIND, "it diverged"))
    ctx = context(tmp_path, Finished(0, CONTROL.encode(), b""))
    assert await PostgresEngine().replication.prepare_follow(ctx, DONOR) is None
    assert isinstance(ctx.processes, Scripted)
    source = next(word for word in ctx.processes.asked[-1] if word.startswith("--source-server="))
    assert "options='-c idle_session_timeout=0'" in source


async def test_bug_password_verifiers_in_the_log_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = drive(monkeypatch, Driver(16, {"from pg_authid": None, "select exists": True, "format": "create role"}))
    ctx = replace(context(tmp_path), accounts={"owner": Account("app", "x")})
    changed = await PostgresEngine().server.ensure_accounts(ctx)
    assert "user app created" in changed
    assert driver.settings["application_name"] == "yoban-accounts"
    assert driver.settings["log_statement"] == "none"
    assert driver.settings["log_min_error_statement"] == "panic"
    assert driver.settings["log_min_duration_statement"] == "-1"
    assert driver.settings["log_min_duration_sample"] == "-1"
    assert driver.settings["log_transaction_sample_rate"] == "0"
    assert driver.settings["debug_print_parse"] == "off"
    await connect(ctx)
    assert "log_statement" not in driver.settings, "what else the agent asks may be watched"


BEGIN: dict[str, object] = {
    "replica": False, "now": None, "version": "16.3", "major": 16, "system_id": "1", "line": "00000001",
    "segment_bytes": 16 << 20, "checksums": True,
}  # fmt: skip
TOO_MANY = [
    asyncpg.QueryCanceledError("canceling statement due to statement timeout"),
    TimeoutError(),
    asyncpg.UndefinedObjectError("database with OID 5 does not exist"),
]


@pytest.mark.parametrize("error", TOO_MANY, ids=lambda error: type(error).__name__)
async def test_bug_a_backup_that_failed_because_its_size_was_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from datetime import UTC, datetime

    row = {**BEGIN, "now": datetime(2026, 1, 1, tzinfo=UTC)}
    answers = {"pg_database_size": error, "pg_is_in_recovery": row, "pg_backup_start": "0/3000028"}
    driver = drive(monkeypatch, Driver(16, answers))
    async with PostgresBackup(Kept()).backup(context(tmp_path), BackupRequest("test")) as session:
        assert session.total_bytes == 0
        assert session.begin.line == "00000001"
    assert driver.terminated == 1


@pytest.mark.parametrize("error", TOO_MANY, ids=lambda error: type(error).__name__)
async def test_bug_a_database_of_very_many_files_that_was_never_cloned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    held = {"active": False, "holds": True}
    drive(monkeypatch, Driver(16, {"pg_database_size": error, "from pg_replication_slots": held}))
    monkeypatch.setattr(replication, "_MEASURE", 0.001)
    ctx = context(tmp_path)

    class Copying(Scripted):
        async def run(self, argv: Any, **more: Any) -> Finished:
            folder = Path(next(word for word in argv if word.startswith("--pgdata=")).partition("=")[2])
            (folder / "PG_VERSION").write_text("16")
            while not seen:
                await asyncio.sleep(0)
            return await super().run(argv, **more)

    seen: list[tuple[int, int]] = []
    copying: InstanceContext = replace(ctx, processes=Copying(Finished(0, b"", b"")))
    await PostgresReplication(Kept()).provision(copying, DONOR, lambda done, total: seen.append((done, total)))
    assert seen[0] == (2, 0), "how much it will be is not known"
    assert seen[-1][0] == seen[-1][1] >= 2
    assert (ctx.data / "PG_VERSION").exists()
