from __future__ import annotations

import pytest
from yoban.plugins import ServerFacts, SettingClass
from yoban_mysql import settings
from yoban_mysql.catalogue import complaints
from yoban_mysql.defaults import defaults
from yoban_mysql.live import same
from yoban_mysql.options import parse, text
from yoban_mysql.session import _SETTINGS

GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("long_query_time", SettingClass.RELOAD),
        ("thread-stack", SettingClass.RESTART),
        ("performance_schema_max_table_handles", SettingClass.RESTART),
        ("performance_schema_digests_size", SettingClass.RESTART),
        ("no_such_setting_at_all", SettingClass.RELOAD),
        ("GTID-Mode", SettingClass.FIXED),
        ("server_id", SettingClass.FIXED),
        ("innodb_flush_log_at_trx_commit", SettingClass.FIXED),
        ("replicate_do_db", SettingClass.FIXED),
        ("group_replication_group_name", SettingClass.FIXED),
        ("ssl_ca", SettingClass.FIXED),
        ("plugin_load", SettingClass.REFUSED),
        ("secure_file_priv", SettingClass.REFUSED),
        ("skip_log_bin", SettingClass.REFUSED),
        ("skip_external_locking", SettingClass.RESTART),
        ("loose_no_such", SettingClass.REFUSED),
        ("x=1\ny", SettingClass.REFUSED),
        ("", SettingClass.REFUSED),
    ],
)
def test_classes_of_settings(name: str, kind: SettingClass) -> None:
    found = settings.rule(name)
    assert found.kind is kind
    assert bool(found.why) == (kind in (SettingClass.FIXED, SettingClass.REFUSED))


def test_what_a_replica_must_not_have_less_of_is_raised_there_first() -> None:
    assert settings.rule("max_binlog_cache_size").replicas_first
    assert not settings.rule("max_connections").replicas_first


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("sort_buffer_size", "1M", ""),
        ("ft_boolean_syntax", '+ -><()~*:""&|', ""),
        ("ft_boolean_syntax", "a\nplugin_load=evil", "single line"),
        ("innodb_buffer_pool_size", "900M", "three quarters"),
        ("innodb_buffer_pool_size", "700M", ""),
        ("innodb_buffer_pool_size", "1T", "three quarters"),
        ("performance_schema", "OFF", "observed"),
        ("gtid_mode", "ON", "set by the operator"),
        ("local_infile", "ON", "refused"),
    ],
)
def test_what_is_wrong_without_a_server(name: str, value: str, word: str) -> None:
    found = settings.problem_with(name, value, GIB)
    assert word in found if word else found == ""


@pytest.mark.parametrize(
    "name",
    [
        "tc_heuristic_recover",
        "innodb_log_checksums",
        "innodb-buffer-pool-filename",
        "init_connect",
        "max_user_connections",
        "log_raw",
    ],
)
def test_bug_settings_that_break_promises_were_taken(name: str) -> None:
    assert settings.rule(name).kind in (SettingClass.FIXED, SettingClass.REFUSED)


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("fsync", True),
        ("O_DIRECT", True),
        ("O_DIRECT_NO_FSYNC", True),
        ("4", True),
        ("nosync", False),
        ("NoSync", False),
        (" littlesync ", False),
        ("litt", False),  # the server takes the begin of a word
        ("2", False),
        ("03", False),
    ],
)
def test_bug_a_server_was_let_write_without_syncing(value: str, taken: bool) -> None:
    found = settings.problem_with("innodb-flush-method", value)
    assert (found == "") is taken
    assert taken or "lose committed data" in found


def test_bug_settings_of_all_sessions_changed_what_the_agent_s_own_statements_do() -> None:
    for name in (
        "transaction_read_only = OFF",
        "sql_select_limit = 18446744073709551615",
        "completion_type = 'NO_CHAIN'",
    ):
        assert name in _SETTINGS


def test_one_variable_is_set_once() -> None:
    found = settings.doubled({"max-connections": "1", "max_connections": "2", "sort_buffer_size": "1M"})
    assert list(found) == ["max_connections"]


@pytest.mark.parametrize(
    ("running", "wanted", "equal"),
    [
        ("134217728", "128M", True),
        ("1024", "1k", True),
        ("ON", "1", True),
        ("OFF", "false", True),
        ("10.000000", "10", True),
        ("0.5", "0.50", True),
        ("ROW", "row", True),
        ("", "", True),
        ("151", "152", False),
        ("ON", "OFF", False),
        ("a", "b", False),
    ],
)
def test_a_running_value_and_a_file_s_value(running: str, wanted: str, equal: bool) -> None:
    assert same(running, wanted) is equal


def test_option_files_are_read_back() -> None:
    options = {"a": "", "b": "it's # 'here'", "c": 'say "x" \\n', "d": " blank ", "e": "a=b", "f": "ü"}
    written = text(options, [("plugin_load_add", "x.so"), ("plugin_load_add", "y.so")])
    assert written.index("x.so") < written.index("y.so")
    assert parse(written) == {**options, "plugin_load_add": "y.so"}


@pytest.mark.parametrize("version", ["8.4", "9.7"])
@pytest.mark.parametrize(
    ("memory", "cpus"), [(0, 0.0), (512 << 20, 0.5), (GIB, 1.0), (4 * GIB, 2.0), (256 * GIB, 64.0)]
)
def test_defaults_fit_the_memory(version: str, memory: int, cpus: float) -> None:
    found = defaults(ServerFacts(version, memory, cpus, 3))
    pool, redo = int(found["innodb_buffer_pool_size"]), int(found["innodb_redo_log_capacity"])
    assert 32 << 20 <= pool <= (memory or GIB) * 3 // 4
    assert 128 << 20 <= redo <= 16 * GIB
    assert 2 <= int(found["replica_parallel_workers"]) <= 16
    for name, value in found.items():
        assert settings.problem_with(name, value, memory) == ""


OUTPUT = """
06.3Z 0 [Warning] [MY-000081] [Server] option 'max_connections': unsigned value 0 adjusted to 1.
06.3Z 0 [ERROR] [MY-000077] [Server] /usr/sbin/mysqld: Error while setting value 'sql_mode' to 'optimizer_switch'.
06.3Z 0 [ERROR] [MY-000058] [Server] Unknown suffix 'a' used for variable 'innodb-buffer-pool-size' (value 'abc').
06.3Z 0 [ERROR] [MY-000067] [Server] unknown variable 'innodb_redo_log_capacity=32M'.
06.3Z 0 [ERROR] [MY-010119] [Server] Aborting
06.3Z 0 [Warning] [MY-010068] [Server] CA certificate 'max_connections' is self signed.
"""


def test_complaints_are_told_by_setting() -> None:
    names = {
        name.replace("-", "_"): name
        for name in (
            "max-connections",
            "sql_mode",
            "optimizer_switch",
            "innodb_buffer_pool_size",
            "innodb_redo_log_capacity",
        )
    }
    found = complaints(OUTPUT, names)
    assert found == {
        "max-connections": "option 'max_connections': unsigned value 0 adjusted to 1.",
        "optimizer_switch": "Error while setting value 'sql_mode' to 'optimizer_switch'.",
        "innodb_buffer_pool_size": "Unknown suffix 'a' used for variable 'innodb-buffer-pool-size' (value 'abc').",
    }
    unknown = "x 0 [ERROR] [MY-000067] [Server] unknown variable 'nope=1'."
    assert list(complaints(unknown, {"nope": "nope"})) == ["nope"]
    assert complaints("mysqld: something else\n", names) == {}
