"""Classes of settings, and the values a Database starts from. Pure.

Guarantees: what would break a promise of ours (archive, durability, identity, security) cannot be set by a user, and the
reason says why. What is not listed is RELOAD: whether it exists and takes a value is the server's to say, and whether it
waits for a restart the server reports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from yoban.plugins import ServerFacts, SettingClass, SettingRule

MIB = 1024 * 1024

PRELOAD_ALLOWED = frozenset(
    {
        "pg_stat_statements",
        "auto_explain",
        "pg_prewarm",
        "pg_cron",
        "pgaudit",
        "pg_hint_plan",
        "pg_partman_bgw",
        "timescaledb",
    }
)
"""Libraries that may be preloaded: known not to load code from places that a user can write to."""

SERVER_DEFAULTS = {
    "max_connections": 100,
    "max_worker_processes": 8,
    "max_wal_senders": 10,
    "max_prepared_transactions": 0,
    "max_locks_per_transaction": 64,
}
LOG_BOUND = frozenset(SERVER_DEFAULTS)
"""A replica stops replay when its value is lower than the primary's."""

_ARCHIVE = "the log is archived by the agent"
_RECOVERY = "recovery is asked for by bootstrap.restore"
_FOLLOW = "whom an instance follows is decided by the primary's Lease"
_IDENTITY = "it is part of where the instance is found"
_TLS = "certificates are made and rotated per instance"
_FILES = "files of the server are laid out by the operator"
_LIBRARY = "it would let the server load code from a place of the user's choice"
_LOSS = "it would lose committed data in a crash"
_COPY = "backups and replicas depend on it"
_LOGS = "the server's log goes to the container's output"
_SLOW = "each session of the agent would wait for it"
_DURABILITY = "durability is declared in spec.durability"

_FIXED: dict[str, str] = {
    "archive_mode": _ARCHIVE,
    "archive_command": _ARCHIVE,
    "archive_library": _ARCHIVE,
    "archive_timeout": "the growing end of the log is archived as it grows, without forced switches",
    "restore_command": _RECOVERY,
    "archive_cleanup_command": _RECOVERY,
    "recovery_end_command": _RECOVERY,
    "primary_conninfo": _FOLLOW,
    "primary_slot_name": _FOLLOW,
    "promote_trigger_file": _FOLLOW,
    "wal_receiver_create_temp_slot": _FOLLOW,
    "hot_standby": _COPY,
    "wal_receiver_status_interval": "how far a replica is, the primary and its commits learn by it",
    "wal_level": _COPY,
    "wal_log_hints": "a former primary rejoins by it",
    "track_commit_timestamp": "the recoverable window is told by commit times",
    "synchronous_standby_names": _DURABILITY,
    "listen_addresses": _IDENTITY,
    "port": _IDENTITY,
    "unix_socket_directories": _IDENTITY,
    "unix_socket_permissions": _IDENTITY,
    "unix_socket_group": _IDENTITY,
    "cluster_name": _IDENTITY,
    "external_pid_file": _FILES,
    "data_directory": _FILES,
    "config_file": _FILES,
    "hba_file": _FILES,
    "ident_file": _FILES,
    "include": _FILES,
    "include_dir": _FILES,
    "include_if_exists": _FILES,
    "stats_temp_directory": _FILES,
    "ssl": _TLS,
    "logging_collector": _LOGS,
    "log_destination": _LOGS,
    "log_directory": _LOGS,
    "log_filename": _LOGS,
    "log_file_mode": _LOGS,
    "event_source": _LOGS,
    "syslog_facility": _LOGS,
    "syslog_ident": _LOGS,
    "password_encryption": "passwords are kept as SCRAM verifiers",
    "allow_alter_system": "settings belong to the Database, which would overwrite them",
    "ignore_invalid_pages": "it hides damaged data",
    "zero_damaged_pages": "it destroys damaged data",
    "ignore_checksum_failure": "it hides damaged data",
    "allow_system_table_mods": "it can make the database unusable",
    "allow_in_place_tablespaces": _COPY,
    "full_page_writes": _LOSS,
    "fsync": _LOSS,
    "data_sync_retry": _LOSS,
    "recovery_init_sync_method": _LOSS,
    "restart_after_crash": "the supervisor counts on the server to come back by itself",
    "summarize_wal": "nothing uses it yet, and it would keep log that nobody clears",
    "sync_replication_slots": _FOLLOW,
    "synchronized_standby_slots": _FOLLOW,
}

