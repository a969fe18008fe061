"""Life of one server: made, configured, observed, written to."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from yoban.errors import InvalidInput, Unavailable
from yoban.plugins import Account, Configured, Durability, DurabilityMode, LogVerb, Role, StopMode, TlsFiles
from yoban_postgres import accounts, session, status

from tests.integration.postgres.world import Instance, World
from tests.integration.servers import make_certificates

pytestmark = pytest.mark.server


async def test_initialize_makes_data_with_log_on_its_own_volume(world: World) -> None:
    server = world.engine.server
    one = world.instance(log=True, config={"walSegmentSize": 64, "dataChecksums": True})
    assert not await server.initialized(one.ctx)
    assert await server.data_version(one.ctx) == ""
    assert await server.binary_version(one.ctx) == world.version
    await server.initialize(one.ctx)
    assert await server.initialized(one.ctx)
    assert await server.data_version(one.ctx) == world.version
    assert (one.ctx.data / "pg_wal").resolve() == one.ctx.log / "pg_wal"
    assert await world.engine.log_source.segment_bytes(one.ctx) == 64 * 1024 * 1024
    await one.start()
    assert await one.value("select current_setting('data_checksums')") == "on"
    assert (
        await one.value(
            "select datcollate || pg_encoding_to_char(encoding) from pg_database where datname = 'postgres'"
        )
        == "C.UTF-8UTF8"
    )
    await one.stop()


async def test_initialize_finishes_after_a_failure_and_names_a_bad_locale(world: World) -> None:
    one = world.instance(config={"locale": "xx_YY.bad"})
    with pytest.raises(InvalidInput) as caught:
        await world.engine.server.initialize(one.ctx)
    assert "xx_YY.bad" in str(caught.value)
    assert not await world.engine.server.initialized(one.ctx)
    (one.ctx.data.parent / "pgdata.making").mkdir(exist_ok=True)
    (one.ctx.data.parent / "pgdata.making" / "half").write_text("made")
    one.change(engine_config={})
    await world.engine.server.initialize(one.ctx)
    assert await world.engine.server.initialized(one.ctx)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("work_mem", "abc", "invalid value"),
        ("work_mem", "-5", "outside the valid range"),
        ("no_such_setting", "1", "unrecognized"),
        ("block_size", "4096", "cannot be changed"),
        ("log_statement", "everything", "Available values"),
        ("archive_mode", "off", "set by the operator"),
        ("archive_command", "/bin/true", "set by the operator"),
        ("restore_command", "x", "set by the operator"),
        ("recovery_target_time", "x", "set by the operator"),
        ("listen_addresses", "", "set by the operator"),
        ("dynamic_library_path", "/tmp", "refused"),
        ("shared_preload_libraries", "evil", "refused"),
        ("shared_preload_libraries", "pg_hint_plan", "no library"),
        ("a b", "1", "no name"),
        ("superuser_reserved_connections", "200", "reserved"),
        ("fsync", "off", "lose committed data"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_wrong_setting_is_rejected_and_changes_nothing(
    shared: Instance, name: str, value: str, words: str
) -> None:
    server = shared.engine.server
    before = (shared.ctx.data / "yoban-settings.conf").read_text()
    wrong = replace(shared.ctx, settings={**shared.ctx.settings, name: value, "log_temp_files": "55MB"})
    for running in (True, False):  # the second answer comes from memory
        answer = await server.configure(wrong, Role.PRIMARY, None, running=running)
        assert name in {problem.name for problem in answer.rejected}
        assert any(words in problem.message for problem in answer.rejected), answer.rejected
        assert (shared.ctx.data / "yoban-settings.conf").read_text() == before
    assert await server.configure(shared.ctx, Role.PRIMARY, None, running=True) == Configured()


async def test_a_server_stopped_with_a_wrong_setting_starts_with_the_last_good_ones(world: World) -> None:
    one = await world.primary(settings={"work_mem": "9MB"})
    good = one.ctx.settings
    await one.stop()
    one.sets(work_mem="nonsense", log_temp_files="55MB")
    answer = await world.engine.server.configure(one.ctx, Role.PRIMARY, None, running=False)
    assert [problem.name for problem in answer.rejected] == ["work_mem"]
    await one.launch()
    await one.answers()
    assert await one.value("select current_setting('work_mem')") == "9MB"
    one.change(settings={**good, "log_temp_files": "55MB"})
    answer = await world.engine.server.configure(one.ctx, Role.PRIMARY, None, running=True)
    assert (answer.rejected, answer.changed) == ((), ("log_temp_files",))
    assert await one.value("select current_setting('log_temp_files')") == "55MB"


async def test_bug_no_bound_on_slots_after_a_rejected_setting_at_the_first_start(world: World) -> None:
    one = world.instance(settings={"work_mem": "nonsense", "superuser_reserved_connections": "100"})
    await world.found(one)
    for _ in range(2):
        answer = await world.engine.server.configure(one.ctx, Role.PRIMARY, None, running=False)
        assert [problem.name for problem in answer.rejected] == ["superuser_reserved_connections", "work_mem"]
    await one.launch()
    await one.answers()
    assert await one.value("select current_setting('max_slot_wal_keep_size')") == "1GB"
    assert await one.value("select current_setting('shared_buffers')") == "16MB"


async def test_bug_a_value_that_never_equals_itself(world: World) -> None:
    words = "a\u2028b\x85c\x0bd\x0ce"
    one = await world.primary(settings={"myapp.greeting": words})
    assert await one.value("select current_setting('myapp.greeting')") == words
    assert await world.engine.server.configure(one.ctx, Role.PRIMARY, None, running=True) == Configured()


async def test_bug_certificates_that_a_running_server_never_loaded(world: World) -> None:
    one = world.instance()
    one.change(tls=make_certificates(world.root / "certificates"))
    await world.found(one)
    await one.start()
    await world.engine.server.ensure_accounts(one.ctx)
    await (await one.as_app()).close()

    async def care() -> int:
        before = one.output.count("reloading configuration files")
        assert await world.engine.server.configure(one.ctx, Role.PRIMARY, None, running=True) == Configured()
        return one.output.count("reloading configuration files") - before

    await care()  # its files are about as old as its start
    assert await care() == 0
    fresh = make_certificates(world.root / "fresh")
    for old, new in zip(_paths(one.ctx.tls), _paths(fresh), strict=True):
        new.replace(old)
    with pytest.raises(ssl.SSLCertVerificationError):
        await one.as_app()  # the new authority does not know what is served
    assert (await care(), await care()) == (1, 0)
    async with asyncio.timeout(10):
        while True:  # it loads them a moment after the files of settings
            with contextlib.suppress(ssl.SSLCertVerificationError):
                await (await one.as_app()).close()
                break
            await asyncio.sleep(0.05)


def _paths(tls: TlsFiles) -> list[Path]:
    return [tls.ca, tls.certificate, tls.key, tls.client_certificate, tls.client_key]


async def test_settings_take_effect_or_wait_for_a_restart(world: World) -> None:
    one = await world.primary()
    server = world.engine.server
    quiet = await server.configure(one.ctx, Role.PRIMARY, None, running=True)
    assert (quiet.changed, quiet.pending_restart, quiet.rejected) == ((), (), ())
    stamps = {path: path.stat().st_mtime_ns for path in one.ctx.data.glob("*.conf")}
    await server.configure(one.ctx, Role.PRIMARY, None, running=True)
    assert stamps == {path: path.stat().st_mtime_ns for path in one.ctx.data.glob("*.conf")}
    one.sets(work_mem="9MB", max_connections="77", **{"myapp.greeting": "it's 100% \\ fine"})
    changed = await server.configure(one.ctx, Role.PRIMARY, None, running=True)
    assert changed.changed == ("myapp.greeting", "work_mem")
    assert changed.pending_restart == ("max_connections",)
    assert await one.value("select current_setting('work_mem')") == "9MB"
    assert await one.value("select current_setting('myapp.greeting')") == "it's 100% \\ fine"
    assert (await server.status(one.ctx)).pending_restart == ("max_connections",)
    await one.stop()
    await one.start()
    assert (await server.status(one.ctx)).pending_restart == ()
    assert await one.value("select current_setting('max_connections')") == "77"


async def test_a_lost_reload_is_made_up_for(world: World) -> None:
    one = await world.primary()
    one.sets(work_mem="11MB")
    await world.engine.server.configure(one.ctx, Role.PRIMARY, None, running=False)  # written, never reloaded
    assert await one.value("select current_setting('work_mem')") != "11MB"
    await world.engine.server.configure(one.ctx, Role.PRIMARY, None, running=True)
    assert await one.value("select current_setting('work_mem')") == "11MB"


async def test_what_alter_system_sets_is_taken_back(world: World) -> None:
    one = await world.primary()
    await one.run("alter system set archive_command = '/bin/true'", "select pg_reload_conf()")
    await world.engine.server.configure(one.ctx, Role.PRIMARY, None, running=True)
    await one.until("select current_setting('archive_command') like '%ask it.sh%'")


async def test_a_replica_s_role_is_written_even_with_a_rejected_setting(world: World) -> None:
    one = await world.primary()
    await one.stop()
    one.sets(work_mem="nonsense")
    answer = await world.engine.server.configure(one.ctx, Role.REPLICA, None, running=False)
    assert [problem.name for problem in answer.rejected] == ["work_mem"]
    assert (one.ctx.data / "standby.signal").exists()
    await one.launch()
    await one.answers()
    assert (await world.engine.server.status(one.ctx)).role is Role.REPLICA


async def test_status_and_write_probe_of_a_primary(world: World) -> None:
    one = await world.primary()
    server = world.engine.server
    before = await server.status(one.ctx)
    assert before.role is Role.PRIMARY
    assert before.accepting
    assert before.version.split(".")[0] == world.version
    assert before.line == "00000001"
    assert before.position is not None and before.position.startswith("00000001:0/")
    assert before.system_id == await one.value("select system_identifier::text from pg_control_system()")
    start = datetime.now(UTC)
    await server.probe_write(one.ctx)
    after = await server.status(one.ctx)
    assert after.position != before.position
    assert after.last_commit is not None and after.last_commit >= start - timedelta(seconds=1)
    await one.stop(StopMode.IMMEDIATE)
    with pytest.raises(Unavailable):
        await server.status(one.ctx)
    with pytest.raises(Unavailable):
        await server.probe_write(one.ctx)
    await one.start()
    assert (await server.status(one.ctx)).role is Role.PRIMARY


async def test_status_and_probe_do_not_wait_for_a_missing_synchronous_replica(world: World) -> None:
    one = await world.primary()
    world.instance()
    one.change(durability=Durability(DurabilityMode.SYNCHRONOUS, 1))
    await world.engine.server.configure(one.ctx, Role.PRIMARY, None, running=True)
    assert await one.value("select current_setting('synchronous_standby_names')") == 'ANY 1 ("orders-2")'
    await world.engine.server.probe_write(one.ctx)
    app = await one.as_app()
    with pytest.raises((TimeoutError, asyncpg.QueryCanceledError)):
        await app.execute("create table t (n int)", timeout=1)  # not acknowledged: no replica has it
    await app.close(timeout=5)
    one.sets(synchronous_commit="local")
    answer = await world.engine.server.configure(one.ctx, Role.PRIMARY, None, running=True)
    assert [problem.name for problem in answer.rejected] == ["synchronous_commit"]


async def test_bug_commits_that_no_replica_held_after_a_change_to_synchronous(world: World) -> None:
    one = await world.primary(settings={"synchronous_commit": "off"})
    world.instance()
    app = await one.as_app()
    await app.execute("create table t (n int)")
    one.change(durability=Durability(DurabilityMode.SYNCHRONOUS, 1))
    answer = await world.engine.server.configure(one.ctx, Role.PRIMARY, None, running=True)
    assert [problem.name for problem in answer.rejected] == ["synchronous_commit"]
    await app.close()
    app = await one.as_app()
    with pytest.raises((TimeoutError, asyncpg.QueryCanceledError)):
        await app.execute("insert into t values (1)", timeout=1)
    one.change(durability=Durability())
    answer = await world.engine.server.configure(one.ctx, Role.PRIMARY, None, running=True)
    assert answer.rejected == ()
    await app.close()
    app = await one.as_app()
    assert await app.fetchval("select current_setting('synchronous_commit')") == "off"
    await app.close()


async def test_a_size_that_is_not_known_in_time_costs_no_session(world: World) -> None:
    one = await world.primary()
    connection = await session.connect(one.ctx)
    assert await status.data_bytes(connection, timeout=10) > 1 << 20
    blocker = await one.session()
    async with blocker.transaction():
        await blocker.execute("lock table pg_database in access exclusive mode")
        assert await status.data_bytes(connection, timeout=0.2) == 0
        await connection.execute("set statement_timeout = 200")
        assert await status.data_bytes(connection, timeout=10) == 0
        assert await connection.fetchval("select 1") == 1
    await blocker.close()
    await connection.close()


async def test_bug_password_verifiers_in_the_log_of_the_server(world: World) -> None:
    everything = {
        "log_statement": "all",
        "log_min_duration_statement": "0",
        "log_min_error_statement": "info",
        "debug_print_parse": "on",
        "log_min_messages": "debug1",
    }
    one = await world.primary(settings=everything)
    one.change(accounts={"owner": Account("app", "second")})
    assert await world.engine.server.ensure_accounts(one.ctx) == ["password of user app changed"]
    assert "pg_is_in_recovery" in one.output
    assert "SCRAM-SHA-256$" not in one.output


async def test_accounts_are_made_once_and_passwords_rotate(world: World) -> None:
    one = await world.primary(settings={"log_statement": "all"})
    server = world.engine.server
    assert await server.ensure_accounts(one.ctx) == []
    app = await one.as_app()
    await app.execute("create table mine (n int)")
    await app.close()
    one.change(accounts={"owner": Account("app", "sëcond 'quoted' \\")})
    assert await server.ensure_accounts(one.ctx) == ["password of user app changed"]
    with pytest.raises(asyncpg.InvalidPasswordError):
        await one.as_app("first")
    await (await one.as_app("sëcond 'quoted' \\")).close()
    assert "sëcond" not in one.output
    assert "SCRAM-SHA-256$" in await one.value("select rolpassword from pg_authid where rolname = 'app'")
    assert not await one.value("select rolsuper from pg_authid where rolname = 'app'")
    assert await one.value("select datdba::regrole::text from pg_database where datname = 'app'") == "app"


async def test_bug_a_statement_timeout_while_the_database_was_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow machine is played by a lock that holds the statement back for longer than statements usually have."""
    one = world.instance()
    server = world.engine.server
    await world.found(one)
    await one.start()
    monkeypatch.setattr(session.connect, "__kwdefaults__", {**session.connect.__kwdefaults__, "statement": 0.5})
    await server.close(one.ctx)
    blocker = await one.session()
    async with blocker.transaction():
        await blocker.execute("lock table pg_database in share mode")  # `create database` waits, readers do not
        making = asyncio.create_task(server.ensure_accounts(one.ctx))
        await one.until("select exists(select from pg_locks where not granted)")
        async with asyncio.timeout(1):  # nobody who observes waits meanwhile
            await server.status(one.ctx)
        await asyncio.sleep(0.7)
        assert not making.done()
    await blocker.close()
    assert (await making)[-1] == "database app created"
    assert await server.ensure_accounts(one.ctx) == []


