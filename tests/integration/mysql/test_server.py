"""Life of one server: made, configured, observed, written to."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from dataclasses import replace
from pathlib import Path

import asyncmy
import pytest
from yoban.errors import InvalidInput, NotFound, Unavailable
from yoban.plugins import Account, Configured, Durability, DurabilityMode, Role, SettingClass, StopMode, TlsFiles
from yoban_mysql import accounts, settings
from yoban_mysql.configuration import server_id
from yoban_mysql.session import Refused, connect, connect_peer

from tests.integration.mysql.world import Instance, World, ask, hang_up
from tests.integration.servers import make_certificates

pytestmark = pytest.mark.server


async def test_initialize_makes_data_that_only_the_agent_can_enter(world: World) -> None:
    server = world.engine.server
    one = world.instance(config={"characterSet": "latin1", "timeZone": "+02:00", "lowerCaseTableNames": 1})
    assert not await server.initialized(one.ctx)
    assert await server.data_version(one.ctx) == ""
    assert await server.binary_version(one.ctx) == one.ctx.version
    await server.initialize(one.ctx)
    assert await server.initialized(one.ctx)
    assert await server.data_version(one.ctx) == one.ctx.version
    assert not list(one.ctx.tmp.glob("*.sql"))
    await one.start()
    users = "SELECT GROUP_CONCAT(user ORDER BY user) FROM mysql.user WHERE account_locked = 'N'"
    assert await one.value(users) == "yoban,yoban-replication"
    for name, value in (("character_set_server", "latin1"), ("time_zone", "+02:00"), ("lower_case_table_names", 1)):
        assert await one.value(f"SELECT @@GLOBAL.{name}") == value


async def test_initialize_finishes_after_a_failure_and_names_what_is_refused(world: World) -> None:
    one = world.instance(config={"characterSet": "nonsense"})
    with pytest.raises(InvalidInput) as caught:
        await world.engine.server.initialize(one.ctx)
    assert "nonsense" in str(caught.value)
    assert not await world.engine.server.initialized(one.ctx)
    (one.ctx.data.parent / "data.making").mkdir(exist_ok=True)
    (one.ctx.data.parent / "data.making" / "half").write_text("made")
    one.change(engine_config={})
    await world.engine.server.initialize(one.ctx)
    assert await world.engine.server.initialized(one.ctx)
    assert not (one.ctx.data / "half").exists()


async def test_an_image_without_a_server_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one = world.instance()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("yoban_mysql.binaries.PLACES", ())
    with pytest.raises(NotFound, match="no MySQL server"):
        await world.engine.server.binary_version(one.ctx)


async def test_a_server_is_closed_until_the_agent_opens_it(world: World) -> None:
    one = world.instance(settings={"event_scheduler": "ON"})
    server = world.engine.server
    await world.found(one)
    await server.configure(one.ctx, Role.PRIMARY, None, running=False)
    await one.launch()
    await one.answers()
    with pytest.raises(Unavailable, match="read-only"):
        await server.probe_write(one.ctx)
    with pytest.raises(Refused):
        await one.run("CREATE SCHEMA early")
    closed = await server.status(one.ctx)
    assert (closed.role, closed.accepting, closed.position, closed.line) == (Role.PRIMARY, True, None, "")
    assert await one.value("SELECT @@GLOBAL.event_scheduler") == "OFF"
    await one.care()
    await server.probe_write(one.ctx)
    opened = await server.status(one.ctx)
    uuid = await one.value("SELECT @@GLOBAL.server_uuid")
    assert opened.line == f"{uuid}.0000000001"
    assert opened.position == f"{uuid}:1", "the line's row is the first transaction"
    assert await one.value("SELECT @@GLOBAL.event_scheduler") == "ON"
    assert await one.value("SELECT @@GLOBAL.server_id") == server_id(one.ctx.incarnation, 1)


async def test_a_primary_that_is_started_as_a_replica_takes_no_writes(world: World) -> None:
    one = await world.primary()
    await one.stop()
    await one.start(Role.REPLICA)
    assert (await world.engine.server.status(one.ctx)).role is Role.REPLICA
    app = await one.as_app()
    with pytest.raises(asyncmy.errors.OperationalError, match="read-only"):
        await ask(app, "CREATE TABLE t (n int)")
    await app.ensure_closed()
    with pytest.raises(Unavailable):
        await world.engine.server.probe_write(one.ctx)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max_connections", "abc", "Unknown suffix"),
        ("max_connections", "0", "adjusted"),
        ("innodb_buffer_pool_size", "abc", "Unknown suffix"),
        ("no_such_setting", "1", "unknown variable"),
        ("max_conn", "1", "unknown variable"),
        ("sql_mode", "nonsense", "Error while setting"),
        ("optimizer_switch", "foo=on", "Error while setting"),
        ("autocommit", "maybe", "not recognized"),
        ("innodb_monitor_enable", "no_such_counter", "no_such_counter"),
        ("max-connections", "50", "the same as"),
        ("gtid_mode", "OFF", "set by the operator"),
        ("log-bin", "OFF", "set by the operator"),
        ("sync_binlog", "0", "lose committed data"),
        ("super_read_only", "OFF", "set by the operator"),
        ("rpl_semi_sync_source_timeout", "1000", "set by the operator"),
        ("ssl_cert", "/x", "set by the operator"),
        ("plugin_load_add", "evil.so", "refused"),
        ("init_file", "/tmp/x", "refused"),
        ("loose_max_connections", "1", "refused"),
        ("local_infile", "ON", "refused"),
        ("skip_grant_tables", "ON", "refused"),
        ("a b", "1", "no name"),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_wrong_setting_is_rejected_and_changes_nothing(
    shared: Instance, name: str, value: str, words: str
) -> None:
    server = shared.engine.server
    before = (shared.ctx.data / "yoban-settings.cnf").read_text()
    wrong = replace(shared.ctx, settings={**shared.ctx.settings, "long_query_time": "3.5", name: value})
    for _ in range(2):  # the second answer comes from memory
        answer = await server.configure(wrong, Role.PRIMARY, None, running=True)
        assert [problem.name for problem in answer.rejected] in ([name], ["max_connections"])
        assert any(words in problem.message for problem in answer.rejected), answer.rejected
        assert answer.changed == ()
        assert (shared.ctx.data / "yoban-settings.cnf").read_text() == before
    assert await shared.value("SELECT @@GLOBAL.long_query_time") == 10.0
    assert await server.configure(shared.ctx, Role.PRIMARY, None, running=True) == Configured()


async def test_a_server_stopped_with_a_wrong_setting_starts_with_the_last_good_ones(world: World) -> None:
    one = await world.primary(settings={"sort_buffer_size": "512K"})
    good = one.ctx.settings
    await one.stop()
    one.sets(sort_buffer_size="nonsense", long_query_time="3")
    answer = await world.engine.server.configure(one.ctx, Role.PRIMARY, None, running=False)
    assert [problem.name for problem in answer.rejected] == ["sort_buffer_size"]
    await one.launch()
    await one.answers()
    assert await one.value("SELECT @@GLOBAL.sort_buffer_size") == 512 * 1024
    one.change(settings={**good, "long_query_time": "3"})
    answer = await world.engine.server.configure(one.ctx, Role.PRIMARY, None, running=True)
    assert (answer.rejected, answer.changed) == ((), ("long_query_time",))
    assert await one.value("SELECT @@GLOBAL.long_query_time") == 3.0


async def test_settings_take_effect_or_wait_for_a_restart(world: World) -> None:
    one = await world.primary()
    server = world.engine.server
    assert await server.configure(one.ctx, Role.PRIMARY, None, running=True) == Configured()
    stamps = {path: path.stat().st_mtime_ns for path in one.ctx.data.glob("*.cnf")}
    await server.configure(one.ctx, Role.PRIMARY, None, running=True)
    assert stamps == {path: path.stat().st_mtime_ns for path in one.ctx.data.glob("*.cnf")}
    value = "+ -><()%#:\"'&\\"
    one.sets(ft_boolean_syntax=value, thread_stack="2M", sort_buffer_size="1M", innodb_log_buffer_size="9M")
    changed = await server.configure(one.ctx, Role.PRIMARY, None, running=True)
    assert changed.changed == ("ft_boolean_syntax", "innodb_log_buffer_size", "sort_buffer_size")
    assert changed.pending_restart == ("thread_stack",)
    assert await one.value("SELECT @@GLOBAL.sort_buffer_size") == 1024 * 1024
    assert await one.value("SELECT @@GLOBAL.ft_boolean_syntax") == value
    assert (await server.status(one.ctx)).pending_restart == ("thread_stack",)
    await one.stop()
    await one.start()
    assert (await server.status(one.ctx)).pending_restart == ()
    assert await one.value("SELECT @@GLOBAL.thread_stack") == 2 * 1024 * 1024
    assert await one.value("SELECT @@GLOBAL.ft_boolean_syntax") == value, "the file gives back what was set"
    # A setting that is taken away goes back to the server's own value.
    less = {name: text for name, text in one.ctx.settings.items() if name not in ("sort_buffer_size", "thread_stack")}
    one.change(settings=less)
    changed = await server.configure(one.ctx, Role.PRIMARY, None, running=True)
    assert (changed.changed, changed.pending_restart) == (("sort_buffer_size",), ("thread_stack",))
    assert await one.value("SELECT @@GLOBAL.sort_buffer_size") == 256 * 1024


async def test_what_set_global_and_persist_change_is_taken_back(world: World) -> None:
    one = await world.primary(settings={"long_query_time": "7"})
    await one.run(
        "SET GLOBAL long_query_time = 1",
        "SET GLOBAL sync_binlog = 0",
        "SET GLOBAL require_secure_transport = OFF",
        "SET PERSIST max_connections = 3",
    )
    await one.care()
    assert await one.value("SELECT @@GLOBAL.long_query_time") == 7.0
    assert await one.value("SELECT @@GLOBAL.sync_binlog") == 1
    assert await one.value("SELECT @@GLOBAL.require_secure_transport") == 1
    assert await one.value("SELECT @@GLOBAL.max_connections") == 151
    await one.stop()
    await one.start()
    assert await one.value("SELECT @@GLOBAL.max_connections") == 151


@pytest.mark.asyncio(loop_scope="module")
async def test_classes_of_settings_are_the_server_s(shared: Instance) -> None:
    """What the server does not take while it runs is known to wait for a restart, and nothing else is."""
    session = await connect(shared.ctx)
    wrong: list[str] = []
    try:
        rows = await session.rows("SELECT variable_name AS name FROM performance_schema.global_variables")
        for name in (str(row["name"]) for row in rows):
            kind = settings.rule(name).kind
            if kind not in (SettingClass.RELOAD, SettingClass.RESTART):
                continue
            try:
                await session.execute(f"SET GLOBAL `{name}` = @@GLOBAL.`{name}`")
                restart = False
            except Refused as error:
                restart = error.number == 1238
            if restart != (kind is SettingClass.RESTART):
                wrong.append(name)
    finally:
        session.drop()
    told = {
        "build_id", "caching", "character_set_system", "container_aware", "have_compress", "have_dynamic_loading",
        "have_geometry", "have_profiling", "have_query_cache", "have_rtree_keys", "have_statement_timeout", "have_symlink",
        "gtid_owned", "hostname", "innodb_version", "large_files_support", "large_page_size", "license", "locked_in_memory",
        "lower_case_file_system", "protocol_version", "server_memory", "ssl_fips_mode", "system_time_zone", "version",
        "version_comment", "version_compile_machine", "version_compile_os", "version_compile_zlib", "version_with_update",
    }  # fmt: skip
    assert set(wrong) - told == set(), "what only tells about the server is nobody's setting"


async def test_status_and_write_probe_of_a_primary(world: World) -> None:
    one = await world.primary()
    server = world.engine.server
    before = await server.status(one.ctx)
    assert before.role is Role.PRIMARY
    assert before.version.startswith(one.ctx.version)
    size = "SELECT SUM(file_size) FROM information_schema.innodb_tablespaces"
    grown = await one.value(size)
    for _ in range(50):
        await server.probe_write(one.ctx)
    assert (await server.status(one.ctx)).position == before.position, "it is not logged"
    assert await one.value(size) == grown
    assert await one.value("SELECT COUNT(*) FROM yoban.probe") == 1
    await one.stop(StopMode.IMMEDIATE)
    with pytest.raises(Unavailable):
        await server.status(one.ctx)
    with pytest.raises(Unavailable):
        await server.probe_write(one.ctx)
    await one.start()
    again = await server.status(one.ctx)
    assert (again.role, again.position, again.line) == (Role.PRIMARY, before.position, before.line)


async def test_a_synchronous_primary_without_replicas_gets_its_accounts_answers_and_acknowledges_nothing(
    world: World,
) -> None:
    one = await world.primary(durability=Durability(DurabilityMode.SYNCHRONOUS, 1))
    server = world.engine.server
    assert await one.value("SELECT @@GLOBAL.rpl_semi_sync_source_enabled") == 1
    app = await one.as_app()
    write = asyncio.create_task(ask(app, "CREATE TABLE t (n int PRIMARY KEY)"))
    done, _ = await asyncio.wait({write}, timeout=1.5)
    assert not done, "nobody else has it"
    others = [await one.as_app() for _ in range(3)]
    waiting = [asyncio.create_task(ask(other, f"CREATE TABLE t{n} (n int)")) for n, other in enumerate(others)]
    await asyncio.sleep(0.5)
    for _ in range(3):
        assert (await server.status(one.ctx)).role is Role.PRIMARY
        await server.probe_write(one.ctx)
        await server.configure(one.ctx, Role.PRIMARY, None, running=True)
    assert not write.done()
    await one.stop()
    for task in (write, *waiting):
        with pytest.raises(asyncmy.errors.Error):
            await task
    for other in (app, *others):
        hang_up(other)


async def test_accounts_are_made_once_and_passwords_rotate(world: World) -> None:
    one = world.instance()
    server = world.engine.server
    await world.found(one)
    await one.start()
    made = await server.ensure_accounts(one.ctx)
    assert list(made) == ["user app created", "schema app created", "user app owns schema app"]
    assert await server.ensure_accounts(one.ctx) == []
    secret = 'n\'ew\\ "se%cret" ü'
    one.change(accounts={"owner": Account("app", secret)})
    assert list(await server.ensure_accounts(one.ctx)) == ["password of user app changed"]
    assert await server.ensure_accounts(one.ctx) == []
    app = await one.as_app(secret)
    await ask(app, "CREATE TABLE t (n int PRIMARY KEY)")
    await app.ensure_closed()
    with pytest.raises(asyncmy.errors.OperationalError, match="Access denied"):
        await one.as_app("first")
    log = b"".join(path.read_bytes() for path in one.ctx.data.glob("binlog.0*"))
    assert b"se%cret" not in log and b"ew\\" not in log
    assert "se%cret" not in one.output
    await one.run("ALTER USER app ACCOUNT LOCK", "REVOKE ALL ON app.* FROM app", "DROP USER `yoban-replication`")
    assert set(await server.ensure_accounts(one.ctx)) == {
        "user app may log in again",
        "user app owns schema app",
        "user yoban-replication created",
        "user yoban-replication may replicate",
    }
    with pytest.raises(InvalidInput):
        await server.ensure_accounts(replace(one.ctx, accounts={}))


@pytest.mark.asyncio(loop_scope="module")
async def test_nobody_gets_in_without_proof(shared: Instance, tls: TlsFiles) -> None:
    plain = ssl.create_default_context(cafile=str(tls.ca))
    place = {"host": "localhost", "port": shared.ctx.port}
    for user in ("root", "yoban", "yoban-replication", "mysql.session", ""):
        with pytest.raises(asyncmy.errors.Error):
            await asyncmy.connect(**place, user=user or "nobody", password=b"", ssl=plain)
    with pytest.raises(asyncmy.errors.Error):
        await asyncmy.connect(**place, user="app", password=b"first")  # not encrypted
    certified = ssl.create_default_context(cafile=str(tls.ca))
    certified.load_cert_chain(tls.certificate, tls.key)  # of the same authority, with another name
    with pytest.raises(asyncmy.errors.Error, match="Access denied"):
        await asyncmy.connect(**place, user="yoban-replication", password=b"", ssl=certified)


@pytest.mark.parametrize("encrypted", [False, True], ids=["socket", "TLS"])
async def test_bug_a_cancellation_while_connecting_is_never_lost(world: World, encrypted: bool) -> None:
    """In the moment in which the connection was made it was: what should have ended went on."""
    one = await world.primary()
    for steps in range(400):
        opening = asyncio.create_task(connect_peer(one.ctx, one.peer) if encrypted else connect(one.ctx))
        for _ in range(steps):
            await asyncio.sleep(0)
        asked = opening.cancel()
        done, _ = await asyncio.wait({opening})
        (task,) = done
        assert task.cancelled() or not asked, f"after {steps} steps"
        if not asked:
            task.result().drop()
            break


@pytest.mark.parametrize("leaves", [False, True], ids=["dropped", "left"])
async def test_bug_a_connection_to_a_frozen_peer_is_gone_at_once(world: World, leaves: bool) -> None:
    """It waited for the peer's last word, half a minute, and was collected unclosed by whoever came next."""
    one = await world.primary()
    session = await connect_peer(one.ctx, one.peer)
    descriptor = session._connection._transport.get_extra_info("socket").fileno()
    assert one.process is not None
    one.process.send_signal(signal.SIGSTOP)
    if leaves:
        await session.leave()
    else:
        session.drop()
    for _ in range(3):
        await asyncio.sleep(0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    session.drop()
    one.process.send_signal(signal.SIGCONT)


async def test_certificates_are_loaded_when_they_rotate(world: World) -> None:
    home = world.root / "certificates"
    one = world.instance()
    one.change(tls=make_certificates(home))
    await world.found(one)
    await one.start()
    await world.engine.server.ensure_accounts(one.ctx)

    async def serial() -> str:
        trust = ssl.create_default_context(cafile=str(one.ctx.tls.ca))
        _, writer = await asyncio.open_connection("localhost", one.ctx.port)
        writer.close()
        app = await one.as_app()
        found = await ask(app, "SHOW STATUS LIKE 'Ssl_server_not_after'")
        await app.ensure_closed()
        assert trust is not None
        return str(found[0][1])

    await serial()
    fresh = make_certificates(world.root / "fresh")
    for old, new in zip(_paths(one.ctx.tls), _paths(fresh), strict=True):
        new.replace(old)
    with pytest.raises(asyncmy.errors.OperationalError, match="certificate"):
        await serial()  # the new authority does not know what is served
    await one.care()
    await serial()


def _paths(tls: TlsFiles) -> list[Path]:
    return [tls.ca, tls.certificate, tls.key, tls.client_certificate, tls.client_key]


async def test_a_query_that_is_cancelled_leaves_the_session_usable(world: World) -> None:
    one = await world.primary()
    kept = one.engine.server._kept
    for number in range(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), kept.use(one.ctx) as session:
                await session.rows("SELECT SLEEP(3), REPEAT('x', 1000000)")
        async with kept.use(one.ctx) as session:
            assert await session.value("SELECT %s", number) == number
    async with kept.use(one.ctx) as session:
        with pytest.raises(Unavailable, match="in time"):
            await session.rows("SELECT SLEEP(3)", deadline=0.1)
    assert (await one.engine.server.status(one.ctx)).role is Role.PRIMARY


async def test_bug_tables_in_memory_were_made_that_no_backup_has(world: World) -> None:
    one = await world.primary(
        settings={"disabled_storage_engines": "BLACKHOLE", "internal_tmp_mem_storage_engine": "MEMORY"}
    )
    for engine in ("MEMORY", "BLACKHOLE"):
        with pytest.raises(Unavailable, match="is disabled"):
            await one.run(f"CREATE TABLE app.t (id int) ENGINE={engine}")
    made = "SELECT variable_value FROM performance_schema.session_status WHERE variable_name = 'Created_tmp_tables'"
    session = await one.session()
    try:
        before = int(await session.value(made))
        rows = await session.rows(
            "SELECT n, COUNT(*) FROM (SELECT 1 AS n UNION SELECT 2) AS t GROUP BY n ORDER BY 2, 1"
        )
        assert [row["n"] for row in rows] == [1, 2]
        assert int(await session.value(made)) > before, "tables that the server makes for itself go on"
    finally:
        session.drop()
    assert (await world.engine.server.status(one.ctx)).pending_restart == ()


async def test_accounts_that_anybody_has_are_seen(world: World) -> None:
    one = await world.primary()
    session = await one.session()
    try:
        assert not await accounts.nobody_else(session)
        await session.execute("DROP USER app")
        assert await accounts.nobody_else(session)
    finally:
        session.drop()