_REFUSED: dict[str, str] = {
    "dynamic_library_path": _LIBRARY,
    "extension_control_path": _LIBRARY,
    "local_preload_libraries": _LIBRARY,
    "session_preload_libraries": _LIBRARY,
    "jit_provider": _LIBRARY,
    "oauth_validator_libraries": _LIBRARY,
    "krb_server_keyfile": _TLS,
    "db_user_namespace": "no session of the agent or of another instance could log in",
    "recovery_min_apply_delay": "a replica must be able to take over at once, and a restore must not wait",
    "pre_auth_delay": _SLOW,
    "post_auth_delay": _SLOW,
    "exit_on_error": "any error would end a session of the agent",
}

_FIXED_PREFIXES: dict[str, str] = {"recovery_target": _RECOVERY, "ssl_": _TLS}

RESTART = LOG_BOUND | frozenset(
    {
        "autovacuum_freeze_max_age",
        "autovacuum_max_workers",
        "autovacuum_multixact_freeze_max_age",
        "autovacuum_worker_slots",
        "bonjour",
        "dynamic_shared_memory_type",
        "huge_page_size",
        "huge_pages",
        "io_max_combine_limit",
        "io_max_concurrency",
        "io_method",
        "jit_provider",
        "max_active_replication_origins",
        "max_files_per_process",
        "max_logical_replication_workers",
        "max_notify_queue_pages",
        "max_pred_locks_per_transaction",
        "max_replication_slots",
        "min_dynamic_shared_memory",
        "multixact_member_buffers",
        "multixact_offset_buffers",
        "notify_buffers",
        "old_snapshot_threshold",
        "reserved_connections",
        "serializable_buffers",
        "shared_buffers",
        "shared_memory_type",
        "shared_preload_libraries",
        "subtransaction_buffers",
        "superuser_reserved_connections",
        "commit_timestamp_buffers",
        "track_activity_query_size",
        "transaction_buffers",
        "wal_buffers",
        "wal_decode_buffer_size",
    }
)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?")
_SIZE = re.compile(r"\s*(\d+)\s*(B|kB|MB|GB|TB)?\s*")
_UNITS = {"B": 1, "kB": 1024, "MB": MIB, "GB": 1024 * MIB, "TB": 1024 * 1024 * MIB}


def rule(name: str) -> SettingRule:
    """Return the class of a setting; names are not case sensitive, as for the server."""
    key = name.lower()
    if not _NAME.fullmatch(name):
        return SettingRule(SettingClass.REFUSED, "this is no name of a setting")
    if key in _FIXED:
        return SettingRule(SettingClass.FIXED, _FIXED[key])
    if key in _REFUSED:
        return SettingRule(SettingClass.REFUSED, _REFUSED[key])
    for prefix, why in _FIXED_PREFIXES.items():
        if key.startswith(prefix):
            return SettingRule(SettingClass.FIXED, why)
    if key in RESTART:
        return SettingRule(SettingClass.RESTART, replicas_first=key in LOG_BOUND)
    return SettingRule(SettingClass.RELOAD)


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
    if "\x00" in value or "\n" in value or "\r" in value:
        return "a value is a single line"
    key = name.lower()
    if key == "shared_preload_libraries":
        unknown = [item for item in libraries(value) if item not in PRELOAD_ALLOWED]
        if unknown:
            return (
                f"refused: {', '.join(unknown)} may not be preloaded; allowed are {', '.join(sorted(PRELOAD_ALLOWED))}"
            )
    if key == "shared_buffers" and memory:
        size = size_in_bytes(value, 8192)
        if size is not None and size > memory * 3 // 4:
            return f"{value} is more than three quarters of the container's memory ({memory // MIB} MB)"
    return ""