async def test_accounts_are_taken_up_again_after_every_interrupted_statement(world: World) -> None:
    one = world.instance()
    server = world.engine.server
    await world.found(one)
    await one.start()
    owner = one.ctx.accounts["owner"]
    connection = await one.session()
    changes = await accounts.plan(connection, owner)
    assert [change.words for change in changes] == [
        "user yoban-replication created",
        "user app created",
        "database app created",
    ]
    for done in range(len(changes)):
        assert await accounts.apply(connection, changes[done : done + 1]) == [changes[done].words]
        left = await accounts.plan(connection, owner)
        assert [change.words for change in left] == [change.words for change in changes[done + 1 :]]
    # The server finished a statement whose caller was gone: made twice is made once.
    assert await accounts.apply(connection, changes) == []
    await connection.close()
    assert await server.ensure_accounts(one.ctx) == []
    await (await one.as_app()).close()


async def test_accounts_that_were_tampered_with_are_mended(world: World) -> None:
    one = await world.primary()
    await one.run(
        "alter role app nologin",
        'alter role "yoban-replication" noreplication',
        'revoke execute on function pg_read_binary_file(text) from "yoban-replication"',
        'revoke pg_read_all_stats from "yoban-replication"',
    )
    assert await world.engine.server.ensure_accounts(one.ctx) == [
        "user yoban-replication may replicate again",
        "user yoban-replication may read files to rejoin",
        "user yoban-replication may read statistics",
        "user app may log in again",
    ]
    assert await world.engine.server.ensure_accounts(one.ctx) == []
    one.change(accounts={})
    with pytest.raises(InvalidInput, match="no password for the owner"):
        await world.engine.server.ensure_accounts(one.ctx)


