from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yoban.plugins import Durability, DurabilityMode, Peer, ServerFacts, SettingClass
from yoban_postgres import settings
from yoban_postgres.catalogue import complaints
from yoban_postgres.configuration import (
    hba_text,
    ident_text,
    quote,
    quote_conninfo,
    raise_sizes,
    raise_to,
    shell_command,
    synchronous_names,
)

FIXED = [
    "archive_mode", "archive_command", "archive_library", "archive_timeout", "restore_command", "recovery_target",
    "recovery_target_time", "recovery_target_xid", "recovery_target_action", "primary_conninfo", "primary_slot_name",
    "listen_addresses", "port", "unix_socket_directories", "data_directory", "hba_file", "ident_file", "ssl",
    "ssl_key_file", "ssl_ca_file", "fsync", "full_page_writes", "wal_level", "hot_standby", "synchronous_standby_names",
    "log_destination", "logging_collector", "track_commit_timestamp", "Archive_Mode", "config_file", "wal_log_hints",
    "include_dir", "zero_damaged_pages", "wal_receiver_status_interval",
]  # fmt: skip
REFUSED = [
    "dynamic_library_path",
    "local_preload_libraries",
    "session_preload_libraries",
    "db_user_namespace",
    "Recovery_Min_Apply_Delay",
    "pre_auth_delay",
    "post_auth_delay",
    "exit_on_error",
    "a b",
    "x;y",
    "",
    "a.b.c",
    "a\nb",
]


@pytest.mark.parametrize("name", FIXED)
def test_what_we_fix_cannot_be_set(name: str) -> None:
    rule = settings.rule(name)
    assert rule.kind is SettingClass.FIXED and rule.why
    assert rule.why in settings.problem_with(name, "x")


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_break_a_promise_is_refused(name: str) -> None:
    rule = settings.rule(name)
    assert rule.kind is SettingClass.REFUSED and rule.why
    assert settings.problem_with(name, "x")


def test_restart_reload_and_the_order_of_roll_out() -> None:
    assert settings.rule("work_mem").kind is SettingClass.RELOAD
    assert settings.rule("some_extension.knob").kind is SettingClass.RELOAD
    assert settings.rule("shared_buffers").kind is SettingClass.RESTART
    assert not settings.rule("shared_buffers").replicas_first
    for name in ("max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions",
                 "max_locks_per_transaction"):  # fmt: skip
        assert settings.rule(name).kind is SettingClass.RESTART
        assert settings.rule(name).replicas_first


def test_values_that_show_without_a_server() -> None:
    assert settings.problem_with("shared_preload_libraries", 'pg_stat_statements, "auto_explain"') == ""
    assert "evil" in settings.problem_with("shared_preload_libraries", "pg_stat_statements, evil")
    assert "memory" in settings.problem_with("shared_buffers", "1GB", 1 << 30)
    assert settings.problem_with("shared_buffers", "256MB", 1 << 30) == ""
    assert settings.problem_with("shared_buffers", "98304", 1 << 30) == ""
    assert settings.problem_with("shared_buffers", "98305", 1 << 30) != ""
    assert "single line" in settings.problem_with("log_line_prefix", "a\nfsync = off")


def test_contradictions() -> None:
    assert settings.contradictions({"max_connections": "10"}) == {}
    assert "max_connections" in settings.contradictions({"max_connections": "3"})
    assert "superuser_reserved_connections" in settings.contradictions({"superuser_reserved_connections": "100"})
    assert "max_wal_senders" in settings.contradictions({"max_wal_senders": "0"})
    assert "agent" in settings.contradictions({"superuser_reserved_connections": "2"})["superuser_reserved_connections"]
    assert settings.contradictions({"superuser_reserved_connections": "3"}) == {}
    assert settings.conflicts_with_synchronous({"synchronous_commit": "OFF"}).keys() == {"synchronous_commit"}
    assert settings.conflicts_with_synchronous({"synchronous_commit": "remote_apply"}) == {}


@given(st.integers(0, 1 << 40), st.floats(0, 128), st.integers(1, 9), st.sampled_from(["14", "15", "18"]))
def test_defaults_are_allowed_and_fit_the_memory(memory: int, cpus: float, instances: int, version: str) -> None:
    found = settings.defaults(ServerFacts(version, memory, cpus, instances))
    for name, value in found.items():
        if memory == 0 or memory > 64 << 20:
            assert settings.problem_with(name, value, memory) == "", name
    assert settings.contradictions(found) == {}


def test_the_servers_words_are_given_to_the_right_setting() -> None:
    names = ["work_mem", "bogus", "log_statement"]
    output = (
        '2026 UTC [1] LOG:  invalid value for parameter "work_mem": "abc"\n'
        '2026 UTC [1] LOG:  unrecognized configuration parameter "bogus" in file "/x/c" line 2\n'
        '2026 UTC [1] LOG:  invalid value for parameter "log_statement": "zz"\n'
        "2026 UTC [1] HINT:  Available values: none, ddl, mod, all.\n"
        '2026 UTC [1] FATAL:  configuration file "/x/c" contains errors\n'
    )
    assert complaints(output, names) == {
        "work_mem": 'invalid value for parameter "work_mem": "abc"',
        "bogus": 'unrecognized configuration parameter "bogus"',
        "log_statement": 'invalid value for parameter "log_statement": "zz" (Available values: none, ddl, mod, all.)',
    }
    assert complaints('LOG:  syntax error in file "/x/c" line 3, near token "%"\n', names) == {
        "log_statement": 'syntax error, near token "%"'
    }
    assert complaints("FATAL:  out of memory\n", names) == {}


def test_texts_are_quoted() -> None:
    assert quote("it's \\") == "'it''s \\\\'"
    assert quote_conninfo("it's \\") == "'it\\'s \\\\'"
    assert shell_command(["/run it/ask", "50%", "a'b"], "%f", "%p") == """'/run it/ask' 50%% 'a'"'"'b' "%f" "%p\""""
    assert ident_text({"root", "postgres"}).splitlines()[1:] == ['yoban "postgres" postgres', 'yoban "root" postgres']
    rules = [line for line in hba_text().splitlines() if not line.startswith("#")]
    assert [line for line in rules if "trust" in line or "md5" in line] == []
    assert rules[-1] == "host all all all reject"


def test_synchronous_names() -> None:
    peers = [Peer("db-3", "c", 1), Peer('d"b', "b", 1)]
    assert synchronous_names(Durability(), peers) == ""
    assert synchronous_names(Durability(DurabilityMode.SYNCHRONOUS, 2), peers) == 'ANY 2 ("d""b", "db-3")'
    assert synchronous_names(Durability(DurabilityMode.SYNCHRONOUS, 1), []) == 'ANY 1 ("yoban-none")'


def test_sizes_and_bounds_are_raised_only_when_they_must() -> None:
    assert raise_to({"max_connections": "50"}, {"max_connections": 100}) == {"max_connections": "100"}
    assert raise_to({"max_connections": "150"}, {"max_connections": 100}) == {}
    assert raise_to({}, {"max_locks_per_transaction": 64, "max_worker_processes": 9}) == {"max_worker_processes": "9"}
    assert raise_sizes({"min_wal_size": "80MB"}, 64 << 20) == {"min_wal_size": "128MB"}
    assert raise_sizes({}, 16 << 20) == {}
    assert Path("x") != Path("y")