def contradictions(settings: Mapping[str, str]) -> dict[str, str]:
    """Return settings that contradict each other in a way that the server only finds when it starts."""
    low = {name.lower(): value for name, value in settings.items()}

    def number(name: str, default: int) -> int:
        try:
            return int(low.get(name, str(default)), 0)
        except ValueError:
            return default

    found: dict[str, str] = {}
    connections = number("max_connections", 100)
    reserved = number("superuser_reserved_connections", 3) + number("reserved_connections", 0)
    if reserved >= connections:
        name = next(
            (n for n in ("superuser_reserved_connections", "reserved_connections") if n in low), "max_connections"
        )
        found[name] = f"max_connections ({connections}) must be greater than the reserved connections ({reserved})"
    if number("superuser_reserved_connections", 3) < 3:
        found["superuser_reserved_connections"] = (
            f"{low['superuser_reserved_connections']} is too low: the agent needs 3 when clients have taken all others"
        )
    for name in ("max_wal_senders", "max_replication_slots"):
        if name in low and number(name, 10) < 4:
            found[name] = f"{low[name]} is too low: replicas, clones and backups need at least 4"
    return found


def conflicts_with_synchronous(settings: Mapping[str, str]) -> dict[str, str]:
    """Return settings that cannot be combined with `durability: synchronous`."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if name.lower() == "synchronous_commit" and value.strip().lower() not in (
            "on",
            "remote_apply",
            "true",
            "yes",
            "1",
        ):
            found[name] = f"{value} would acknowledge commits that no replica holds, but durability is synchronous"
    return found


def libraries(value: str) -> tuple[str, ...]:
    """Return the names in a list of libraries."""
    return tuple(item for item in (part.strip().strip('"') for part in value.split(",")) if item)


def size_in_bytes(value: str, unit: int) -> int | None:
    """Return a size in bytes; a bare number counts in `unit` bytes; None when it is none."""
    match = _SIZE.fullmatch(value)
    if match is None:
        return None
    return int(match[1]) * (_UNITS[match[2]] if match[2] else unit)


def defaults(facts: ServerFacts) -> dict[str, str]:
    """Return the settings that a Database starts from; sizes follow the container's limits."""
    major = int(facts.version.split(".")[0]) if facts.version.split(".")[0].isdigit() else 17
    memory = facts.memory or 1024 * MIB
    shared = max(min(memory // 4, 16 * 1024 * MIB), 32 * MIB)
    work = min(max(memory // 256, 4 * MIB), 64 * MIB)
    maintenance = min(max(memory // 16, 32 * MIB), 1024 * MIB)
    workers = max(8, int(facts.cpus) if facts.cpus else 8)
    found = {
        "shared_buffers": f"{shared // MIB}MB",
        "effective_cache_size": f"{max(memory * 3 // 4 // MIB, 64)}MB",
        "work_mem": f"{work // MIB}MB",
        "maintenance_work_mem": f"{maintenance // MIB}MB",
        "max_connections": "100",
        "max_worker_processes": str(workers),
        "max_wal_senders": str(max(10, 2 * facts.instances + 4)),
        "max_replication_slots": str(max(10, 2 * facts.instances + 4)),
        "max_wal_size": "1GB",
        "min_wal_size": "80MB",
        "wal_compression": "lz4" if major >= 15 else "on",
        "wal_keep_size": "128MB",
        "max_slot_wal_keep_size": "1GB",
        "checkpoint_timeout": "5min",
        "random_page_cost": "1.1",
        "effective_io_concurrency": "100",
        "log_checkpoints": "on",
        "log_lock_waits": "on",
        "log_temp_files": "10MB",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "log_timezone": "UTC",
        "timezone": "UTC",
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
        "wal_sender_timeout": "30s",
        "wal_receiver_timeout": "30s",
    }
    if facts.cpus:
        found["max_parallel_workers"] = str(max(1, int(facts.cpus)))
        found["max_parallel_workers_per_gather"] = str(max(0, min(4, int(facts.cpus) // 2)))
    return found