async def test_nobody_enters_but_by_the_ways_meant(world: World) -> None:
    one = await world.primary()
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(
            host="localhost", port=one.ctx.port, user="app", password="first", database="app", ssl=False
        )
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(
            host="localhost", port=one.ctx.port, user="postgres", password="x", database="app", ssl="require"
        )
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(
            host="localhost",
            port=one.ctx.port,
            user="yoban-replication",
            password="x",
            database="postgres",
            ssl="require",
        )
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(host=str(one.ctx.run), port=one.ctx.port, user="app", password="first", database="app")


async def test_functions_of_users_are_never_called_by_the_agent(world: World) -> None:
    one = await world.primary()
    await one.run(
        "create schema evil",
        "create function evil.pg_is_in_recovery() returns bool language plpgsql as 'begin raise exception ''called''; end'",
        "alter role postgres set search_path = evil, pg_catalog",
        "alter database postgres set search_path = evil, pg_catalog",
    )
    await world.engine.server.close(one.ctx)
    assert (await world.engine.server.status(one.ctx)).role is Role.PRIMARY


async def test_the_kept_connection_is_made_anew(world: World) -> None:
    one = await world.primary()
    kept = session.Kept()
    with pytest.raises(Unavailable, match="terminating connection"):
        async with kept.use(one.ctx) as connection:
            await connection.fetchval("select pg_terminate_backend(pg_backend_pid())")
    async with kept.use(one.ctx) as connection:
        first = await connection.fetchval("select pg_backend_pid()")
    async with kept.use(one.ctx) as connection:
        assert await connection.fetchval("select pg_backend_pid()") == first
    # Ended while nobody used it: noticed at once, or by the one statement that fails.
    assert await one.value("select pg_terminate_backend($1, 10000)", first)
    with contextlib.suppress(Unavailable):
        async with kept.use(one.ctx) as connection:
            await connection.fetchval("select 1")
    async with kept.use(one.ctx) as connection:
        assert await connection.fetchval("select pg_backend_pid()") != first
    await kept.close(one.ctx)
    await kept.close(one.ctx)
    await asyncio.gather(*(world.engine.server.status(one.ctx) for _ in range(5)))
    await one.until("select count(*) = 1 from pg_stat_activity where application_name = 'yoban'")


