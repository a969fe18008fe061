"""Classes of settings. Pure.

Guarantees: what would break a promise of ours (archive, durability, identity, security) cannot be set by a user, and the
reason says why. What is not listed is RELOAD: whether it exists and takes a value is the server's to say. Names are those
of system variables; the server reads `-` as `_`, and so do we.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from yoban.plugins import SettingClass, SettingRule

MIB = 1024 * 1024

_ARCHIVE = "the log is archived by the agent, and replicas follow by it"
_FOLLOW = "whom an instance follows is decided by the primary's Lease"
_OPEN = "the agent opens a server for writes when it holds the primary's Lease"
_IDENTITY = "it is part of where and as whom the instance is found"
_TLS = "certificates are made and rotated per instance, and connections are encrypted"
_FILES = "files of the server are laid out by the operator"
_LIBRARY = "it would let the server load code from a place of the user's choice"
_LOSS = "it would lose committed data in a crash"
_HIDES = "it hides or destroys damaged data"
_DURABILITY = "durability is declared in spec.durability"
_LOGS = "the server's log goes to the container's output"
_DIVERGE = "replicas would no longer be equal to the primary"
_ACCESS = "it would let users in without their password, or at files of the server"
_CONFIG = "it is chosen in engineConfig when the data is made"
_SETTINGS = "settings belong to the Database, which would overwrite them"
_CLEAN = "a clean stop proves what the log holds"

_FIXED: dict[str, str] = {
    "admin_address": _IDENTITY,
    "admin_port": _IDENTITY,
    "auto_generate_certs": _TLS,
    "basedir": _FILES,
    "bind_address": _IDENTITY,
    "binlog_checksum": _ARCHIVE,
    "binlog_encryption": "the archive reads the log; what it stores can be encrypted in the object store",
    "binlog_error_action": _LOSS,
    "binlog_expire_logs_auto_purge": "log goes only after it is stored",
    "binlog_expire_logs_seconds": "log goes only after it is stored",
    "binlog_format": _ARCHIVE,
    "binlog_gtid_simple_recovery": _ARCHIVE,
    "binlog_order_commits": _ARCHIVE,
    "binlog_rotate_encryption_master_key_at_startup": "the log is not encrypted by the server",
    "binlog_row_value_options": _ARCHIVE,
    "character_set_server": _CONFIG,
    "collation_server": _CONFIG,
    "create_admin_listener_thread": _IDENTITY,
    "datadir": _FILES,
    "default_storage_engine": "replicas and backups are made by copying InnoDB tables",
    "default_time_zone": _CONFIG,
    "default_tmp_storage_engine": "temporary tables are InnoDB's, too",
    "enforce_gtid_consistency": _ARCHIVE,
    "general_log_file": _FILES,
    "gtid_executed": _ARCHIVE,
    "gtid_executed_compression_period": _ARCHIVE,
    "gtid_mode": _ARCHIVE,
    "gtid_purged": _ARCHIVE,
    "innodb_data_file_path": _FILES,
    "innodb_data_home_dir": _FILES,
    "innodb_directories": _FILES,
    "innodb_doublewrite": _LOSS,
    "innodb_doublewrite_dir": _FILES,
    "innodb_fast_shutdown": _CLEAN,
    "innodb_flush_log_at_trx_commit": _LOSS,
    "innodb_log_group_home_dir": _FILES,
    "innodb_page_size": "it is the server's own for all instances",
    "innodb_temp_data_file_path": _FILES,
    "innodb_temp_tablespaces_dir": _FILES,
    "innodb_undo_directory": _FILES,
    "lc_messages_dir": _FILES,
    "character_sets_dir": _FILES,
    "log_bin": _ARCHIVE,
    "log_bin_basename": _ARCHIVE,
    "log_bin_index": _ARCHIVE,
    "log_error": _LOGS,
    "log_error_services": _LOGS,
    "log_replica_updates": _ARCHIVE,
    "log_slave_updates": _ARCHIVE,
    "log_timestamps": _LOGS,
    "lower_case_table_names": _CONFIG,
    "max_user_connections": "sessions of users leave connections for replicas and the agent; set max_connections",
    "mysqlx": "only the classic protocol is served",
    "persisted_globals_load": _SETTINGS,
    "pid_file": _FILES,
    "port": _IDENTITY,
    "read_only": _OPEN,
    "super_read_only": _OPEN,
    "offline_mode": _OPEN,
    "persist_only_admin_x509_subject": _SETTINGS,
    "persist_sensitive_variables_in_plaintext": _SETTINGS,
    "relay_log": _FOLLOW,
    "relay_log_basename": _FOLLOW,
    "relay_log_index": _FOLLOW,
    "relay_log_info_file": _FOLLOW,
    "relay_log_purge": _FOLLOW,
    "relay_log_recovery": "what a replica has confirmed and not applied yet would be thrown away",
    "report_host": _IDENTITY,
    "report_password": _IDENTITY,
    "report_port": _IDENTITY,
    "report_user": _IDENTITY,
    "require_secure_transport": _TLS,
    "server_id": _IDENTITY,
    "server_uuid": _IDENTITY,
    "skip_name_resolve": "accounts are known by name and certificate, never by where they come from",
    "skip_networking": _IDENTITY,
    "skip_replica_start": _FOLLOW,
    "skip_slave_start": _FOLLOW,
    "slow_query_log_file": _FILES,
    "socket": _IDENTITY,
    "sync_binlog": _LOSS,
    "sync_relay_log": _DURABILITY,
    "time_zone": _CONFIG,
    "tls_certificates_enforced_validation": _TLS,
    "tls_version": _TLS,
    "tmpdir": _FILES,
    "replica_load_tmpdir": _FILES,
    "slave_load_tmpdir": _FILES,
    "user": _FILES,
    "replica_preserve_commit_order": _ARCHIVE,
    "slave_preserve_commit_order": _ARCHIVE,
    "replica_sql_verify_checksum": _HIDES,
    "slave_sql_verify_checksum": _HIDES,
    "source_verify_checksum": _HIDES,
    "master_verify_checksum": _HIDES,
}

_REFUSED: dict[str, str] = {
    "allow_suspicious_udfs": _LIBRARY,
    "chroot": _FILES,
    "core_file": "memory, and the secrets in it, would be written to the volume",
    "early_plugin_load": _LIBRARY,
    "plugin_dir": _LIBRARY,
    "plugin_load": _LIBRARY,
    "plugin_load_add": _LIBRARY,
    "init_connect": "it would run in the sessions of replicas, too, and end those in which it fails",
    "init_file": "it would run statements as the superuser",
    "init_replica": "it would run statements as the superuser",
    "init_slave": "it would run statements as the superuser",
    "initialize": _FILES,
    "initialize_insecure": _FILES,
    "innodb_buffer_pool_filename": _FILES,
    "innodb_checksum_algorithm": _HIDES,
    "innodb_force_load_corrupted": _HIDES,
    "innodb_force_recovery": _HIDES,
    "innodb_log_checksums": _HIDES,
    "innodb_api_disable_rowlock": "it belongs to a plugin that is not loaded",
    "innodb_api_enable_binlog": "it belongs to a plugin that is not loaded",
    "innodb_api_enable_mdl": "it belongs to a plugin that is not loaded",
    "innodb_read_only": _OPEN,
    "innodb_dedicated_server": "the server would take the whole machine's memory for its own",
    "innodb_redo_log_encrypt": "it needs a keyring, which the operator does not set up",
    "innodb_undo_log_encrypt": "it needs a keyring, which the operator does not set up",
    "log_raw": "passwords would be written to the log as they are",
    "tc_heuristic_recover": "it commits or rolls back without regard to the log, which replicas and the archive follow",
    "keyring_file_data": "a keyring is not set up by the operator",
    "gtid_next": _ARCHIVE,
    "local_infile": "a server could be made to read files of its clients",
    "secure_file_priv": _ACCESS,
    "skip_grant_tables": _ACCESS,
    "skip_show_database": _ACCESS,
    "safe_user_create": _ACCESS,
    "mandatory_roles": _ACCESS,
    "partial_revokes": _ACCESS,
    "sql_log_bin": _DIVERGE,
    "sql_log_off": _DIVERGE,
    "replica_exec_mode": _DIVERGE,
    "slave_exec_mode": _DIVERGE,
    "replica_skip_errors": _DIVERGE,
    "slave_skip_errors": _DIVERGE,
    "sql_replica_skip_counter": _DIVERGE,
    "sql_slave_skip_counter": _DIVERGE,
    "binlog_do_db": _DIVERGE,
    "binlog_ignore_db": _DIVERGE,
    "disconnect_on_expired_password": _ACCESS,
    "validate_config": "the agent validates by it",
    "help": "it is no setting of a running server",
    "verbose": "it is no setting of a running server",
    "version": "it is no setting of a running server",
    "daemonize": "the supervisor watches the server",
    "upgrade": "an upgrade is asked for by spec.version",
    "no_defaults": _FILES,
    "defaults_file": _FILES,
    "defaults_extra_file": _FILES,
    "defaults_group_suffix": _FILES,
    "admin_ssl": _TLS,
}

_FIXED_PREFIXES: dict[str, str] = {
    "admin_ssl_": _TLS,
    "admin_tls_": _TLS,
    "authentication_": _ACCESS,
    "caching_sha2_password_": _TLS,
    "clone_": "copies are made by the agent",
    "group_replication": "the primary is chosen by the agents",
    "mysqlx_": "only the classic protocol is served",
    "replicate_": _DIVERGE,
    "rpl_semi_sync_": _DURABILITY,
    "sha256_password_": _TLS,
    "ssl": _TLS,
    "tls_": _TLS,
}

_UNSYNCED = ("littlesync", "nosync")
_UNSYNCED_NUMBERS = (2, 3)
"""Values of `innodb_flush_method`; the server takes them by number, and by the begin of their names, too."""

_NO_PREFIXES = ("disable_", "enable_", "loose_", "maximum_", "skip_")
"""Words by which an option file bends an option; variables are set by their own names."""

REPLICAS_FIRST = frozenset({"max_binlog_cache_size", "max_binlog_stmt_cache_size", "max_heap_table_size"})
"""A replica stops applying when its value is lower than what a transaction of the primary needed."""

RESTART = frozenset(
    {
        "back_log",
        "binlog_row_event_max_size",
        "disabled_storage_engines",
        "ft_max_word_len",
        "ft_min_word_len",
        "ft_query_expansion_limit",
        "ft_stopword_file",
        "innodb_adaptive_hash_index_parts",
        "innodb_autoinc_lock_mode",
        "innodb_buffer_pool_chunk_size",
        "innodb_buffer_pool_instances",
        "innodb_buffer_pool_load_at_startup",
        "innodb_doublewrite_batch_size",
        "innodb_doublewrite_files",
        "innodb_doublewrite_pages",
        "innodb_flush_method",
        "innodb_ft_cache_size",
        "innodb_ft_max_token_size",
        "innodb_ft_min_token_size",
        "innodb_ft_sort_pll_degree",
        "innodb_ft_total_cache_size",
        "innodb_native_foreign_keys",
        "innodb_numa_interleave",
        "innodb_open_files",
        "innodb_page_cleaners",
        "innodb_purge_threads",
        "innodb_read_io_threads",
        "innodb_rollback_on_timeout",
        "innodb_sort_buffer_size",
        "innodb_sync_array_size",
        "innodb_use_native_aio",
        "innodb_validate_tablespace_paths",
        "innodb_write_io_threads",
        "large_pages",
        "max_digest_length",
        "myisam_mmap_size",
        "myisam_recover_options",
        "ngram_token_size",
        "open_files_limit",
        "performance_schema",
        "relay_log_space_limit",
        "skip_external_locking",
        "table_open_cache_instances",
        "thread_handling",
        "thread_stack",
    }
)
_RESTART_PREFIXES = ("performance_schema_max_",)
_TAKEN_LIVE = frozenset({"performance_schema_max_digest_sample_age"})
_RESTART_SIZED = re.compile(r"performance_schema_\w+_size")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z][A-Za-z0-9_-]*)?")
_NUMBER = re.compile(r"\s*([+-]?\d+)\s*([KMGTPEkmgtpe]?)\s*")
_SHIFTS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}


def variable(name: str) -> str:
    """Return a setting's name as the server's variable of it."""
    return name.lower().replace("-", "_")


def rule(name: str) -> SettingRule:
    """Return the class of a setting; upper case and `-` make no difference."""
    if not _NAME.fullmatch(name):
        return SettingRule(SettingClass.REFUSED, "this is no name of a setting")
    key = variable(name)
    if key in _FIXED:
        return SettingRule(SettingClass.FIXED, _FIXED[key])
    if key in _REFUSED:
        return SettingRule(SettingClass.REFUSED, _REFUSED[key])
    sized = key.startswith(_RESTART_PREFIXES) or _RESTART_SIZED.fullmatch(key)
    if key in RESTART or (sized and key not in _TAKEN_LIVE):
        return SettingRule(SettingClass.RESTART, replicas_first=key in REPLICAS_FIRST)
    for prefix, why in _FIXED_PREFIXES.items():
        if key.startswith(prefix):
            return SettingRule(SettingClass.FIXED, why)
    if key.startswith(_NO_PREFIXES):
        return SettingRule(SettingClass.REFUSED, "a variable is set by its own name and a value")
    return SettingRule(SettingClass.RELOAD, replicas_first=key in REPLICAS_FIRST)


def problem_with(name: str, value: str, memory: int = 0) -> str:
    """Return what is wrong with a user's setting as far as it shows without a server; "" when nothing is.

    Args:
        name: name of the setting.
        value: its text.
        memory: limit of the container in bytes, 0 when there is none.
    """
    found = rule(name)
    if found.kind is SettingClass.REFUSED:
        return f"refused: {found.why}"
    if found.kind is SettingClass.FIXED:
        return f"set by the operator: {found.why}"
    if any(ord(one) < 32 for one in value):
        return "a value is a single line"
    if variable(name) == "performance_schema" and truth(value) is not True:
        return "refused: the server is observed by it"
    if variable(name) == "innodb_flush_method":
        word = value.strip().lower()
        if word and (number(word) in _UNSYNCED_NUMBERS or any(one.startswith(word) for one in _UNSYNCED)):
            return f"refused: {_LOSS}"
    if variable(name) == "innodb_buffer_pool_size" and memory:
        size = number(value)
        if size is not None and size > memory * 3 // 4:
            return f"{value} is more than three quarters of the container's memory ({memory // MIB} MB)"
    return ""


def doubled(settings: Mapping[str, str]) -> dict[str, str]:
    """Return settings that are given twice, as `max-connections` and `max_connections`."""
    seen: dict[str, str] = {}
    found: dict[str, str] = {}
    for name in sorted(settings):
        first = seen.setdefault(variable(name), name)
        if first != name:
            found[name] = f"it is the same as {first}, which is set too"
    return found


def number(value: str) -> int | None:
    """Return a whole number, with the suffixes that option files know; None when it is none."""
    match = _NUMBER.fullmatch(value)
    return int(match[1]) << _SHIFTS[match[2].lower()] if match else None


def truth(value: str) -> bool | None:
    """Return what a switch says, None when it is none."""
    return {"on": True, "1": True, "true": True, "off": False, "0": False, "false": False}.get(value.strip().lower())
