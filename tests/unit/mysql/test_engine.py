from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from yoban.errors import AccessDenied, Unavailable
from yoban.plugins import Capability, Durability, DurabilityMode, Endpoint, Role
from yoban.testing.context import make_context
from yoban_mysql import follow
from yoban_mysql.configuration import fixed_settings, main_text, role_in, server_id
from yoban_mysql.engine import MySqlEngine
from yoban_mysql.gtid import GtidSet
from yoban_mysql.line import LogFile, base, first_file, line_name, log_index, only
from yoban_mysql.plugin import YOBAN_PLUGIN_API, yoban_engines
from yoban_mysql.replication import Upstream, shortened, unfit
from yoban_mysql.server import agent_statements, version_of
from yoban_mysql.session import Refused, identifier, translated
from yoban_mysql.stopped import executed

engine = MySqlEngine()
A, B = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"


def gtids(text: str) -> GtidSet:
    return GtidSet.parse(text.replace("A:", f"{A}:").replace("B:", f"{B}:"))


def test_the_operator_loads_no_driver() -> None:
    program = (
        "import sys; from yoban_mysql.plugin import yoban_engines; list(yoban_engines());"
        "print([m for m in ('asyncmy',) if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_plugin_and_capabilities() -> None:
    assert YOBAN_PLUGIN_API == (1, 0)
    assert [found.name for found in yoban_engines()] == ["mysql"]
    assert {Capability.REPLICAS, Capability.SWITCHOVER, Capability.SYNCHRONOUS} <= engine.capabilities
    assert (Capability.SKIP in engine.capabilities) == (Capability.POINT_IN_TIME in engine.capabilities)
    assert [version.name for version in engine.versions()] == ["9.7", "8.4"]
    assert engine.versions()[0].image == "docker.io/library/mysql:9.7"
    layout = engine.layout("9.7")
    assert (layout.uid, layout.gid, layout.port, layout.user) == (999, 999, 3306, "mysql")
    assert [spec.purpose for spec in engine.accounts("orders")] == ["owner"]


def test_uris_are_percent_encoded() -> None:
    found = engine.connection(Endpoint("db.shop.svc", 3306, "a@b", "p:/?#&=ü", "app"))
    assert found["uri"] == "mysql://a%40b:p%3A%2F%3F%23%26%3D%C3%BC@db.shop.svc:3306/app?ssl-mode=REQUIRED"
    assert unquote(urlsplit(found["uri"]).password or "") == "p:/?#&=ü"
    assert found["jdbc-uri"] == (
        "jdbc:mysql://db.shop.svc:3306/app?user=a%40b&password=p%3A%2F%3F%23%26%3D%C3%BC&sslMode=REQUIRED"
    )


def test_server_ids_differ_by_instance_and_by_life() -> None:
    found = {server_id(life, number) for life in ("aaaaaaaaaaaa", "bbbbbbbbbbbb") for number in range(1, 200)}
    assert len(found) == 398
    assert all(0 < one < 2**32 for one in found)


def test_a_server_starts_closed_whatever_its_role(tmp_path: Path) -> None:
    ctx = make_context(tmp_path, version="9.7")
    for role in Role:
        fixed = fixed_settings(ctx, role)
        assert fixed["super_read_only"] == fixed["skip_replica_start"] == "ON"
        assert fixed["event_scheduler"] == fixed["rpl_semi_sync_source_enabled"] == "OFF"
        assert fixed["relay_log_recovery"] == "OFF", "what was confirmed is kept"
        content = main_text({"super_read_only": "OFF", "sort_buffer_size": "1M"}, fixed, role)
        assert 'super_read_only="ON"' in content and 'super_read_only="OFF"' not in content
        assert role_in(content) is role
        for account in ctx.accounts.values():
            assert account.password not in content
    assert role_in("[mysqld]\n") is None


def test_durability_decides_what_a_replica_syncs_and_how_many_confirm(tmp_path: Path) -> None:
    ctx = make_context(tmp_path, durability=Durability(DurabilityMode.SYNCHRONOUS, 2))
    fixed = fixed_settings(ctx, Role.REPLICA)
    assert (fixed["sync_relay_log"], fixed["rpl_semi_sync_replica_enabled"]) == ("1", "ON")
    assert fixed["rpl_semi_sync_source_wait_for_replica_count"] == "2"
    assert fixed_settings(replace(ctx, durability=Durability()), Role.REPLICA)["rpl_semi_sync_replica_enabled"] == "OFF"


def test_the_first_file_of_a_line() -> None:
    # Never a primary: the oldest that is there.
    copied = [LogFile(3, gtids("A:1-5")), LogFile(4, gtids("A:1-9"))]
    assert first_file(copied, gtids("A:1-12"), B) == copied[0]
    # A primary again: the oldest that began after all that it had written itself.
    again = [
        LogFile(1, gtids("")),
        LogFile(2, gtids("A:1-5")),
        LogFile(3, gtids("A:1-7")),
        LogFile(4, gtids("A:1-7,B:1-4")),
    ]
    assert first_file(again, gtids("A:1-7,B:1-9"), A) == again[2]
    assert first_file(again, gtids("A:1-7:tag:1,B:1-9"), A) is None
    assert first_file([], gtids("A:1"), A) is None
    assert only(gtids("A:1-3:x:4,B:5"), A) == gtids("A:1-3:x:4")
    assert line_name(A, 12) == f"{A}.0000000012"


def test_what_cannot_follow() -> None:
    there = Upstream(True, gtids("A:1-10,B:1-3"), gtids("A:1-4"))
    assert unfit(gtids("A:1-8"), there, "orders-1") is None
    assert unfit(gtids("A:1-10,B:1-3"), there, "orders-1") is None
    errant = unfit(gtids("A:1-11"), there, "orders-1")
    assert errant is not None and errant.rebuild and f"{A}:11" in errant.why
    gone = unfit(gtids("A:1-3"), there, "orders-1")
    assert gone is not None and gone.rebuild and f"{A}:4" in gone.why
    many = gtids(",".join(f"A:{number}" for number in range(1, 999, 2)))
    assert len(shortened(many)) < 500 and "499 transactions" in shortened(many)


def test_stopped_data_tells_what_it_has_executed(tmp_path: Path) -> None:
    assert executed(tmp_path) is None
    assert log_index(tmp_path) == []
    assert base(tmp_path) == GtidSet()
    assert version_of(tmp_path) == ""
    (tmp_path / "mysql.ibd").write_bytes(b"\0" * 8 + (90704).to_bytes(4, "big"))
    assert version_of(tmp_path) == "9.7"
    (tmp_path / "mysql.ibd").write_bytes(b"\0" * 8)
    assert version_of(tmp_path) == ""


def test_an_applier_s_error_is_its_worker_s() -> None:
    assert follow.applier_error({"worker_error": 1032, "coordinator_error": 3030}) == 1032
    assert follow.applier_error({"worker_error": None, "coordinator_error": 13121}) == 13121
    assert follow.applier_error({"worker_error": None, "coordinator_error": None}) == 0


def test_names_are_quoted() -> None:
    assert identifier("a`b") == "`a``b`"
    assert r"AS 'o\'neil'" in agent_statements("o'neil")[0]


def test_errors_of_the_driver_are_ours() -> None:
    errors = pytest.importorskip("asyncmy.errors")
    for error, kind in (
        (errors.OperationalError(1045, "Access denied"), AccessDenied),
        (errors.ProgrammingError(1064, "syntax"), Refused),
        (errors.OperationalError(2013, "lost"), Unavailable),
        (errors.InterfaceError("(0, 'Cancelled during execution')"), Unavailable),
        (ConnectionRefusedError("no"), Unavailable),
        (TimeoutError(), Unavailable),
        (Unavailable("ours"), Unavailable),
    ):
        with pytest.raises(kind), translated("server x"):
            raise error