async def test_no_secret_shows_in_arguments_or_environments(world: World) -> None:
    one = await world.primary()
    two = await world.replica(one)
    found = b""
    for instance in (one, two):
        assert instance.process is not None
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                found += (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            except OSError:
                continue
    assert str(one.ctx.data).encode() in found
    assert b"PRIVATE KEY" not in found
    # Not an option of somebody's program that ends like it: other processes of the machine are looked at, too.
    assert not re.search(rb"(?<!-)" + one.ctx.accounts["owner"].password.encode() + b"\x00", found)


async def test_requests_name_only_files_of_the_log(world: World) -> None:
    one = world.instance()
    server = world.engine.server
    name = "000000010000000000000003"
    request = server.interpret(one.ctx, "archive", [name, f"pg_wal/{name}"])
    assert (request.verb, request.segment, request.path) == (LogVerb.ARCHIVE, name, one.ctx.data / "pg_wal" / name)
    request = server.interpret(one.ctx, "restore", ["00000002.history", "pg_wal/RECOVERYHISTORY"])
    assert request.path == one.ctx.data / "pg_wal" / "RECOVERYHISTORY"
    assert server.interpret(one.ctx, "restore", [name, f"{one.ctx.data}/pg_wal/{name}"]).path.name == name
    for verb, arguments in (
        ("archive", [name]),
        ("remove", [name, f"pg_wal/{name}"]),
        ("archive", [name, f"../{name}"]),
        ("archive", [name, f"/etc/{name}"]),
        ("restore", [name, "pg_wal/../postgresql.conf"]),
        ("restore", ["../../etc/passwd", "pg_wal/RECOVERYXLOG"]),
        ("archive", ["PG_VERSION", "pg_wal/PG_VERSION"]),
    ):
        with pytest.raises(InvalidInput):
            server.interpret(one.ctx, verb, arguments)


async def test_an_image_of_another_version_is_told(world: World) -> None:
    one = world.instance()
    one.change(version="14" if world.version != "14" else "15")
    assert await world.engine.server.binary_version(one.ctx) == world.version
    assert replace(one.ctx).version != world.version


async def test_a_server_tells_that_it_read_damaged_pages(world: World) -> None:
    one = await world.primary(own=True, config={"dataChecksums": True})
    await one.run("create table t as select n from generate_series(1, 1000) as n", "checkpoint")
    path = one.ctx.data / str(await one.value("select pg_relation_filepath('t')"))
    assert not (await world.engine.server.status(one.ctx)).problem
    await one.stop()
    with path.open("r+b") as file:
        file.seek(8192 + 4000)
        file.write(b"damaged")
    await one.start()
    with pytest.raises(asyncpg.DataCorruptedError):
        await one.value("select count(*) from t")
    await one.until("select exists (select from pg_stat_database where checksum_failures > 0)")
    problem = (await world.engine.server.status(one.ctx)).problem
    assert "damaged pages were read: 1 in database" in problem


async def test_bug_a_role_that_waits_for_no_replica_was_told_by_nobody(world: World) -> None:
    one = await world.primary(own=True)
    await one.run("create role hasty", "alter role hasty set synchronous_commit = off", "create role careful")
    await one.run("alter role careful set synchronous_commit = remote_apply")
    assert not (await world.engine.server.status(one.ctx)).problem
    await one.run("alter system set synchronous_standby_names = 'ANY 1 (x)'", "select pg_reload_conf()")
    await one.until("select current_setting('synchronous_standby_names') <> ''")
    problem = (await world.engine.server.status(one.ctx)).problem
    assert "commits of role hasty wait for no replica" in problem
    assert "careful" not in problem
    await one.stop()
